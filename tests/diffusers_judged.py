"""How a guided pipeline of diffusers is judged: against its own guidance, its scheduler, formulas, ranks and counts.

python tests/diffusers_judged.py            the table of docs/diffusers-pipelines.md
python tests/diffusers_judged.py --write    write it into the page
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from every_pipeline import CASES
from small_pipelines import Case
from torch import Tensor

from guidance_core import Branch, Guidance, Needs, Perturbation, hookimpl
from guidance_core.hosts.diffusers import guide
from guidance_core.ranks import Ranks

PAGE = Path(__file__).parents[1] / "docs" / "diffusers-pipelines.md"
BEGIN, END = "<!-- pipelines -->", "<!-- end of pipelines -->"
WINDOW = "interval:lo=0.2,hi=0.7,by=fraction"


@attrs.frozen
class Watch:
    """Notes what the last correction of each evaluation sees, in x0 space and in the model's own."""

    space: str | None
    seen: list[Any] = attrs.field(factory=list, eq=False, repr=False)

    @hookimpl
    def build_branches(self, step):
        return [Needs(space=self.space)]

    @hookimpl
    def postprocess(self, step, guided, reference):
        self.seen.append((step.output, step.index, step.evaluation, step.sigma, guided.clone()))


@attrs.frozen
class Predictions:
    """Notes the predictions of both conditions, in the model's own space."""

    seen: list[tuple[str, Tensor, Tensor]] = attrs.field(factory=list, eq=False, repr=False)

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True), Needs()]

    @hookimpl
    def combine(self, step, predictions):
        self.seen.append((step.output, predictions["cond"].clone(), predictions["uncond"].clone()))


@attrs.frozen
class Named:
    """Notes the first predictions of a pass that is perturbed, one for each output."""

    perturbation: Perturbation
    seen: list[Tensor] = attrs.field(factory=list, eq=False, repr=False)

    @hookimpl
    def build_branches(self, step):
        return [Branch("perturbed", perturbations=(self.perturbation,), required=True)]

    @hookimpl
    def combine(self, step, predictions):
        if step.index == 0:
            self.seen.append(predictions["perturbed"].clone())


@attrs.frozen
class Taken:
    """A prediction as the scheduler got it, with the scheduler's own view of it."""

    output: Tensor
    sample: Tensor
    "As the model saw it."
    alpha: float
    sigma: float
    x0: Tensor
    "What the scheduler takes the prediction for."


@contextlib.contextmanager
def scheduler_watched(scheduler: Any) -> Iterator[list[Taken]]:
    """Note every `step` of schedulers of this class: formulas here are those of its source, not the library's."""
    kind, taken, counts = type(scheduler), [], {}
    own = kind.step

    @functools.wraps(own)
    def step(self, model_output, timestep, sample, *arguments, **named):
        count = counts.setdefault(id(self), 0)
        counts[id(self)] += 1
        taken.append(view(self, count, timestep, model_output, sample))
        return own(self, model_output, timestep, sample, *arguments, **named)

    kind.step = step
    try:
        yield taken
    finally:
        kind.step = own


