"""The demonstrations: rows, one for each stack, made in this process, on ranks of its own, or on those of torchrun."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeAlias, TypeVar

import attrs
import torch
import torch.distributed as dist

from guidance_core.discovery import executor_class
from guidance_core.errors import ConfigurationError, GuidanceError, RankLostError, UnguidedWarning
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.models.drawing import Drawing, check_one_output
from guidance_core.models.keypad import read_prompt
from guidance_core.models.keypad_clips import PROMPTS, Clips, make_clips
from guidance_core.models.letters_drawing import SHOWN, check_characters, draw_letters
from guidance_core.models.mixture_drawing import Cloud, draw_mixture
from guidance_core.ranks import Ranks, torchrun_group, torchrun_size
from guidance_core.trace import Trace
from guidance_core.unpublished import stack_of

TIMEOUT = 60.0
"Seconds that ranks wait for one that does not answer."

Announce: TypeAlias = Callable[[str, int], Callable[[], object]]
"Called with a row's spec and its number of steps; returns what to call after each step."

Watch: TypeAlias = Callable[[], AbstractContextManager[Announce]]
"Makes what shows how far the drawing is; called on the first rank."


Row = TypeVar("Row")
"What a model makes with one stack."


@attrs.frozen
class Demo(Generic[Row]):
    """A picture to draw, with a row for each stack."""

    specs: tuple[str, ...]
    "A row for each."
    steps: int
    seed: int
    per_class: int | None
    "Samples of each character or prompt (none: the model's own number)."
    executor: str
    "Empty for `serial` in one process and `all_gather` on several ranks."
    ranks: int
    "Processes to start; under torchrun its own are used."
    traced: bool = False
    "Whether rows come with a trace of their steps."

    @property
    def size(self) -> int:
        """Number of ranks, those of torchrun included."""
        return torchrun_size() or self.ranks

    @property
    def chosen(self) -> str:
        """Name of the executor."""
        return self.executor or ("all_gather" if self.size > 1 else "serial")

    def check(self) -> None:
        """Raise `GuidanceError` for what cannot be drawn, before any process starts."""
        started = torchrun_size()
        check_ranks(self.ranks)
        if started is not None and self.ranks not in (1, started):
            raise ConfigurationError(
                f"torchrun started {started} ranks, which --ranks {self.ranks} cannot change; leave --ranks out."
            )
        check_executor(self.chosen, self.size)
        for spec in self.specs:
            self.check_stack(stack_of(spec))

    def settings(self, on_step: Callable[[], object]) -> dict[str, Any]:
        """What every model is given for a row."""
        return {
            "steps": self.steps,
            "seed": self.seed,
            "executor": self.chosen,
            "on_step": on_step,
            "trace": Trace() if self.traced else None,
        }

    def check_stack(self, guidance: Guidance) -> None:
        """Raise `GuidanceError` for a stack that the model cannot draw with, as far as it is known without drawing."""

    def row(self, spec: str, on_step: Callable[[], object]) -> Row:
        """Draw one row; `on_step` is called after each step."""
        raise NotImplementedError

    def draw(self, watch: Watch) -> list[Row]:
        """Return what each row shows; on the ranks of torchrun after the first, nothing.

        Raises:
            GuidanceError: a row cannot be drawn.
            SystemExit: on a rank of torchrun after the first, where the first one raises.
        """
        # More get in each other's way in models this small, and the last bits would depend on their number.
        torch.set_num_threads(1)
        if torchrun_size() is not None:
            with torchrun_group(TIMEOUT) as group:
                drawn = _on_rank(group, self, watch)
            if isinstance(drawn, GuidanceError) and group.rank() > 0 and not isinstance(drawn, RankLostError):
                raise SystemExit(2)
        elif self.ranks > 1:
            with Ranks(self.ranks, timeout=TIMEOUT, imports=[__name__]) as ranks:
                drawn = ranks.run(_on_rank, self, watch)[0]
        else:
            return _drawn(self, watch)
        if isinstance(drawn, GuidanceError):
            raise drawn
        return drawn


def check_ranks(ranks: int) -> None:
    """Raise `ConfigurationError` unless this machine can be expected to start so many ranks."""
    most = max(8, 4 * (os.cpu_count() or 1))
    if ranks < 1:
        raise ConfigurationError(f"--ranks must be at least 1; got {ranks}.")
    if ranks > most:
        raise ConfigurationError(
            f"--ranks {ranks} is more than this machine can start: at most {most} for {os.cpu_count()} processors."
        )


def check_executor(name: str, ranks: int) -> None:
    """Raise `ConfigurationError` unless an executor of that name exists and can use so many ranks."""
    cls = executor_class(name)
    if ranks == 1:
        return
    chooses = issubclass(cls, Executor) and cls.for_run is not Executor.for_run
    shares = issubclass(cls, Executor) and cls.place is not Executor.place
    if not chooses and not shares:
        raise ConfigurationError(
            f"the executor {name!r} does all the work in one process, so {ranks} ranks would each do the same; "
            "use all_gather, all_reduce or auto, or one process."
        )


@attrs.frozen
class PictureDemo(Demo[Drawing]):
    """Pictures of a model of one output: a column for each class."""

    def check_stack(self, guidance: Guidance) -> None:
        """Raise `ConfigurationError` for methods with values for several outputs."""
        check_one_output(guidance)


@attrs.frozen
class LettersDemo(PictureDemo):
    """Letters: a column for each character."""

    characters: str = SHOWN
    "What to draw."
    keep: tuple[int, ...] = ()
    "The steps whose estimates are kept."

    def check(self) -> None:
        """Raise `GuidanceError` for what cannot be drawn, before any process starts."""
        super().check()
        check_characters(self.characters)

    def row(self, spec: str, on_step: Callable[[], object]) -> Drawing:
        """Draw one row."""
        stack = stack_of(spec)
        settings = {"per_class": self.per_class or 4, "keep": self.keep, **self.settings(on_step)}
        return draw_letters(stack, characters=self.characters, **settings)


@attrs.frozen
class KeypadDemo(Demo[Clips]):
    """Clips of picture and sound: a column for each prompt."""

    prompts: tuple[str, ...] = PROMPTS

    def check(self) -> None:
        """Raise `GuidanceError` for what cannot be drawn, before any process starts."""
        super().check()
        for prompt in self.prompts:
            read_prompt(prompt)

    def row(self, spec: str, on_step: Callable[[], object]) -> Clips:
        """Make the clips of one row."""
        return make_clips(stack_of(spec), self.prompts, per_prompt=self.per_class or 20, **self.settings(on_step))


@attrs.frozen
class MixtureDemo(Demo[Cloud]):
    """Samples of a mixture in the plane: a panel for each stack."""

    def check_stack(self, guidance: Guidance) -> None:
        """Raise `ConfigurationError` for methods with values for several outputs."""
        check_one_output(guidance)

    def row(self, spec: str, on_step: Callable[[], object]) -> Cloud:
        """Draw the samples of one panel."""
        return draw_mixture(stack_of(spec), per_class=self.per_class or 500, **self.settings(on_step))


def _drawn(demo: Demo[Row], watch: Watch | None) -> list[Row]:
    if watch is None:  # the first rank tells of what all of them see
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnguidedWarning)
            return [demo.row(spec, lambda: None) for spec in demo.specs]
    with watch() as announce:
        return [demo.row(spec, announce(spec, demo.steps)) for spec in demo.specs]


def _on_rank(group: dist.ProcessGroup, demo: Demo[Row], watch: Watch) -> list[Row] | GuidanceError:
    """Draw as one of several ranks; return an error, and on the first rank what was drawn."""
    try:
        drawn = _drawn(demo, watch if group.rank() == 0 else None)
    except GuidanceError as error:
        return error
    return drawn if group.rank() == 0 else []
