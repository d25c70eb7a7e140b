"""What is found out about a stack: refused or not, finite, whether order matters, whether each method acts."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core import Guidance, GuidanceError
from pairs.host import play, play_on_ranks
from pairs.usual import BENEATH, NAMES, POINTLESS, made, of

ACTS = 1e-4
"Relative: by how much a method must change what the others give; rounding changes 1e-6."
ORDER = 1e-5
"Relative: how far two orders of methods that only add may lie apart."
TRIPLES = 100

Stack = tuple[str, ...]


@attrs.frozen(eq=False)
class Verdict:
    """What is known of a few methods together."""

    names: Stack
    refused: str | None = None
    "The reason, if no order of them can be used."
    refused_at: str = ""
    "`construction` or `start`."
    finite: bool = True
    order: float = 0.0
    "Relative: how far the results of any two orders lie apart."
    adds_only: bool = True
    idle: Stack = ()
    "Methods that change nothing here, in any order."

    @property
    def in_order(self) -> bool:
        """Whether it matters which is given first."""
        return self.order > ORDER


def pairs() -> list[Stack]:
    """Return every two shipped methods, and each with itself."""
    return list(itertools.combinations_with_replacement(NAMES, 2))


def triples() -> list[Stack]:
    """Return some three, the same every time, of which any two compose."""
    left_out = {pair for pair in pairs() if judged(pair).refused} | set(POINTLESS)
    whole = [each for each in itertools.combinations(NAMES, 3) if not left_out & set(itertools.combinations(each, 2))]
    return sorted(random.Random(0).sample(whole, min(TRIPLES, len(whole))))


def whole_stack(names: Sequence[str]) -> Stack:
    """Return the stack to run: with plain guidance beneath where all act on others only, or one spares passes."""
    every, whole = [of(name) for name in names], (BENEATH, *names)
    spares = BENEATH not in names and any(each.spares for each in every) and _constructed(whole) is None
    return whole if spares or not any(each.acts_alone for each in every) else tuple(names)


def adds_only(name: str) -> bool:
    """Whether a method's hooks do nothing but ask for branches and return deltas."""
    cls = type(made(name))
    hooks = [getattr(cls, hook, None) for hook in ("build_branches", "combine")]
    wraps = any(getattr(hook, "guidance_core_impl", {}).get("wrapper") for hook in hooks if hook)
    return not wraps and not hasattr(cls, "postprocess")


@functools.cache
def played(stack: Stack) -> Tensor | GuidanceError:
    """Return what a stack draws in one process, or why it is refused before any forward."""
    return play(stack)


@functools.cache
def judged(names: Stack) -> Verdict:
    """Find out how some methods go together."""
    orders = list(dict.fromkeys(whole_stack(each) for each in itertools.permutations(names)))
    results = [played(each) for each in orders]
    drawn = [each for each in results if isinstance(each, Tensor)]
    if not drawn:
        reason = _constructed(orders[0])
        at = "start" if reason is None else "construction"
        return Verdict(names, refused=reason or str(results[0]), refused_at=at)
    idle = [each for each in dict.fromkeys(names) if not _is_excused(each, names) and not _acts(each, names, orders)]
    apart = max((_apart(one, other) for one, other in itertools.combinations(drawn, 2)), default=0.0)
    return Verdict(
        names,
        finite=all(bool(each.isfinite().all()) for each in drawn),
        order=apart if len(drawn) == len(results) else float("inf"),
        adds_only=all(map(adds_only, names)),
        idle=tuple(idle),
    )


def on_ranks(pool: Any, stacks: Sequence[Stack], ranks: int) -> list[str]:
    """Return the stacks whose result on several ranks is not that of one process, bit for bit, with the difference.

    Those that differentiate through the model must be refused there, by name.
    """
    found = pool.run(play_on_ranks, list(stacks), ranks=ranks)
    wrong = []
    for rank, results in enumerate(found):
        for stack, result in zip(stacks, results, strict=True):
            expected = played(stack)
            differentiating = [name for name in stack if of(name).differentiates]
            if isinstance(expected, GuidanceError):
                same = isinstance(result, str)
            elif isinstance(result, str) or differentiating:
                same = isinstance(result, str) and any(f"plugin {name!r} differ" in result for name in differentiating)
            else:
                same = torch.equal(result, expected)
            if not same:
                what = result if isinstance(result, str) else "other bits"
                wrong.append(f"{', '.join(stack)} on rank {rank} of {ranks}: {what}")
    return wrong


def _constructed(stack: Sequence[str]) -> str | None:
    """Return why a stack cannot be made, or None."""
    try:
        Guidance([made(name) for name in stack])
    except GuidanceError as error:
        return str(error)
    return None


def _acts(name: str, names: Stack, orders: Sequence[Stack]) -> bool:
    """Whether a method changes what the others give, in an order of them at least."""
    if names.count(name) > 1:
        return True
    for stack in orders:
        without, full = played(tuple(each for each in stack if each != name or _is_beneath(each, names))), played(stack)
        if isinstance(full, Tensor) and (isinstance(without, GuidanceError) or _apart(full, without) > ACTS):
            return True
    return False


def _is_excused(name: str, names: Stack) -> bool:
    """Whether another method sets the same thing, and may leave this one nothing to do."""
    return bool(of(name).sets) and any(of(each).sets == of(name).sets for each in names if each != name)


def _is_beneath(name: str, names: Stack) -> bool:
    return name == BENEATH and name not in names


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
