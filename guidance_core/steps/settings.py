"""What a run was started with, and what stands for it in its plans."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from guidance_core.algebra.comparable import fingerprint_of
from guidance_core.algebra.digest import digest, in_words
from guidance_core.algebra.spaces import PredictionType
from guidance_core.discovery import versions_of
from guidance_core.errors import brief
from guidance_core.methods.capabilities import Supports
from guidance_core.methods.noise import Seeds
from guidance_core.methods.split import Split
from guidance_core.parameters.settled import settle
from guidance_core.recipes import Chosen


@attrs.frozen(eq=False)
class RunSettings:
    """What a run was started with, checked."""

    conditions: Mapping[str, Mapping[str, Any] | None] | None
    sigmas: Mapping[str | None, tuple[float, ...]]
    "By output; under None where all outputs share one list."
    alphas: tuple[float, ...] | None
    prediction_type: PredictionType
    outputs: tuple[str, ...] | None
    check_finite: bool
    seeds: Seeds = attrs.field(factory=Seeds)
    supports: Supports | None = None
    "Returns why the host's model cannot run a pass, or None."
    shards: Split | None = None
    "Which outputs are pieces of longer ones."
    check_inputs: str = "first"
    "In which steps several ranks compare what they were given: `first`, `always` or `never`."
    given: Callable[[], Mapping[str, Any]] | None = None
    "Returns what else a host wants equal on all ranks, by name; called in the first step where there are several."
    trace: Callable[[Any], object] | None = None
    "Called with a record of each step."
    recipe: Chosen | None = None
    "What the methods were made from, if from a recipe."

    def check_recipe(self, outputs: tuple[str, ...] | None) -> None:
        """Raise `ConfigurationError` where the run is not one of the recipe's model; None is what is not known yet."""
        if self.recipe is not None:
            self.recipe.check_run(self.prediction_type, self.conditions, outputs)

    @property
    def blocks(self) -> Mapping[str, int] | None:
        """How many blocks the host's model has, by list of blocks, where it says so."""
        blocks: Mapping[str, int] | None = getattr(self.supports, "blocks", None)
        return blocks

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(next(iter(self.sigmas.values()))) - 1


@attrs.frozen(eq=False)
class RunIdentity:
    """Which run a plan belongs to: its number here, and what other processes can compare."""

    id: int
    "Number of the run, unique in the process."
    plugins: Mapping[str, Any]
    "The stack's plugins by name."
    settings: RunSettings
    turns: tuple[tuple[int, ...], ...] = ()
    "What ranks must have in common of a run that did not go on as usual: samples selected, a place resumed at."

    @functools.cached_property
    def fingerprint(self) -> tuple[int, int, int, int]:
        """What stands for the methods, the sigmas, the run's other settings, and the versions of what it is made by.

        Raises:
            ConfigurationError: a parameter cannot be compared between processes.
        """
        settings = self.settings
        named = sorted(name for name, inputs in (settings.conditions or {}).items() if inputs is not None)
        advice = "a field that is not a parameter has init=False and eq=False"
        methods = [
            fingerprint_of(f"plugin {name!r}", _parameters(plugin), advice) for name, plugin in self.plugins.items()
        ]
        sigmas = [settings.sigmas, settings.alphas]
        seeds = None if settings.seeds.is_drawn else settings.seeds
        others: list[Any] = [settings.prediction_type, settings.check_finite, settings.check_inputs]
        others += [settings.given is None, named, self.turns, seeds]
        others += [] if settings.shards is None else [settings.shards.dims, settings.shards.valid]
        return digest([*self.plugins, *methods]), digest(sigmas), digest(others), digest([self.versions])

    @property
    def versions(self) -> dict[str, str]:
        """The version of this library and of each plugin's distribution, by its name."""
        return versions_of(map(type, self.plugins.values()))

    @property
    def details(self) -> dict[str, str]:
        """Everything that is compared, by name, so that what two processes differ in can be shown."""
        settings = self.settings
        found = {"methods": ", ".join(self.plugins) or "none"}
        for name, plugin in self.plugins.items():
            found[f"class of {name}"] = f"{type(plugin).__module__}.{type(plugin).__qualname__}"
            for parameter, value in list(_parameters(plugin))[1:]:
                mark = fingerprint_of(f"plugin {name!r}", iter([(parameter, value)]), "") & 0xFFFFFFFF
                found[f"{parameter} of {name}"] = f"{in_words(value)} (#{mark:08x})"
        for output, levels in settings.sigmas.items():
            found["sigmas" if output is None else f"sigmas of {output}"] = _cut(
                ", ".join(f"{each:g}" for each in levels), 300
            )
        named = sorted(name for name, inputs in (settings.conditions or {}).items() if inputs is not None)
        shards = settings.shards
        return found | {
            "alphas": "none"
            if settings.alphas is None
            else _cut(", ".join(f"{each:g}" for each in settings.alphas), 300),
            "prediction type": settings.prediction_type,
            "check_finite": str(settings.check_finite),
            "check_inputs": settings.check_inputs,
            "given": "not given" if settings.given is None else "a function",
            "conditions": ", ".join(named) or "none",
            "selections and places": in_words(self.turns),
            "seeds": "drawn" if settings.seeds.is_drawn else in_words(settings.seeds),
            "shards": "none" if shards is None else in_words({"dims": dict(shards.dims), "valid": shards.valid}),
        }

    @property
    def summary(self) -> str:
        """What the run consists of, so that the texts of two processes show where they differ."""
        settings = self.settings
        methods = ", ".join(_method(name, plugin) for name, plugin in self.plugins.items())
        sigmas = "; ".join(", ".join(f"{level:.6g}" for level in levels) for levels in settings.sigmas.values())
        return (
            f"a run of {settings.count} steps with {_cut(methods, 550) or 'no methods'} "
            f"for {settings.prediction_type} predictions at sigmas {_cut(sigmas, 150)}"
        )


def _parameters(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Yield a plugin's class and its parameters: what it is made with, and what equality looks at."""
    yield "its class", type(plugin)
    for field in attrs.fields(type(plugin)):
        if field.init or field.eq:
            yield f"parameter {field.name!r}", getattr(plugin, field.name)


def _method(name: str, plugin: object) -> str:
    given = [
        f"{parameter}={_cut(brief(settled.value, 2000), 150)}"
        for parameter, settled in settle(plugin).items()
        if settled.origin == "given"
    ]
    return f"{name}({', '.join(given)})" if given else name


def _cut(text: str, longest: int) -> str:
    """Cut a text, with a mark that differs where what is cut off does."""
    return text if len(text) <= longest else f"{text[: longest - 20]}... (#{digest([text]) & 0xFFFFFFFF:08x})"
