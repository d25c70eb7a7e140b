"""What a host's model can do, so that a stack that asks for more is refused before any forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.attention import SoftIdentityAttention
from guidance_core.methods.perturbations import Perturbation
from guidance_core.methods.requests import Branch

Supports: TypeAlias = Callable[[Branch], str | None]
"Gets a pass; returns None, or the reason why the model cannot run it."

ONLY = "blocks"
"The name of a model's only list of blocks."


def _as_kinds(given: type[Perturbation] | Iterable[type[Perturbation]]) -> tuple[type[Perturbation], ...]:
    kinds = given if isinstance(given, Iterable) else (given,)
    kinds = tuple(kinds)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Perturbation):
            raise ConfigurationError(
                f"Capabilities: perturbations must be classes such as guidance_core.SkipBlocks; got {brief(kind)}."
            )
    return kinds


def _as_counts(given: int | Mapping[str, int] | None) -> Mapping[str, int] | None:
    if given is None:
        return None
    counts = given if isinstance(given, Mapping) else {ONLY: given}
    for name, count in counts.items():
        if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(
                "Capabilities: blocks must be a number of blocks, or one for each list of blocks, such as "
                f"{{'double': 19, 'single': 38}}; got {brief(given)}."
            )
    return MappingProxyType(dict(counts))


def _as_names(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    names = given if given is None else (given,) if isinstance(given, str) else tuple(given)
    if names is not None and not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"Capabilities: models and also must be lists of names; got {brief(given)}.")
    return names


def _check_heads(_: Any, __: Any, given: Any) -> None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise ConfigurationError(f"Capabilities: heads must be the number of heads of attention; got {brief(given)}.")


@attrs.frozen(eq=False)
class Capabilities:
    """What a model can do, as a function for `guidance.start(supports=...)`.

    run = guidance.start(..., supports=Capabilities((SkipBlocks, SkipSelfAttention), blocks=28))
    """

    perturbations: tuple[type[Perturbation], ...] = attrs.field(default=(), converter=_as_kinds)
    "The classes of perturbations that it can make. A subclass of one of them does not count."
    blocks: Mapping[str, int] | None = attrs.field(default=None, converter=_as_counts)
    "The number of its blocks, in total or by list of blocks (`{'double': 19, 'single': 38}`); None if not known."
    models: tuple[str, ...] | None = attrs.field(default=(), converter=_as_names)
    "Names of the models that a branch may ask for, besides the step's own; None for any."
    also: tuple[str, ...] | None = attrs.field(default=(), converter=_as_names)
    "Names of the conditions that a pass may get, besides its own; None for any."
    heads: int | None = attrs.field(default=None, validator=_check_heads)
    "The number of heads of its attention; None if not known."

    def __call__(self, branch: Branch) -> str | None:
        """Return why the model cannot run a pass; None if it can."""
        for each in branch.perturbations:
            if type(each) not in self.perturbations:
                able = ", ".join(kind.__name__ for kind in self.perturbations) or "none"
                return f"the model cannot make the change {each}; it can make {able}"
            reason = self._misplaced(each) or self._without_head(each)
            if reason:
                return reason
        if branch.model is not None and self.models is not None and branch.model not in self.models:
            return f"there is no model {branch.model!r}; there is {', '.join(self.models) or 'only the usual one'}"
        for name in branch.also:
            if self.also is not None and name not in self.also:
                return f"the model cannot be given the condition {name!r} beside that of the pass"
        return None

    def _without_head(self, each: Perturbation) -> str | None:
        if self.heads is None or not isinstance(each, SoftIdentityAttention) or not each.heads:
            return None
        last = each.heads[-1]
        return (
            None
            if last < self.heads
            else f"{each} acts on head {last}, but the model has {self.heads} heads, counted from 0"
        )

    def _misplaced(self, each: Perturbation) -> str | None:
        if self.blocks is None:
            return None
        stack = each.stack if each.stack is not None else next(iter(self.blocks))
        if stack not in self.blocks:
            return f"{each} counts in {stack!r}, but the model's lists of blocks are {', '.join(self.blocks)}"
        last = max(each.blocks, default=0) if each.blocks else 0
        if last >= self.blocks[stack]:
            named = "" if stack == ONLY else f" in {stack!r}"
            count = f"{self.blocks[stack]} block{'' if self.blocks[stack] == 1 else 's'}"
            return f"{each} acts on block {last}, but the model has {count}{named}, counted from 0"
        return None
