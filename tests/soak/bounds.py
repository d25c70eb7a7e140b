"""How far all-reduce may be from serial: its bound for the sum, and what becomes of that in everything that follows.

The sum of n branches is within n·2⁻²³·Σ|w·p|. Where nothing follows, that is the bound, element by element, with one
rounding. Where corrections and later steps follow, twins of the run tell how much they enlarge it. Twins play the same
moves in float64, one of them exactly, the others with the sum moved by the bound, up and down at random.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core import Needs, hookimpl
from soak.examples import Example, Move
from soak.host import by_name
from soak.player import Outcome, Player

TWINS = 3
ENLARGED = 4.0
"How much more than the twins a result may move: they try a few directions only."


@attrs.frozen
class Shaken:
    """Adds to the sum what it was told to."""

    by: dict[str, Tensor] = attrs.field(eq=False, repr=False)
    "By output."

    @hookimpl
    def build_branches(self, step):
        return [Needs(fixed=True)]

    @hookimpl
    def combine(self, step, predictions):
        return self.by[step.output]


class Twin(Player):
    """Plays in float64, with sums that are moved by their bound."""

    working = torch.float64

    def __init__(self, example: Example, signs: int) -> None:
        """Move by nothing where `signs` is 0, else in a direction of that number."""
        self.signs = torch.Generator().manual_seed(signs) if signs else None
        self.shaken = Shaken({})
        self.bound: dict[str, Tensor | None] = {}
        "Of the last step, by output, where nothing follows the sum."
        super().__init__(example, "serial", in_halves=True)

    def started(self, stack: Any, **changed: Any) -> Any:
        return super().started([self.shaken, *stack], **changed)

    def finished(self, plan: Any, made: dict[str, Any]) -> Any:
        working = torch.promote_types(self.example.predicted, torch.float32)
        by_branch = {branch: by_name(self.example, prediction) for branch, prediction in made.items()}
        for name, layout in plan.layout.outputs.items():
            weights = layout.weights(plan.samples[name])
            terms = [weight * by_branch[branch][name] for branch, weight in weights if not layout.held]
            total = sum(terms, start=torch.zeros_like(plan.samples[name]))
            bound = len(terms) * torch.finfo(working).eps * sum((term.abs() for term in terms), start=0 * total)
            following = [acting for acting in layout.all_acting if acting.plugin is not self.shaken]
            self.bound[name] = None if layout.held or following else bound
            if working != self.example.predicted:  # a result is rounded, and may be kept as it is
                bound = bound + torch.finfo(self.example.predicted).eps * total.abs()
            self.shaken.by[name] = self._signs(bound) * bound
        return plan.finish(made)

    def _signs(self, bound: Tensor) -> Any:
        if self.signs is None:
            return 0.0
        return torch.randint(0, 2, bound.shape, generator=self.signs).to(bound.dtype) * 2 - 1


class Bounds:
    """What the twins of an example tell of each move."""

    def __init__(self, example: Example) -> None:
        """Start the twins."""
        self.example = example
        self.twins = [Twin(example, signs) for signs in range(1 + TWINS)]

    def units(self, number: int, move: Move, mine: Outcome, serial: Outcome) -> float:
        """Return the largest error of a result, in units of what is allowed; play the move with the twins."""
        exact, *moved = [twin.play(number, move).result for twin in self.twins]
        if mine.result is None or serial.result is None or exact is None:
            return 0.0 if mine.digest == serial.digest else float("inf")
        largest = 0.0
        for name, given in mine.result.items():
            expected = serial.result[name].double()
            error, allowed = (given.double() - expected).abs(), self.twins[0].bound[name]
            info = torch.finfo(given.dtype)
            rounding = info.eps * (expected.abs() + info.smallest_normal)
            if allowed is None:
                away = torch.stack([(each[name] - exact[name]).abs() for each in moved if each is not None])
                own = 64 * torch.finfo(torch.promote_types(given.dtype, torch.float32)).eps
                allowed = ENLARGED * away.amax() + own * (1 + expected.abs().amax()) + rounding.amax()
            elif given.dtype in (torch.float16, torch.bfloat16):
                allowed = allowed + rounding
            units = torch.where(error == 0, 0.0, error / allowed).nan_to_num(nan=float("inf"))
            largest = max(largest, float(units.max()))
        return largest