def view(scheduler: Any, count: int, timestep: Any, output: Tensor, sample: Tensor) -> Taken:
    """Return what a scheduler makes of a prediction, in float64."""
    output, sample = output.double(), sample.double()
    config, name = scheduler.config, type(scheduler).__name__
    if not hasattr(scheduler, "sigmas"):  # DDIM
        alpha = float(scheduler.alphas_cumprod[int(timestep)]) ** 0.5
        sigma = (1 - alpha**2) ** 0.5
        x0 = (sample - sigma * output) / alpha
        if config.prediction_type == "v_prediction":
            x0 = alpha * sample - sigma * output
        return Taken(output, sample, alpha, sigma, x0)
    level = float(scheduler.sigmas[count + (scheduler.begin_index or 0)])
    if config.get("invert_sigmas"):  # Mochi: the scheduler counts the signal, and the model predicts towards it
        return Taken(-output, sample, level, 1 - level, sample + (1 - level) * output)
    if config.get("use_karras_sigmas"):  # Cosmos: the sample is x0 + s·ε, and its model sees it divided by 1 + s
        x0, seen, t = sample - level * output, sample / (1 + level), level / (1 + level)
        return Taken((seen - x0) / t, seen, 1 - t, t, x0)
    if "Flow" in name or config.get("use_flow_sigmas"):
        return Taken(output, sample, 1 - level, level, sample - level * output)
    scale = (level**2 + 1) ** 0.5
    if config.prediction_type == "v_prediction":
        x0 = output * (-level / scale) + sample / (level**2 + 1)
    else:
        x0 = sample - level * output
    return Taken(output, sample / scale, 1 / scale, level / scale, x0)


def made_by(case: Case, stack: Any, batch: int = 1, **options: Any) -> Any:
    """Return what a guided call of the case's pipeline returns."""
    return made_with(guide(case.pipeline(), stack, **options), **case.inputs(batch))


def own_result(case: Case, batch: int = 1) -> Any:
    """Return what the pipeline's own guidance gives."""
    return made_with(case.pipeline(), **case.inputs(batch), **case.own)


def made_with(pipe: Any, **named: Any) -> Any:
    """Return what a call returns, with the same noise each time; some pipelines draw more from torch's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pipe(**named, generator=torch.Generator().manual_seed(0), return_dict=False)


def tensors(made: Any) -> list[Tensor]:
    """Return the latents of a result: of video and of audio, where there are both."""
    values = made.values() if hasattr(made, "values") and not isinstance(made, Tensor) else made
    return [each for each in values if isinstance(each, Tensor)]


def apart(one: Any, other: Any) -> float:
    """Return the largest difference of two results, relative to the largest value."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@contextlib.contextmanager
