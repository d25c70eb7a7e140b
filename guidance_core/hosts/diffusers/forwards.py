"""The forward passes of one evaluation, and the arguments of a call of a model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from guidance_core.algebra.memory import copy_of
from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers.anatomy import unwrapped
from guidance_core.hosts.diffusers.perturbed import perturbed
from guidance_core.hosts.diffusers.translation import Translation
from guidance_core.steps.bound_branch import BoundBranch

Arguments = Mapping[str, Any]
"Of a call of the model, by name."


class Forwards:
    """The forward passes of one evaluation: a branch runs the model on the arguments of its condition."""

    def __init__(
        self, model: Any, conditions: Mapping[str, Arguments], translation: Translation, facts: Mapping[str, Any]
    ) -> None:
        self._model = model
        self.reuses_memory = bool(getattr(model, "reuses_memory", False))
        self._conditions = conditions
        self._translation = translation
        self._pattern = translation.pattern
        self._facts = facts

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one branch, with a cache of its own where the model has one."""
        given = {**branch.amend(self._conditions[branch.condition])}
        has_cache = hasattr(self._model, "cache_context")
        with (
            self._model.cache_context(branch.name, **self._facts) if has_cache else contextlib.nullcontext(),
            self._perturbed(branch) as arguments,
        ):
            made = self._model(**{**given, **arguments}, return_dict=False)
        predictions = self._translation.predictions(made)
        return predictions if self._pattern.outputs else predictions[0]

    def _perturbed(self, branch: BoundBranch) -> contextlib.AbstractContextManager[Arguments]:
        if self._pattern.flags is not None:
            return contextlib.nullcontext(self._pattern.flags(branch.perturbations, self._model))
        return perturbed(self._model, branch)


class StackedForwards(Forwards):
    """Those of a pipeline that hands over both conditions in one call; its plain passes can share a forward too."""

    def __init__(
        self,
        model: Any,
        conditions: Mapping[str, Arguments],
        translation: Translation,
        whole: Arguments,
    ) -> None:
        super().__init__(model, conditions, translation, {})
        self._whole = whole
        "The arguments of the pipeline's own call."

    def batch(self, branches: Sequence[BoundBranch]) -> list[Any]:
        """Run several branches: the plain ones of both conditions as the pipeline itself would, the others apart."""
        pair = self._pair(branches)
        made = dict(zip(pair, self._together(), strict=True)) if pair else {}
        copies = self.reuses_memory and len(branches) > max(len(pair), 1)
        if copies:
            made = {name: copy_of(each) for name, each in made.items()}
        for branch in branches:
            if branch.name not in made:
                prediction = self(branch)
                made[branch.name] = copy_of(prediction) if copies else prediction
        return [made[branch.name] for branch in branches]

    def _pair(self, branches: Sequence[BoundBranch]) -> tuple[str, ...]:
        """Return the names of the plain passes of both conditions in the order of the halves; none if there is one."""
        if getattr(self._model, "is_cache_enabled", False):  # which is one for each pass
            return ()
        plain: dict[str, str] = {}
        for branch in branches:
            if not (branch.perturbations or branch.edits or branch.also):
                plain.setdefault(branch.condition, branch.name)
        order = ("positive", "negative") if self._pattern.positive_first else ("negative", "positive")
        return tuple(plain[name] for name in order) if plain.keys() >= set(order) else ()

    def _together(self) -> list[Any]:
        """Return the predictions of both halves of the pipeline's own call."""
        predictions = self._translation.predictions(self._model(**self._whole, return_dict=False))
        halves = zip(*(each.chunk(2) for each in predictions), strict=True)
        return [each if self._pattern.outputs else each[0] for each in halves]


def by_name(model: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the names that the model's own `forward` gives them."""
    if not arguments:
        return dict(named)
    for each in unwrapped(model):
        signature = inspect.signature(type(each).forward)
        if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            given = dict(signature.bind(each, *arguments, **named).arguments)
            given.pop(next(iter(given)))
            return given
    raise ConfigurationError(
        f"the forward of {type(model).__name__} does not name its arguments, and it is called with some by position; "
        "give the pipeline the model that it wraps."
    )


def frozen(value: Any) -> Any:
    """Return a copy of dicts, lists and tuples, with the same tensors."""
    if type(value) is dict:
        return {name: frozen(each) for name, each in value.items()}
    return type(value)(map(frozen, value)) if type(value) in (list, tuple) else value
