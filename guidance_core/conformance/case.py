"""One example of a check: everything that a run consists of, drawn from a few numbers.

A case reads as the code that makes it, and gives the same tensors in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.digest import digest
from guidance_core.algebra.outputs import SINGLE, Structure
from guidance_core.algebra.spaces import Space
from guidance_core.errors import ConfigurationError
from guidance_core.methods.requests import BASE
from guidance_core.steps.bound_branch import BoundBranch

FILLS = ("normal", "constant", "zero", "zero others", "equal", "twice")
PREDICTION_TYPES: tuple[Space, ...] = ("flow", "x0", "epsilon", "v")
STRUCTURES = ("tensor", "tuple", "dict")


def _as_tuple(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _one_of(options: Sequence[str]) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value not in options:
            raise ConfigurationError(f"Case: {field.name} must be one of {', '.join(options)}; got {value!r}.")

    return check


@attrs.frozen(repr=False)
class Case:
    """One example: a run of a few steps whose sample and predictions are drawn from a seed."""

    samples: tuple[int, ...] = attrs.field(default=(0,), converter=_as_tuple)
    "The batch, a number for each sample: equal numbers are equal samples, wherever they stand."
    shape: tuple[int, ...] = attrs.field(default=(2,), converter=_as_tuple)
    "Shape of one sample of the first output, without the batch."
    same_shapes: bool = False
    "Whether further outputs have that shape too, not one whose last dimension is longer."
    steps: int = 1
    evaluations: int = 1
    "How often each step is evaluated: 2 as Heun's method does it, the second time at a noise level of its own."
    first: float = 0.95
    "The noise level of the first step. At 1 not every space can be reached."
    prediction_type: Space = attrs.field(default="flow", validator=_one_of(PREDICTION_TYPES))
    dtype: str = attrs.field(default="float32", validator=_one_of(("float16", "bfloat16", "float32", "float64")))
    structure: str = attrs.field(default="tensor", validator=_one_of(STRUCTURES))
    "How the host returns its outputs."
    outputs: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple)
    "Their names, where it is not one tensor."
    fill: str = attrs.field(default="normal", validator=_one_of(FILLS))
    "`constant`: no spread; `zero`: all is 0; `zero others`: all but `cond`; `equal`: every branch the same; "
    "`twice`: every other branch is twice `cond`."
    magnitude: float = 1.0
    seed: int = 0
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    "Parameters of the plugin that differ from those it is checked with."

    def __repr__(self) -> str:
        """Return the code that makes it: what differs from the defaults."""
        shown = []
        for field in attrs.fields(Case):
            value = getattr(self, field.name)
            default = {} if field.name == "parameters" else field.default
            if value != default:
                shown.append(f"{field.name}={value!r}")
        return f"Case({', '.join(shown)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs, also of a single one."""
        return self.outputs or (SINGLE,)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def sigmas(self) -> list[float]:
        """Noise levels: from the first down to 0.1, and the final 0."""
        fall = (self.first - 0.1) / max(self.steps - 1, 1)
        return [self.first - fall * step for step in range(self.steps)] + [0.0]

    @property
    def alphas(self) -> list[float] | None:
        """Signal levels where the prediction type does not imply them (variance preserving)."""
        if self.prediction_type in ("flow", "x0"):
            return [1 - sigma for sigma in self.sigmas]
        return [(1 - sigma**2) ** 0.5 for sigma in self.sigmas]

    @property
    def moments(self) -> list[tuple[int, dict[str, Any]]]:
        """The evaluations to make: the step, and the levels that are not the step's own."""
        made: list[tuple[int, dict[str, Any]]] = []
        for step in range(self.steps):
            made.append((step, {}))
            sigma, following = self.sigmas[step : step + 2]
            # Between the step's level and the next; in every second step above its own, as churn has it.
            sigma = min(1.2 * sigma, self.first) if step % 2 else 0.6 * sigma + 0.4 * following
            alpha = (1 - sigma**2) ** 0.5 if self.prediction_type in ("epsilon", "v") else 1 - sigma
            levels = {"sigma": sigma} if self.prediction_type == "flow" else {"sigma": sigma, "alpha": alpha}
            made += [(step, levels)] * (self.evaluations - 1)
        return made

    def shape_of(self, output: str) -> tuple[int, ...]:
        """Shape of one sample: that of a second output is another one, unless they are the same."""
        number = self.names.index(output)
        return self.shape if number == 0 or self.same_shapes else (*self.shape[:-1], self.shape[-1] + number)

    def sample(self, step: int) -> Any:
        """Return the noisy sample of a step, in the host's structure."""
        return self.structured({output: self.drawn("sample", step, output) for output in self.names})

    def prediction(self, branch: BoundBranch | str, step: int, evaluation: int = 0) -> Any:
        """Return the prediction of a branch, in the host's structure.

        It follows from what the pass is (condition, perturbations, overrides, model), not from its name.
        """
        key = branch if isinstance(branch, str) else key_of(branch)
        return self.structured({output: self._predicted(key, step, output, evaluation) for output in self.names})

    def named(self, value: Any) -> dict[str, Tensor]:
        """Return a structured value by output."""
        structure = Structure(self.structure, self.names)
        entries = structure.entries(value)
        if entries is None:
            raise structure.misfit(value, "the result", ConfigurationError)
        return dict(zip(self.names, entries, strict=True))

    def structured(self, named: dict[str, Tensor]) -> Any:
        """Return tensors by output in the host's structure."""
        return Structure(self.structure, self.names).restore(named)

    def _predicted(self, key: str, step: int, output: str, evaluation: int) -> Tensor:
        fill = self.fill
        if fill == "zero" or (fill == "zero others" and key != BASE):
            return torch.zeros((len(self.samples), *self.shape_of(output)), dtype=self.torch_dtype)
        if fill == "twice" and key != BASE:
            return 2 * self.drawn(BASE, step, output, evaluation)
        if fill == "constant":
            drawn = self.drawn(key, step, output, evaluation)
            return drawn.flatten(1)[:, :1].view(-1, *(1,) * len(self.shape_of(output))).expand_as(drawn).clone()
        return self.drawn(BASE if fill == "equal" else key, step, output, evaluation)

    def drawn(self, what: str, step: int, output: str, evaluation: int = 0) -> Tensor:
        """Draw a tensor for what it stands for; each sample has its own numbers."""
        shape = self.shape_of(output)
        rows = []
        for sample in self.samples:
            seed = digest([self.seed, sample, what, step, output, *([evaluation] if evaluation else [])])
            rows.append(torch.randn(shape, generator=torch.Generator().manual_seed(seed & (2**63 - 1))))
        return (self.magnitude * torch.stack(rows)).to(self.torch_dtype)


