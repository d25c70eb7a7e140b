"""What a guider's configuration says, read and checked value by value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from guidance_core.config.tables import from_json
from guidance_core.errors import ConfigurationError, brief

FIRST_STACKS = (None, "auto", "transformer_blocks", "blocks", "layers")
"Names of the first list of blocks of a model, which is the one that methods here count in."


def read_config(path: str | Path) -> Mapping[str, Any]:
    """Read a `guider_config.json`, or the one in a folder.

    Raises:
        ConfigurationError: there is no such file, or it is not a JSON object.
    """
    file = Path(path)
    file = file / "guider_config.json" if file.is_dir() else file
    try:
        data = from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not text in UTF-8.") from None
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{file} is not a guider's configuration, which is a JSON object; got {brief(data)}.")
    return data


@attrs.frozen
class Span:
    """A window of the run, as shares of the steps that are rounded down to whole steps."""

    start: float
    stop: float
    ends: str = "floored"

    @property
    def is_whole(self) -> bool:
        """Whether it holds every step."""
        return self.start == 0 and self.stop == 1 and self.ends == "floored"

    def lies_in(self, other: Span) -> bool:
        """Whether every step inside is inside another, floored one, however many steps there are."""
        return other.start <= self.start and self.stop <= other.stop


@attrs.frozen
class GuiderConfig:
    """The values of one guider, with its class's defaults; each is checked when it is asked for."""

    guider: str
    values: Mapping[str, Any]

    def number(self, name: str) -> float:
        """Return a finite number.

        Raises:
            ConfigurationError: it is something else.
        """
        return self._number(name, self.values[name])

    def numbers(self, name: str) -> list[float]:
        """Return one number or a list of them, as a list."""
        value = self.values[name]
        return [self._number(name, each) for each in value] if isinstance(value, list) else [self._number(name, value)]

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        value = self.values[name]
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def span(self, start: str = "start", stop: str = "stop", *, ends: str = "floored") -> Span:
        """Return the window that two shares of the steps make."""
        first, last = self.number(start), self.number(stop)
        if not 0 <= first < 1:
            raise self.wrong(start, "at least 0 and less than 1")
        if not first <= last <= 1:
            raise self.wrong(stop, f"from {start} to 1")
        return Span(first, last, ends)

    def whole(self, name: str) -> int:
        """Return a whole number that is not negative."""
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(name, "a whole number from 0")
        return value

    def of_hooks(self, settings: str, name: str, default: Any) -> Any:
        """Return what the settings of a guider's hooks say of one thing, which must be the same in all of them."""
        given = self.values[settings]
        hooks = [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, Mapping)]
        found = [hook.get(name, default) for hook in hooks] or [default]
        if any(each != found[0] for each in found):
            raise ConfigurationError(f"{self.guider}: {settings} has several values of {name}; one stack has one.")
        return found[0]

    def layers(self, name: str, settings: str, **expected: Any) -> list[int]:
        """Return the indices of the blocks that a guider changes, given as a list or as settings of its hooks.

        Args:
            name: of the list of indices.
            settings: of the settings, of which there may be several.
            expected: what else the settings must say, so that a method here does the same.

        Raises:
            ConfigurationError: neither is given, or the settings say something else.
        """
        if self.values[settings] is not None:
            given = self.values[settings]
            several = given if isinstance(given, list) else [given]
            if not several or not all(isinstance(each, Mapping) for each in several):
                raise self.wrong(settings, "the settings of a hook, or a list of them")
            found = [block for each in several for block in self._of_hook(settings, each, expected)]
        else:
            found = self._indices(name, self.values[name])
        return sorted(set(found))

    def wrong(self, name: str, allowed: str) -> ConfigurationError:
        """Return the error about a value that is not allowed."""
        return ConfigurationError(f"{self.guider}: {name} must be {allowed}; got {brief(self.values[name])}.")

    def _number(self, name: str, value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            number = float(value) if is_number else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.wrong(name, "a finite number")
        return number

    def indices(self, name: str) -> list[int]:
        """Return indices of blocks, given as one or as a list."""
        return self._indices(name, self.values[name])

    def _indices(self, name: str, value: Any) -> list[int]:
        several = value if isinstance(value, list) else [value]
        if not several or any(isinstance(each, bool) or not isinstance(each, int) or each < 0 for each in several):
            raise self.wrong(name, "one index of a block, or a list of them")
        return several

    def _of_hook(self, settings: str, hook: Mapping[str, Any], expected: Mapping[str, Any]) -> list[int]:
        """Return the indices in the settings of one hook, which must say what is expected."""
        if "indices" not in hook:
            raise self.wrong(settings, "settings with indices")
        if hook.get("fqn", "auto") not in FIRST_STACKS:
            raise ConfigurationError(
                f"{self.guider}: {settings} names the list of blocks {brief(hook['fqn'])}. The methods here count in a "
                "model's first list of blocks, so that this cannot be converted."
            )
        for key, (default, wanted) in expected.items():
            value = hook.get(key, default)
            if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
                raise ConfigurationError(
                    f"{self.guider}: {settings} has {key}={brief(value)}. A method here that does the same exists for "
                    f"{key}={wanted} only, so that this cannot be converted."
                )
        return self._indices(settings, hook["indices"])
