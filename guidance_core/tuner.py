"""Timing the executors on a host's own forwards, so that `AutoExecutor` can choose by what was measured.

Every executor makes the same steps of real runs, in two rounds, the second in reversed order. On several ranks all meet
before each step, a repeat takes as long as its slowest rank, and every rank ends with the same numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs
import torch
import torch.distributed as dist

from guidance_core.algebra.digest import PARTS, digest
from guidance_core.algebra.outputs import Structured, read_sample
from guidance_core.errors import ConfigurationError, RankLostError, brief, suggest
from guidance_core.executors.agreement import agreement_of
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.executors.base import Denoiser, Executor
from guidance_core.executors.clock import device_in, now
from guidance_core.executors.groups import resolve_group
from guidance_core.executors.placement import place_branches
from guidance_core.executors.records import START, Record, check_all_well, check_same_plan
from guidance_core.executors.together import set_aside, shared_error
from guidance_core.executors.tuned import executor_of
from guidance_core.executors.tuning import (
    TIMED,
    StepTimes,
    Timed,
    Tuning,
    device_of,
    forms_of,
    passes_fingerprint,
    stack_fingerprint,
)
from guidance_core.guidance import Guidance, Sigmas
from guidance_core.methods.capabilities import Supports
from guidance_core.methods.split import Split
from guidance_core.methods.stack import Stack
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.layout import Layout

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

LEAD = 2
"Steps at the beginning of a run that are not timed, where there are others: ranks agree twice in them."
ALIKE = 0.8
"Ranks at least this fast, the fastest being 1.0, count as equally fast: less is the noise of a measurement."
MOST_REPEATS = 1000
ON_RANKS = ("all_gather", "all_reduce")


def tune(
    guidance: Guidance,
    denoise: Denoiser,
    sample: Structured,
    *,
    conditions: Mapping[str, Mapping[str, Any] | None],
    sigmas: Sigmas | Mapping[str, Sigmas],
    prediction_type: str,
    alphas: Sigmas | float | None = None,
    outputs: Sequence[str] | None = None,
    may_rise: bool = False,
    seeds: int | Sequence[int] | torch.Tensor | None = None,
    supports: Supports | None = None,
    shards: Split | None = None,
    group: ProcessGroup | DeviceMesh | None = None,
    mesh_dim: str | int | None = None,
    executors: Sequence[str] = TIMED,
    repeats: int = 6,
) -> Tuning:
    """Time the executors once, on the host's own forward passes, and return the times.

    It times whole steps, one for each set of passes that a run of these sigmas has. In one process it times serial and
    batched; on several ranks also all_gather and all_reduce, each with and without `batched=True`. It leaves out
    executors that the denoiser or the stack does not support. Call it as your loop calls `step`: under
    `torch.no_grad()` or `inference_mode()`, and with the compiled model if you compile it.

    Args:
        guidance: the stack.
        denoise: runs one forward pass at any step: `branch.step` and `branch.sigma` say which.
        sample: a noisy sample of the form that runs will have. Every step gets it.
        conditions: as of `Guidance.start`.
        sigmas: as of `Guidance.start`.
        prediction_type: as of `Guidance.start`.
        alphas: as of `Guidance.start`.
        outputs: as of `Guidance.start`.
        may_rise: as of `Guidance.start`.
        seeds: as of `Guidance.start`.
        supports: as of `Guidance.start`.
        shards: as of `Guidance.start`.
        group: the ranks to use, as for `AutoExecutor`; by default the default group, if there is one. All ranks call
            `tune`.
        mesh_dim: as for `AutoExecutor`.
        executors: the executors to time, such as `("serial", "all_gather")`.
        repeats: how many times each kind of step is timed with each executor.

    Raises:
        ConfigurationError: an argument cannot be used, or there is nothing to time.
        GuidanceError: as in `Guidance.start` and `Run.step`, with a note that names the executor.
    """
    started = dist.is_available() and dist.is_initialized()
    over = resolve_group(group, mesh_dim) if started or group is not None else None
    given = {
        "conditions": conditions,
        "sigmas": sigmas,
        "prediction_type": prediction_type,
        "alphas": alphas,
        "outputs": outputs,
        "may_rise": may_rise,
        "seeds": 0 if seeds is None else seeds,
        "supports": supports,
        "shards": shards,
    }
    tuner = _Tuner(guidance, denoise, sample, given, over, {"group": group, "mesh_dim": mesh_dim})
    return tuner.measured(executors, repeats)


def _checked_names(given: Any) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not names:
        raise ConfigurationError(
            f"executors must be a list of names, such as ('serial', 'all_gather'); got {brief(given)}."
        )
    for name in names:
        if name not in TIMED:
            shown = brief(name, written=str)
            raise ConfigurationError(f"tune cannot time the executor {shown!r}.{suggest(shown, TIMED)}")
    return tuple(name for name in TIMED if name in names)


def _checked_repeats(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 2 <= given <= MOST_REPEATS:
        raise ConfigurationError(f"repeats must be a whole number from 2 to {MOST_REPEATS}; got {brief(given)}.")
    return given


@attrs.frozen
class _Kind:
    """Steps with the same passes, and where some stand in a row."""

    layout: Layout
    first: int
    count: int
    begin: int
    "Where a run begins that is to make them."

    @property
    def timed(self) -> range:
        """The steps that are timed in a run."""
        last = self.first + self.count - 1
        return range(max(min(self.begin + LEAD, last), self.first), last + 1)


def _kinds(layouts: Sequence[Layout]) -> list[_Kind]:
    """Return the longest row of each kind of step that has passes."""
    longest: dict[str, _Kind] = {}
    numbered = [(passes_fingerprint(layout) if layout.branches else "", i) for i, layout in enumerate(layouts)]
    for fingerprint, row in groupby(numbered, key=lambda each: each[0]):
        steps = [i for _, i in row]
        begin = max(steps[0] - LEAD, 0)
        while begin and layouts[begin].holds:  # what a step holds was made by one before it
            begin -= 1
        kind = _Kind(layouts[steps[0]], steps[0], len(steps), begin)
        if fingerprint and (fingerprint not in longest or longest[fingerprint].count < kind.count):
            longest[fingerprint] = kind
    return list(longest.values())


class _Stopwatch:
    """A denoiser that notes the fastest forward of each branch."""

    def __init__(self, denoise: Denoiser, device: torch.device) -> None:
        self._denoise = denoise
        self._device = device
        self.reuses_memory = getattr(denoise, "reuses_memory", False)
        self.best: dict[str, float] = {}

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one branch."""
        begun = now(self._device)
        made = self._denoise(branch)
        self.best[branch.name] = min(now(self._device) - begun, self.best.get(branch.name, float("inf")))
        return made


