"""What executors took on a host's own forwards: a record that is measured once and saved like a configuration."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.digest import digest
from guidance_core.config import tables
from guidance_core.errors import ConfigurationError, GuidanceError, SpecError, brief, suggest
from guidance_core.steps.layout import Layout

TABLE = "tuning"
EXACT = ("serial", "all_gather")
"The executors that give the same bits as serial, unless a rank's passes are batched."
TIMED = ("serial", "batched", "all_gather", "all_reduce")


def _check_seconds(owner: Any, field: attrs.Attribute[Any], value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise ConfigurationError(f"{field.name} must be a number of seconds, 0 or more; got {value!r}.")


@attrs.frozen
class Timed:
    """What a step took with one executor."""

    executor: str = attrs.field()
    "`serial`, `batched`, `all_gather` or `all_reduce`; on several ranks every rank runs all passes in the first two."
    seconds: float = attrs.field(validator=_check_seconds)
    "Median of the repeats, each of which took as long as its slowest rank."
    spread: float = attrs.field(validator=_check_seconds)
    "Seconds between the quartiles of the repeats."
    batched: bool = False
    "Whether each rank ran its passes in one forward."

    @executor.validator
    def _check_executor(self, _: Any, value: str) -> None:
        if value not in TIMED:
            raise ConfigurationError(f"there are no times of an executor {brief(value)}.{suggest(value, TIMED)}")

    @property
    def label(self) -> str:
        """The executor with its option."""
        return f"{self.executor}(batched=True)" if self.batched and self.executor != "batched" else self.executor

    @property
    def is_exact(self) -> bool:
        """Whether it gives the same bits as serial."""
        return self.executor in EXACT and not self.batched


@attrs.frozen
class StepTimes:
    """What steps with the same passes took, by executor."""

    passes: tuple[str, ...]
    "Names of the passes."
    fingerprint: str
    "Stands for all that they are."
    times: tuple[Timed, ...] = attrs.field()

    @times.validator
    def _check_times(self, _: Any, value: tuple[Timed, ...]) -> None:
        labels = [each.label for each in value]
        if not labels or len(set(labels)) < len(labels):
            raise ConfigurationError(
                f"a step's times are one for each executor, at least one; got {', '.join(labels) or 'none'}."
            )


@attrs.frozen
class SampleForm:
    """Form of one output's sample."""

    output: str
    shape: tuple[int, ...]
    dtype: str


