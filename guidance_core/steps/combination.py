"""From the predictions of a step to its guided result, one output at a time.

    guided = cond + Σ strength·(cond − branch) + Σ deltas

then the corrections, each in the space it asked for. Everything is accumulated in float32 and
rounded once to the dtype of the predictions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import Term, Weight, accumulation_dtype, evaluate, is_blocked
from guidance_core.algebra.outputs import is_dense
from guidance_core.algebra.spaces import IDENTITY, Affine, Noise, affine
from guidance_core.algebra.unheld import all_by_leaves
from guidance_core.errors import PluginError
from guidance_core.methods.hooks import Implementation, around
from guidance_core.methods.moment import Moment, States
from guidance_core.methods.reference import BasePrediction, Measured, Multiply, Reference
from guidance_core.methods.requests import BASE
from guidance_core.methods.seen import Asked, Away, Predictions, written_out
from guidance_core.methods.step import Step
from guidance_core.methods.tracked import Tracked
from guidance_core.steps.layout import Acting, OutputLayout, largest_first
from guidance_core.steps.lent import Lent


@attrs.define(eq=False)
class Scene:
    """What guiding one output needs to know, beside the predictions."""

    layout: OutputLayout
    sample: Tensor
    moment: Moment
    state: States
    workspace: Workspace
    noise: Noise
    "The output's noise level."
    given: Collection[Tensor] = ()
    "The host's predictions, which lie in its memory."
    tracked: Tracked | None = None
    "The sample in the graph of the base prediction, where a method differentiates."
    like: Tensor | None = None
    "A prediction, where its shape is not the sample's."

    def owned(self, result: Tensor) -> Tensor:
        """Return a result, copied where it lies in memory that the host or the next step overwrites."""
        lent = Lent([*self.given, self.sample, *self.workspace.buffers])
        owned: Tensor = lent.apart(result, "the step")
        return owned

    def affine(self, source: str, target: str) -> Affine:
        """Return the conversion between two spaces at this noise level."""
        return affine(source, target, self.noise)

    def step(self, acting: Acting) -> Step:
        """Return the step that a hook gets."""
        name = acting.implementation.plugin
        tracked = self.tracked if acting.needs.gradient else None
        output, sample = self.layout.name, self.sample
        return Step(self.moment, name, acting.plugin, self.state, output, sample, None, self.noise, tracked, self.like)


class Workspace:
    """A run's float32 buffers for large guided predictions, reused from step to step.

    Fresh memory of that size costs more time in page faults than the arithmetic done in it.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, output: str, like: Tensor) -> Tensor:
        """Return a float32 buffer of the shape of `like`."""
        held = self._buffers.get(output)
        if held is None or held.shape != like.shape:
            with torch.inference_mode(False):  # it outlives the mode it is made in
                held = self._buffers[output] = torch.empty(like.shape, dtype=torch.float32, device=like.device)
        return held

    @property
    def buffers(self) -> Collection[Tensor]:
        """All of them."""
        return self._buffers.values()

    def leave(self) -> None:
        """Leave the buffers to whoever may hold one of them, and make new ones."""
        self._buffers = {}


def guide(scene: Scene, predictions: Mapping[str, Tensor]) -> Tensor:
    """Return the guided prediction of one output, `[B, ...]` in the dtype of its base prediction.

    Args:
        scene: the output's layout, its sample and its noise level.
        predictions: the output's prediction by branch, in the host's space.

    Raises:
        PluginError: a hook raised or returned something it may not.
        ConfigurationError: a strength does not broadcast, or a space cannot be reached.
    """
    layout, tracked = scene.layout, predictions
    if scene.tracked is not None:
        predictions = {branch: prediction.detach() for branch, prediction in predictions.items()}
    base = predictions[BASE]
    if base.shape != scene.sample.shape:
        scene.like = base
    center, away = layout.centered(predictions)
    terms: list[Term] = [(center, 1.0)]
    if layout.combining or layout.combine_wrappers:
        deltas, moves = _deltas(scene, predictions, tracked)
        terms += deltas
        if center is base:
            away = largest_first([*away, *moves])
        else:
            terms += [term for branch, strength in moves for term in ((base, strength), (branch, -strength))]
    return correct(scene, terms, away, base, base)


