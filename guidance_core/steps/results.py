"""From the predictions of a step to its results, one for each output, and the state that plugins leave behind."""

from __future__ import annotations

from torch import Tensor

from guidance_core.algebra.arithmetic import evaluate
from guidance_core.methods.moment import States, copied
from guidance_core.steps.combination import Scene, Workspace, correct, guide
from guidance_core.steps.held import HeldOutputs
from guidance_core.steps.lent import Lent
from guidance_core.steps.plan import Plan, Predictions, Sums


def results_of(
    plan: Plan, predictions: Predictions | Sums, held: HeldOutputs, workspace: Workspace
) -> tuple[dict[str, Tensor], States]:
    """Return the guided prediction of each output, and the state to keep; nothing of it lasts yet.

    Neither lies in memory of the host, or in the run's own buffers.

    Args:
        plan: the step.
        predictions: by output, then by branch; or their sums.
        held: the x0 of the outputs that the step holds.
        workspace: the run's buffers.
    """
    state = copied(plan.state) if plan.state else {}
    results = {}
    for name, layout in plan.layout.outputs.items():
        if layout.held:
            results[name] = held.result(plan, name)
        elif layout.is_plain and not isinstance(predictions, Sums):
            given = predictions[name]
            if layout.has_tensor_strengths:
                center, away = layout.centered(given)
            else:  # the same, without a call that would take 1 % of a step
                center, away = given[layout.center], [(given[branch], strength) for branch, strength in layout.away]
            result = evaluate([(center, 1.0)], away=away, dtype=center.dtype)
            results[name] = result.clone() if result is center else result
        elif isinstance(predictions, Sums):
            scene = Scene(layout, plan.samples[name], plan.moment, state, workspace, plan.noise[name])
            reference, known = predictions.references.get(name), predictions.statistics.get(name)
            terms = [(predictions.sums[name], 1.0)]
            results[name] = correct(scene, terms, [], predictions.like[name], reference, known)
        else:
            given, sample = predictions[name], plan.samples[name]
            tracked = plan.tracked.get(name) if plan.layout.differentiating else None
            scene = Scene(
                layout, sample, plan.moment, state, workspace, plan.noise[name], given.values(), tracked=tracked
            )
            results[name] = guide(scene, given)
    if state:
        gathered = {} if isinstance(predictions, Sums) else predictions
        of_host = [tensor for given in (plan.samples, *gathered.values()) for tensor in given.values()]
        lent = Lent([*of_host, *results.values(), *workspace.buffers])
        state = {name: lent.apart(states, f"plugin {name!r}") for name, states in state.items()}
        if lent.met_objects:
            workspace.leave()
    return results, state