@attrs.frozen
class Tuning:
    """The times of the executors for the steps of a stack, measured once by `tune` on the host's own forward passes.

        tuning = tune(guidance, denoise, sample, conditions=conditions, sigmas=sigmas, prediction_type="flow")
        run = guidance.start(..., executor=AutoExecutor(tuning=tuning, equality="bits"))

    It is written and read like a stack: `to_dict`, `to_json` and `to_toml`, and back to an equal tuning.
    """

    samples: tuple[SampleForm, ...] = attrs.field()
    devices: tuple[str, ...]
    "By rank."
    torch: str
    "Version."
    stack: str
    "Fingerprint of the methods, without their parameters."
    steps: tuple[StepTimes, ...] = attrs.field()
    "One for each kind of step: steps with different passes have different times."
    speeds: tuple[float, ...] = ()
    "The speed of each rank's forward passes, 1.0 for the fastest; empty if they are equally fast."

    @samples.validator
    def _check_samples(self, _: Any, value: tuple[SampleForm, ...]) -> None:
        if not value:
            raise ConfigurationError("a tuning names the form of its samples; this one names none.")

    @steps.validator
    def _check_steps(self, _: Any, value: tuple[StepTimes, ...]) -> None:
        if not value:
            raise ConfigurationError("this tuning is empty: it has times of no step. Measure one with tune(...).")
        kinds = [step.fingerprint for step in value]
        if len(set(kinds)) < len(kinds):
            raise ConfigurationError("this tuning has times of the same passes twice.")

    @property
    def ranks(self) -> int:
        """The number of ranks that it was measured on."""
        return len(self.devices)

    def __attrs_post_init__(self) -> None:
        """Check what concerns several fields."""
        if not self.devices:
            raise ConfigurationError("a tuning names a device for each rank; this one names none.")
        alone = [each.label for step in self.steps for each in step.times if each.label not in ("serial", "batched")]
        if self.ranks == 1 and alone:
            raise ConfigurationError(
                f"one rank runs serial and batched alone; this tuning has times of {alone[0]} there."
            )
        if self.speeds and len(self.speeds) != self.ranks:
            raise ConfigurationError(f"a tuning has one speed for each of {self.ranks} ranks; got {len(self.speeds)}.")
        if not all(math.isfinite(speed) and speed > 0 for speed in self.speeds):
            raise ConfigurationError(f"speeds must be larger than 0; got {brief(self.speeds)}.")

    def unfit(self, plugins: Mapping[str, Any], layouts: Sequence[Layout], ranks: int) -> str | None:
        """Return why it does not apply to a run of these steps on so many ranks; None if it does."""
        if ranks != self.ranks:
            return f"it was measured on {_counted(self.ranks, 'rank')}, and the run has {ranks}"
        if stack_fingerprint(plugins) != self.stack:
            return "it was measured with other methods"
        known = {step.fingerprint for step in self.steps}
        for layout in dict.fromkeys(layouts):
            if layout.branches and passes_fingerprint(layout) not in known:
                names = ", ".join(branch.name for branch in layout.branches)
                return f"it has no times of a step with these passes: {names}"
        return None

    def unfit_samples(self, samples: Mapping[str, Tensor], rank: int) -> str | None:
        """Return why it does not apply to such samples; None if it does."""
        given = forms_of(samples)
        if given != self.samples:
            return f"it was measured for {shown_forms(self.samples)}, and the sample is {shown_forms(given)}"
        device = device_of(samples)
        if device != self.devices[rank]:
            return f"it was measured on {self.devices[rank]}, and the sample is on {device}"
        return None

    def mean_seconds(self, layouts: Sequence[Layout]) -> dict[Timed, float]:
        """Return the mean time of these steps, fastest first, for each executor that has times of all of them.

        Each executor is given by its times of the first step.
        """
        by_kind = {step.fingerprint: {each.label: each for each in step.times} for step in self.steps}
        kinds = [by_kind[passes_fingerprint(layout)] for layout in layouts if layout.branches]
        if not kinds:
            return {}
        means = {
            timed: sum(kind[label].seconds for kind in kinds) / len(layouts)
            for label, timed in kinds[0].items()
            if all(label in kind for kind in kinds)
        }
        return dict(sorted(means.items(), key=lambda item: item[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` turns into an equal tuning, as the other written forms do."""
        return {TABLE: tables.without_tuples(attrs.asdict(self))}

    def to_json(self) -> str:
        """Return JSON text."""
        return tables.to_json(self.to_dict())

    def to_toml(self) -> str:
        """Return TOML text."""
        return tables.to_toml(self.to_dict())

    @classmethod
    def from_dict(cls, data: Any) -> Tuning:
        """Read a tuning from plain data.

        Raises:
            SpecError: the data does not have this form.
            ConfigurationError: a value is not allowed, or the tuning is empty.
        """
        tables.check_size(data)
        if not isinstance(data, Mapping) or set(data) != {TABLE}:
            raise SpecError(f'a tuning is a table under "{TABLE}"; got {brief(data)}.')
        try:
            read: Tuning = _converter().structure(data[TABLE], cls)
            return read
        except GuidanceError:
            raise
        except Exception as error:
            raise SpecError(f"this is not a tuning: {brief(error, written=str)}.") from None

    @classmethod
    def from_json(cls, text: str) -> Tuning:
        """Read a tuning from JSON text with the form of `from_dict`."""
        return cls.from_dict(tables.from_json(text))

    @classmethod
    def from_toml(cls, text: str) -> Tuning:
        """Read a tuning from TOML text with the form of `from_dict`."""
        return cls.from_dict(tables.from_toml(text))

    def __str__(self) -> str:
        """Return the times as text."""
        lines = [
            f"tuning     {shown_forms(self.samples)} on {_counted(self.ranks, 'rank')} "
            f"({', '.join(dict.fromkeys(self.devices))}), torch {self.torch}"
        ]
        if self.speeds:
            lines.append(f"speeds     {', '.join(f'{speed:g}' for speed in self.speeds)} by rank")
        for step in self.steps:
            lines.append(f"steps      with {', '.join(step.passes)}")
            for timed in sorted(step.times, key=lambda each: each.seconds):
                bits = "" if timed.is_exact else "  close to serial"
                lines.append(
                    f"             {timed.label:<24}{timed.seconds * 1e3:>10.3f} ms ± {timed.spread * 5e2:.3f}{bits}"
                )
        return "\n".join(lines)


def forms_of(samples: Mapping[str, Tensor]) -> tuple[SampleForm, ...]:
    """Return the form of each output's sample."""
    return tuple(
        SampleForm(name, tuple(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in samples.items()
    )


def shown_forms(forms: Sequence[SampleForm]) -> str:
    """Return forms in words."""
    return ", ".join(f"{each.output} {each.shape} {each.dtype}" for each in forms)


def device_of(samples: Mapping[str, Tensor]) -> str:
    """Return the kind of device that the samples are on, with its model where torch knows it."""
    device = next(iter(samples.values())).device
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def stack_fingerprint(plugins: Mapping[str, Any]) -> str:
    """Return what stands for the methods of a stack; their parameters count where they change the passes."""
    kinds = [(name, type(plugin).__module__, type(plugin).__qualname__) for name, plugin in plugins.items()]
    return _written(digest(kinds))


def passes_fingerprint(layout: Layout) -> str:
    """Return what stands for the passes of a step."""
    return _written(layout.fingerprint[0])


def _written(number: int) -> str:
    return f"{number & 0xFFFFFFFFFFFFFFFF:016x}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{brief(value)} is not text")
    return value


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{brief(value)} is not a number")
    return float(value)


def _int(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{brief(value)} is not a whole number")
    return value


def _bool(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{brief(value)} is neither true nor false")
    return value


@functools.cache
def _converter() -> Any:
    """Return what reads a tuning; made when it is first needed, so that importing the library stays quick."""
    import cattrs

    converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    for kind, read in ((str, _text), (float, _float), (int, _int), (bool, _bool)):
        converter.register_structure_hook(kind, read)
    return converter