def correct(
    scene: Scene,
    terms: Sequence[Term],
    away: Sequence[Term],
    like: Tensor,
    base: Tensor | None,
    known: Mapping[Measured, Tensor] | None = None,
) -> Tensor:
    """Return a sum (in the host's space) after all corrections, in the dtype of `like`.

    Args:
        scene: the output's layout, its sample and its noise level.
        terms: predictions, sums and deltas with their weights.
        away: predictions to move away from, with their strengths.
        like: a tensor of the result's shape and dtype.
        base: the base prediction, where it is at hand.
        known: what is known of it where it is not.
    """
    layout, sample, noise = scene.layout, scene.sample, scene.noise
    own, space = scene.moment.run.prediction_type, layout.first_space
    if space is None:
        result = evaluate(terms, away=away, dtype=like.dtype)
        return scene.owned(result) if result is terms[0][0] else result
    buffer = scene.workspace.buffer(layout.name, like) if is_blocked(like) else None
    total = evaluate(terms, sample, IDENTITY if space == own else affine(own, space, noise), away=away, out=buffer)
    reference = BasePrediction(base, sample, own, noise, known, scene.moment.run.piece(layout.name))
    if layout.correct_wrappers:
        tensor, factor, space = _wrapped(scene, layout.correct_wrappers, (total, 1.0, space), reference)
    else:
        tensor, factor, space = _chained(scene, (total, 1.0, space), reference)
    result = evaluate([(tensor, factor)], sample, affine(space, own, noise), dtype=like.dtype)
    return scene.owned(result) if result is tensor else result


_Guided: TypeAlias = tuple[Tensor, Weight, str]
"A guided prediction on its way through the corrections: (tensor, factor, space) is `factor · tensor`, in `space`."


def _converted(scene: Scene, guided: _Guided, space: str) -> Tensor:
    tensor, factor, source = guided
    if source == space and type(factor) is float:
        return tensor
    return evaluate([(tensor, factor)], scene.sample, scene.affine(source, space))


def _wrapped(scene: Scene, wrappers: Sequence[Acting], guided: _Guided, base: BasePrediction) -> _Guided:
    """Run the chain of corrections inside its wrappers, the last of which is the outermost."""
    if not wrappers:
        return _chained(scene, guided, base)
    *inside, wrapper = wrappers
    space = wrapper.space
    tensor = _converted(scene, guided, space)
    result = around(
        wrapper.implementation,
        (scene.step(wrapper), tensor, Reference(base, wrapper.needs, space)),
        lambda: _converted(scene, _wrapped(scene, inside, (tensor, 1.0, space), base), space),
    )()
    if isinstance(result, Multiply) or result is None:
        raise wrapper.implementation.wrong("a tensor (a wrapper returns the corrected prediction itself)", result)
    _check_tensor(wrapper.implementation, result, tensor)
    return result, 1.0, space


def _chained(scene: Scene, guided: _Guided, base: BasePrediction) -> _Guided:
    tensor, factor, source = guided
    for acting in scene.layout.correcting:
        implementation, space = acting.implementation, acting.space
        if space != source or type(factor) is not float:
            tensor = _converted(scene, (tensor, factor, source), space)
        step = scene.step(acting)
        try:
            result = implementation.function(step, tensor, Reference(base, acting.needs, space))
        except Exception as error:
            raise implementation.failed(error) from error
        factor, source = 1.0, space
        if isinstance(result, Multiply):
            factor = _factor(implementation, result.factor, tensor, "Multiply")
        elif result is not None:
            _check_tensor(implementation, result, tensor)
            tensor = result
    return tensor, factor, source


