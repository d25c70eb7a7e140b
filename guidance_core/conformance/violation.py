"""What a failed check says: which values differ, where, and by how much."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Place:
    """Where two results differ first."""

    step: int
    output: str
    index: tuple[int, ...]
    "Of the first element that differs, batch first."
    got: float
    expected: float
    ulps: float
    "The difference in units in the last place of the result's dtype."
    allowed: float
    "The difference that is allowed there, in the same units."
    differing: int
    "How many elements differ by more than is allowed."
    elements: int
    rank: int | None = None

    def lines(self) -> list[str]:
        """Return what to print."""
        where = f"step {self.step}, output {self.output!r}, index {list(self.index)}"
        if self.rank is not None:
            where = f"rank {self.rank}, {where}"
        allowed = "0 (the same bits)" if self.allowed == 0 else f"{self.allowed:.3g} ulps"
        return [
            f"where      {where}",
            f"got        {self.got!r}",
            f"expected   {self.expected!r}",
            f"error      {self.ulps:.3g} ulps; allowed: {allowed}",
            f"elements   {self.differing} of {self.elements} differ by more",
        ]


class Violation(AssertionError):  # noqa: N818
    """A promise that does not hold for an example."""

    def __init__(self, what: str, place: Place | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.place = place

    def __str__(self) -> str:
        """Return it as text of several lines."""
        return "\n".join([self.what, *(self.place.lines() if self.place else [])])

    def __reduce__(self) -> Any:
        """Travel between processes."""
        return type(self), (self.what, self.place)


class NotApplicable(Exception):  # noqa: N818
    """A check says nothing about this plugin; the message says why."""


def require(condition: object, what: str) -> None:
    """Raise `Violation` unless `condition` holds."""
    if not condition:
        raise Violation(what)


def first_difference(got: Tensor, expected: Tensor, allowed: Tensor | float, *, step: int, output: str) -> Place | None:
    """Return the first place where two tensors differ by more than `allowed` (absolute), or None.

    Values that are both NaN, or the same infinity, are equal; without allowance, so are bits alone:
    0 and -0 count as equal.
    """
    one, other = got.double(), expected.double()
    error = (one - other).abs()
    limit = torch.as_tensor(allowed, dtype=torch.float64).expand_as(error)
    same = (one == other) | (one.isnan() & other.isnan())
    wrong = ~same & ~(error <= limit)
    if not bool(wrong.any()):
        return None
    index = tuple(int(number) for number in wrong.nonzero()[0])
    unit = ulp(max(abs(float(one[index])), abs(float(other[index]))), got.dtype)
    return Place(
        step=step,
        output=output,
        index=index,
        got=float(one[index]),
        expected=float(other[index]),
        ulps=float(error[index]) / unit,
        allowed=float(limit[index]) / unit,
        differing=int(wrong.sum()),
        elements=wrong.numel(),
    )


def ulp(value: float, dtype: torch.dtype) -> float:
    """Return the distance between floating-point numbers of `dtype` at `value`."""
    info = torch.finfo(dtype)
    if not math.isfinite(value):
        return math.inf
    size = max(value, info.smallest_normal)
    return info.eps * 2.0 ** math.floor(math.log2(size))