class _Tuner:
    """One measurement, on one of its ranks."""

    def __init__(
        self,
        guidance: Guidance,
        denoise: Denoiser,
        sample: Structured,
        given: Mapping[str, Any],
        group: ProcessGroup | None,
        over: Mapping[str, Any],
    ) -> None:
        self._guidance = guidance
        self._denoise = denoise
        self._sample = sample
        self._given = given
        self._over = over
        self._size = 1 if group is None else group.size()
        self._agreement = None if group is None or self._size == 1 else agreement_of(group)
        self._device = device_in(sample)
        self._speeds: tuple[float, ...] = ()
        self._executors: dict[Timed, Executor] = {}

    def measured(self, executors: Any, repeats: Any) -> Tuning:
        """Return the times of these executors."""
        can_batch = callable(getattr(self._denoise, "batch", None))
        names, repeats = self._agreed(lambda: (_checked_names(executors), _checked_repeats(repeats)), can_batch)
        serial = Timed("serial", 0.0, 0.0)
        run = self._started(serial)
        kinds = _kinds(run.layouts)
        if not kinds:
            raise ConfigurationError("there is nothing to tune: no step of this run has a pass.")
        watch = _Stopwatch(self._denoise, self._device)
        self._timed(serial, kinds, 1, watch)
        self._speeds = self._compared(sum(watch.best.values()))
        _, samples = read_sample(self._sample, run.settings.outputs, None, any_dtype=True)
        contenders = self._contenders(names, kinds, can_batch)
        for contender in contenders:
            if contender != serial:
                self._timed(contender, kinds, 1, self._denoise)
        times: dict[tuple[int, Timed], list[float]] = {}
        for turn, wanted in ((contenders, repeats - repeats // 2), (contenders[::-1], repeats // 2)):
            for contender in turn:
                for number, seconds in enumerate(self._timed(contender, kinds, wanted, self._denoise)):
                    times.setdefault((number, contender), []).extend(seconds)
        slowest = dict(zip(times, self._slowest(list(times.values())), strict=True))
        return Tuning(
            samples=forms_of(samples),
            devices=self._devices(device_of(samples)),
            torch=str(torch.__version__),
            stack=stack_fingerprint(run.identity.plugins),
            steps=tuple(
                StepTimes(
                    tuple(branch.name for branch in kind.layout.branches),
                    passes_fingerprint(kind.layout),
                    tuple(_summed_up(contender, slowest[number, contender]) for contender in contenders),
                )
                for number, kind in enumerate(kinds)
            ),
            speeds=self._speeds,
        )

    def _contenders(self, names: Sequence[str], kinds: Sequence[_Kind], can_batch: bool) -> list[Timed]:
        """Return the executors that the denoiser and the stack can use and that differ."""
        most = max(len(kind.layout.branches) for kind in kinds)
        placed = max(place_branches(kind.layout.branches, self._size, self._speeds).most for kind in kinds)
        found = []
        for name in names:
            if name in ON_RANKS and self._size == 1:
                continue
            if name == AllReduceExecutor.name and Stack.of(self._guidance.plugins).looking:
                continue
            if name == "batched":
                found += [Timed(name, 0.0, 0.0)] if can_batch and most > 1 else []
                continue
            found.append(Timed(name, 0.0, 0.0))
            if name in ON_RANKS and can_batch and placed > 1:
                found.append(Timed(name, 0.0, 0.0, batched=True))
        if not found:
            raise ConfigurationError(
                f"none of {', '.join(names)} can run this stack with this denoiser on {self._size} "
                f"{'rank' if self._size == 1 else 'ranks'}."
            )
        return found

    def _started(self, contender: Timed) -> Run:
        if contender not in self._executors:
            self._executors[contender] = executor_of(contender, self._size, self._over, self._speeds)
        return self._guidance.start(executor=self._executors[contender], **self._given)

    def _timed(self, contender: Timed, kinds: Sequence[_Kind], wanted: int, denoise: Denoiser) -> list[list[float]]:
        """Return the seconds of `wanted` steps of each kind."""
        try:
            return [self._timed_kind(contender, kind, wanted, denoise) for kind in kinds]
        except Exception as error:
            error.add_note(f"raised while tune timed {contender.label}; executors=(...) names those to time")
            raise

    def _timed_kind(self, contender: Timed, kind: _Kind, wanted: int, denoise: Denoiser) -> list[float]:
        seconds: list[float] = []
        while len(seconds) < wanted:
            run = self._started(contender)
            for index in range(kind.begin, min(kind.timed.stop, kind.timed.start + wanted - len(seconds))):
                self._meet()
                begun = now(self._device)
                run.step(index, self._sample, denoise)
                taken = now(self._device) - begun
                if index in kind.timed:
                    seconds.append(taken)
        return seconds

    # What the ranks tell each other.

    def _agreed(
        self, checked: Callable[[], tuple[tuple[str, ...], int]], can_batch: bool
    ) -> tuple[tuple[str, ...], int]:
        """Return the checked arguments, which all ranks share; an error on one is raised on all."""
        agreement = self._agreement
        if agreement is None:
            return checked()
        with agreement.shared.turns.taken():
            set_aside(agreement, "a tuning")
            try:
                names, repeats = checked()
            except Exception as error:
                raise shared_error(agreement, error, "tuning", START) from error
            what = f"a tuning of {', '.join(names)}, {repeats} repeats, "
            what += "with denoise.batch" if can_batch else "without denoise.batch"
            fingerprint = (0,) * (len(PARTS) - 1) + (digest([what]),)
            records = agreement.exchange(Record(fingerprint, (), what), START)
        check_all_well(records)
        check_same_plan(records)
        return names, repeats

    def _meet(self) -> None:
        if self._agreement is not None:
            _collective(self._agreement.group.barrier, "the ranks did not meet before a step")

    def _gathered(self, values: Sequence[float]) -> list[list[float]]:
        """Return every rank's numbers."""
        if self._agreement is None:
            return [list(values)]
        sent = torch.tensor(values, dtype=torch.float64, device="cpu")
        received = [torch.empty_like(sent) for _ in range(self._size)]
        group = self._agreement.group
        _collective(lambda: group.allgather([received], [sent]), "the times of the ranks did not arrive")
        return [each.tolist() for each in received]

    def _slowest(self, times: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return each repeat's time on its slowest rank."""
        by_rank = self._gathered([taken for each in times for taken in each])
        flat = iter([max(repeat) for repeat in zip(*by_rank, strict=True)])
        return [[next(flat) for _ in each] for each in times]

    def _compared(self, mine: float) -> tuple[float, ...]:
        """Return the ranks' speeds, from the seconds of all branches on each; none where they are alike."""
        totals = [total for (total,) in self._gathered([mine])]
        speeds = [min(totals) / total if total else 1.0 for total in totals]
        found = tuple(1.0 if speed >= ALIKE else round(max(speed, 0.01), 2) for speed in speeds)
        return found if min(found) < 1.0 else ()

    def _devices(self, mine: str) -> tuple[str, ...]:
        """Return the ranks' devices."""
        if self._agreement is None:
            return (mine,)
        records = self._agreement.exchange(Record(text=mine), START)
        check_all_well(records)
        return tuple(record.text for record in records)


def _summed_up(contender: Timed, seconds: Sequence[float]) -> Timed:
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return attrs.evolve(contender, seconds=statistics.median(seconds), spread=high - low)


def _collective(start: Callable[[], Any], what: str) -> None:
    """Wait for a collective of the control group; one that breaks is a lost rank."""
    try:
        start().wait()
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise RankLostError(f"{what}: {reason}. The group cannot be used any more; restart the ranks.") from error