def forwards_counted(case: Case) -> Iterator[tuple[Case, list[int]]]:
    """Yield the case with a pipeline whose models' forwards are noted, each with its rows."""
    rows: list[int] = []
    pipe = case.pipeline()

    def note(_: Any, arguments: Any, named: Any) -> None:
        names = ("hidden_states", "sample", "x")
        sample = arguments[0] if arguments else next(named[name] for name in names if named.get(name) is not None)
        rows.append(len(sample))

    models = [getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2")]
    hooks = [model.register_forward_pre_hook(note, with_kwargs=True) for model in models if model is not None]
    yield attrs.evolve(case, make=lambda: pipe), rows
    for hook in hooks:
        hook.remove()


# The judgements, each a number.


def against_own(case: Case, batch: int = 1) -> float:
    """(a) How far the latents are from those of the pipeline's own guidance."""
    return apart(made_by(case, case.spec, batch), own_result(case, batch))


def against_scheduler(case: Case) -> float:
    """(b) How far the library's x0 is from what the scheduler takes its result for.

    That depends on sigma, alpha, prediction type and sign at every evaluation.
    """
    watch = Watch("x0")
    with scheduler_watched(case.pipeline().scheduler) as taken:
        made_by(case, [*Guidance.from_spec(case.spec).plugins, watch])
    assert len(taken) == len(watch.seen) > 0
    return max(
        float((seen[-1].double().reshape(each.x0.shape) - each.x0).abs().max() / each.x0.abs().max())
        for seen, each in zip(watch.seen, taken, strict=True)
    )


def against_formulas(case: Case) -> float:
    """(c) How far two methods that are not linear, in x0 space, are from their formulas in float64."""
    largest = 0.0
    for spec, formula in (("cfg:scale=5,rescale:phi=0.7,space=x0", rescaled), ("apg:scale=6", projected)):
        given = Predictions()
        with scheduler_watched(case.pipeline().scheduler) as taken:
            made_by(case, [*Guidance.from_spec(spec).plugins, given])
        assert len(taken) == len(given.seen) > 0
        for (_, c, u), each in zip(given.seen, taken, strict=True):
            c, u = (to_x0(case, each, prediction.double().reshape(each.sample.shape)) for prediction in (c, u))
            expected = from_x0(case, each, formula(c, u))
            # in the units of the model's input, whose rounding every conversion between spaces carries
            error = each.sigma * (each.output - expected).abs().max() / each.sample.abs().max()
            largest = max(largest, float(error))
    return largest


def prediction_type(case: Case) -> str:
    """Return what the case's model predicts, as diffusers calls it; flow where its scheduler is one for it."""
    scheduler = case.pipeline().scheduler
    is_flow = "Flow" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas")
    return "flow" if is_flow else scheduler.config.prediction_type


def to_x0(case: Case, at: Taken, prediction: Tensor) -> Tensor:
    kind = prediction_type(case)
    sample = at.sample.reshape(prediction.shape)
    if kind == "flow":
        return sample - at.sigma * prediction
    if kind == "v_prediction":
        return at.alpha * sample - at.sigma * prediction
    return (sample - at.sigma * prediction) / at.alpha


def from_x0(case: Case, at: Taken, x0: Tensor) -> Tensor:
    kind = prediction_type(case)
    if kind == "flow":
        return (at.sample - x0) / at.sigma
    if kind == "v_prediction":
        return (at.alpha * at.sample - x0) / at.sigma
    return (at.sample - at.alpha * x0) / at.sigma


def rescaled(c: Tensor, u: Tensor) -> Tensor:
    """arXiv:2305.08891, eq. 15 and 16, after classifier-free guidance of scale 5."""
    guided = u + 5.0 * (c - u)
    dims = tuple(range(1, c.ndim))
    return guided * (0.7 * c.std(dims, keepdim=True) / guided.std(dims, keepdim=True) + 0.3)


def projected(c: Tensor, u: Tensor) -> Tensor:
    """arXiv:2410.02416, Alg. 1, with scale 6, without momentum and threshold."""
    d, dims = c - u, tuple(range(1, c.ndim))
    parallel = (d * c).sum(dims, keepdim=True) / (c * c).sum(dims, keepdim=True) * c
    return c + 5.0 * (d - parallel)


def passes(case: Case, stack: Any = None) -> int:
    """Return how many samples go through the model in a call: guided by a stack, or by its own guidance."""
    with forwards_counted(case) as (counted, rows):
        if stack is None:
            own_result(counted)
        else:
            made_by(counted, stack)
    return sum(rows)


def judged(case: Case, pool: Any) -> str:
    """Return the case's row of the table."""
    import diffusers_jobs  # which uses this module

    expected, forwards = diffusers_jobs.serially(case.name)
    found = pool.run(diffusers_jobs.on_ranks, case.name)
    ranks = "same bits" if [each[:2] for each in found] == [(expected, forwards // 2)] * 2 else "differs"
    own, limited, gated = passes(case), passes(case, f"{case.spec},{WINDOW}"), passes(case, f"{case.spec},gate:lo=0.5")
    return (
        f"| {case.name} | {case.mechanism} | `{case.spec}` | {against_own(case):.1e} | {against_scheduler(case):.1e} | "
        f"{against_formulas(case):.1e} | {ranks} | {own} | {limited} | {gated} |"
    )


def table() -> str:
    """Return the table as Markdown."""
    columns = ["pipeline", "its model gets", "the stack", "own guidance", "scheduler's x0", "formulas", "2 ranks"]
    columns += ["passes", "`interval`", "`gate`"]
    with Ranks(2, patience=120, imports=["diffusers", "transformers"]) as pool:
        rows = [judged(case, pool) for case in CASES]
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows])


def with_table(text: str, rows: str) -> str:
    """Return the page with the table between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{END} is missing"
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_table(PAGE.read_text(), table()))
    else:
        print(table())