def key_of(branch: BoundBranch) -> str:
    """Return what stands for a pass: equal passes have equal keys, whatever their branches are called."""
    edits = digest(branch.edits) if branch.edits else ""
    return f"{unedited_key_of(branch)}{edits}"


def unedited_key_of(branch: BoundBranch) -> str:
    """Return what stands for a pass apart from the edits of its inputs, which may be others at each step."""
    inputs = dict(branch.inputs)
    condition = inputs.pop("condition", "")
    if condition == "positive" and not inputs and not branch.perturbations and branch.model is None:
        return BASE
    perturbations, beside = sorted(map(str, branch.perturbations)), sorted(branch.also)
    return f"{condition} {digest([inputs, perturbations, branch.model, *beside])}"


@attrs.frozen(eq=False)
class Pass:
    """One forward of a host."""

    branch: str
    key: str
    "What stands for its content."
    prediction: Any
    evaluation: int = 0
    rows: slice | None = None
    "The rows of the batch that were run, where not all."

    def again(self, case: Case, step: int) -> dict[str, Tensor]:
        """Return the prediction by output as it was made."""
        named = case.named(case.prediction(self.key, step, self.evaluation))
        return named if self.rows is None else {output: tensor[self.rows] for output, tensor in named.items()}


class Host:
    """The denoiser of a case at one step; it notes what it was asked for and what it returned."""

    takes_rows = True

    def __init__(self, case: Case, step: int) -> None:
        self.case = case
        self.step = step
        self.passes: list[Pass] = []

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one pass."""
        key = key_of(branch)
        with branch.differentiable():
            prediction = self._predicted(branch, key)
        if branch.rows is not None:
            named = {output: tensor[branch.rows] for output, tensor in self.case.named(prediction).items()}
            prediction = self.case.structured(named)
        self.passes.append(Pass(branch.name, key, prediction, branch.evaluation, branch.rows))
        return prediction

    def _predicted(self, branch: BoundBranch, key: str) -> Any:
        """Return the prediction; where a method differentiates, as a function of the sample with the gradient 1."""
        prediction = self.case.prediction(key, self.step, branch.evaluation)
        if not branch.tracked:
            return prediction
        named = self.case.named(prediction)
        samples = {output: branch.tracked[output].sample for output in named}
        moving = {output: (sample - sample.detach()).to(named[output].dtype) for output, sample in samples.items()}
        return self.case.structured({output: tensor + moving[output] for output, tensor in named.items()})

    def batch(self, branches: Sequence[BoundBranch]) -> list[Any]:
        """Run several."""
        return [self(branch) for branch in branches]