def _deltas(
    scene: Scene, predictions: Mapping[str, Tensor], tracked: Mapping[str, Tensor]
) -> tuple[list[Term], list[Term]]:
    """Call every `combine` and return the deltas as terms of the sum in the host's space, and what to move away from.

    Those that differentiate see the `tracked` predictions, with the graph of their forward.
    """
    own = scene.moment.run.prediction_type
    converted: dict[tuple[str, str, bool], Tensor] = {}
    moves: list[Term] = []

    def visible(acting: Acting, step: Step) -> Predictions:
        space, differentiates = acting.space, acting.needs.gradient
        given, sample = predictions, scene.sample
        if differentiates and scene.tracked is not None:
            given, sample = tracked, scene.tracked.sample

        def convert(branch: str) -> Tensor:
            key = (space, branch, differentiates)
            found = converted.get(key)
            if found is None:
                prediction = given[branch]
                found = converted[key] = (
                    prediction.to(accumulation_dtype(prediction))
                    if space == own
                    else evaluate([(prediction, 1.0)], sample, scene.affine(own, space))
                )
            return found

        def measure(asked: Sequence[Asked]) -> list[Tensor]:
            if is_blocked(given[BASE]) and scene.moment.run.piece(scene.layout.name) is None:
                wanted = [(statistic, [given[branch] for branch in branches]) for statistic, *branches in asked]
                found = all_by_leaves(wanted, sample, scene.affine(own, space))
            else:
                found = [None] * len(asked)
            return [
                step.measure(statistic, *map(convert, branches)) if value is None else value
                for value, (statistic, *branches) in zip(found, asked, strict=True)
            ]

        return Predictions(acting.implementation.plugin, acting.branches, convert, measure)

    def moved(acting: Acting, away: Away, seen: Predictions) -> list[Term]:
        """Note the branches to move away from, and return the rest as terms; all as one tensor where it must be."""
        weights = _placed_weights(acting, away, predictions[BASE])
        if scene.layout.combine_wrappers or acting.needs.gradient:
            return [(written_out(weights, seen), scene.affine(acting.space, own).b)]
        moves.extend((predictions[branch], strength) for branch, strength in weights.strengths.items())
        if type(weights.base) is float and weights.base == 0.0:
            return []
        if acting.space == own:
            return [(predictions[BASE], weights.base)]
        return [(seen[BASE], weights.base * scene.affine(acting.space, own).b)]

    def added(wrappers: list[Acting]) -> list[Term]:
        callers = wrappers[-1:] or scene.layout.combining
        terms: list[Term] = []
        for acting in callers:
            space, step = acting.space, scene.step(acting)
            given = (step, seen := visible(acting, step))
            if wrappers:
                inside = wrappers[:-1]
                factor = scene.affine(own, space).b

                def inner(inside: list[Acting] = inside, factor: Weight = factor) -> Tensor | None:
                    within = added(inside)
                    return evaluate([(evaluate(within), factor)]) if within else None

                delta = around(acting.implementation, given, inner)()
            else:
                with torch.enable_grad() if acting.needs.gradient else nullcontext():
                    delta = acting.implementation(*given)
                if isinstance(delta, Away):
                    terms += moved(acting, delta, seen)
                    continue
                if acting.needs.gradient and isinstance(delta, Tensor):
                    delta = delta.detach()
            if delta is not None:
                _check_tensor(acting.implementation, delta, predictions[BASE])
                terms.append((delta, scene.affine(space, own).b))
        return terms

    return added(list(scene.layout.combine_wrappers)), moves


def _check_tensor(implementation: Implementation, result: Any, like: Tensor) -> None:
    is_floating = isinstance(result, Tensor) and result.is_floating_point()
    is_whole = is_floating and is_dense(result)
    if is_whole and result.shape == like.shape and result.device == like.device:
        return
    expected = f"a floating-point tensor of shape {tuple(like.shape)}, or None,"
    if is_whole:
        raise PluginError(
            f"plugin {implementation.plugin!r} must return {expected} on {like.device} from {implementation.hook}; "
            f"got shape {tuple(result.shape)} on {result.device}."
        )
    raise implementation.wrong(expected, result)


def _placed_weights(acting: Acting, away: Away, like: Tensor) -> Away:
    """Return the weights of an `Away` ready to be multiplied with a prediction."""
    unseen = [branch for branch in away.strengths if branch not in acting.branches or branch == BASE]
    if unseen:
        others = ", ".join(branch for branch in acting.branches if branch != BASE) or "none"
        raise acting.implementation.wrong(f"Away with branches that it sees ({others})", unseen[0])

    def placed(weight: Any) -> Weight:
        if isinstance(weight, Tensor):
            return _factor(acting.implementation, weight, like, "Away")
        if isinstance(weight, (int, float)) and not isinstance(weight, bool):
            return float(weight)
        raise acting.implementation.wrong("Away with numbers or tensors", weight)

    return Away({branch: placed(each) for branch, each in away.strengths.items()}, placed(away.base))


def _factor(implementation: Implementation, factor: Any, like: Tensor, kind: str) -> Tensor:
    if (
        isinstance(factor, Tensor)
        and is_dense(factor)
        and factor.ndim == like.ndim
        and (
            factor.numel() == 1 or all(size in (1, whole) for size, whole in zip(factor.shape, like.shape, strict=True))
        )
    ):
        if factor.dtype is (working := accumulation_dtype(like)):
            return factor
        if factor.dtype.is_floating_point:
            return factor.to(working)
    expected = f"{kind} with a floating-point tensor that broadcasts to {tuple(like.shape)}"
    raise implementation.wrong(expected, factor)
