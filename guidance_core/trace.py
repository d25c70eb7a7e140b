"""What a run's steps did, in numbers: for authors and engines that want to see a method at work.

trace = Trace()
run = guidance.start(..., trace=trace)
...
print(trace)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import accumulation_dtype
from guidance_core.algebra.statistics import inner, norm
from guidance_core.executors.clock import now
from guidance_core.methods.requests import BASE
from guidance_core.steps.plan import Plan, Predictions

NEGATIVE = "negative"
"The condition from whose branch the cosine and the strength are taken."

Numbers = tuple[float, ...]
"One for each sample of the batch."


@attrs.frozen
class OutputTrace:
    """One output in a step, in the prediction type of the denoiser; `c` is the base prediction.

    With `all_reduce`, a process has only its own predictions, and with `split_rows` only some of their rows: values
    that need others are None, and missing from `apart`. In a sharded run, values are those of this rank's piece.
    """

    base_norm: Numbers | None
    "‖c‖; also None if the output keeps its last x0."
    result_norm: Numbers
    "‖guided‖."
    apart: Mapping[str, Numbers]
    "‖c − branch‖ by branch."
    cosine: Numbers | None
    "The cosine of c − u with c, where u is a branch with the negative condition; 0 if one of them is 0."
    effective_strength: Numbers | None
    "⟨guided − c, c − u⟩ / ‖c − u‖²: how far the result moved away from u. For CFG alone this is scale − 1."


@attrs.frozen
class StepTrace:
    """One evaluation of a run."""

    run: int
    "Number of the run, equal to `run.id`."
    step: int
    evaluation: int
    "How many times the step was evaluated before."
    sigma: float
    "Noise level (of the first output, if they differ)."
    passes: tuple[str, ...]
    "Names of the step's passes."
    own_passes: tuple[str, ...]
    "Those of this process."
    seconds: float | None
    "Time from the plan to the predictions of this process. None if other steps were planned in between."
    outputs: Mapping[str, OutputTrace]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return attrs.asdict(self)


class Trace:
    """Collects the records of one or several runs. `str()` returns them as a table, with means over the batch."""

    def __init__(self) -> None:
        self.records: list[StepTrace] = []

    def __call__(self, record: StepTrace) -> None:
        """Keep a record."""
        self.records.append(record)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[StepTrace]:
        return iter(self.records)

    def __getitem__(self, number: int) -> StepTrace:
        return self.records[number]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {"steps": [record.to_dict() for record in self.records]}

    def __str__(self) -> str:
        """Return a table: a row for each output of each step."""
        apart = list(
            dict.fromkeys(name for each in self.records for out in each.outputs.values() for name in out.apart)
        )
        head = ["step", "sigma", "passes", "ms", "output", "|c|", "|guided|"]
        head += [f"|c-{name}|" for name in apart] + ["cos(c-u, c)", "strength"]
        rows = [head]
        for record in self.records:
            again = f".{record.evaluation}" if record.evaluation else ""
            place = [f"{record.step}{again}", f"{record.sigma:.4g}", str(len(record.passes))]
            for name, out in record.outputs.items():
                found = [out.base_norm, out.result_norm, *map(out.apart.get, apart), out.cosine, out.effective_strength]
                ms = "-" if record.seconds is None else f"{record.seconds * 1e3:.2f}"
                rows.append([*place, ms, name, *map(_mean, found)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _mean(numbers: Numbers | None) -> str:
    return "-" if not numbers else f"{sum(numbers) / len(numbers):.4g}"


class Tracer:
    """Times a run's forwards and makes its records."""

    def __init__(self, tell: Callable[[StepTrace], object]) -> None:
        self.tell = tell
        self._begun: tuple[Plan | None, float] = None, 0.0
        self._seconds: float | None = None

    def begin(self, plan: Plan) -> None:
        """Note that the plan's forwards begin."""
        self._begun = plan, now(_device(plan))

    def end(self, plan: Plan) -> None:
        """Note that they have ended."""
        of, begun = self._begun
        self._seconds = now(_device(plan)) - begun if of is plan else None

    def record(self, plan: Plan, made: Predictions, results: Mapping[str, Tensor]) -> StepTrace:
        """Return the record of a step, from the predictions that this process has and the guided ones."""
        with torch.no_grad():
            outputs = {name: _traced(plan, name, made.get(name, {}), result) for name, result in results.items()}
        return StepTrace(
            run=plan.identity.id,
            step=plan.index,
            evaluation=plan.moment.evaluation,
            sigma=plan.sigma,
            passes=tuple(branch.name for branch in plan.branches),
            own_passes=tuple(branch.name for branch in plan.own_branches),
            seconds=self._seconds,
            outputs=outputs,
        )


def _device(plan: Plan) -> torch.device:
    return next(iter(plan.samples.values())).device


def _traced(plan: Plan, output: str, given: Mapping[str, Tensor], result: Tensor) -> OutputTrace:
    rows, held = plan.samples[output].shape[0], plan.layout.outputs[output].held
    whole = {} if held else {name: each for name, each in given.items() if each.shape[0] == rows}
    base = whole.get(BASE)
    if base is None:
        (only,) = _read([norm(_wide(result))])
        return OutputTrace(None, only, {}, None, None)
    c, guided = _wide(base), _wide(result)
    names = [branch.name for branch in plan.branches if branch.name in whole and branch.name != BASE]
    away = next((each.name for each in plan.branches if each.condition == NEGATIVE and each.name in names), None)
    wanted = [norm(c), norm(guided), *(norm(c - _wide(whole[name])) for name in names)]
    if away is not None:
        apart = c - _wide(whole[away])
        wanted += [inner(apart, c), inner(guided - c, apart)]
    base_norm, result_norm, *others = _read(wanted)
    by_name = dict(zip(names, others, strict=False))
    if away is None:
        return OutputTrace(base_norm, result_norm, by_name, None, None)
    along, moved = others[len(names) :]
    length = by_name[away]
    cosine = tuple(_over(one, a * b) for one, a, b in zip(along, length, base_norm, strict=True))
    return OutputTrace(
        base_norm, result_norm, by_name, cosine, tuple(_over(one, a * a) for one, a in zip(moved, length, strict=True))
    )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(accumulation_dtype(tensor))


def _read(statistics: Sequence[Tensor]) -> list[Numbers]:
    """Return statistics of every sample as numbers, waiting for the device once."""
    return [tuple(row) for row in torch.stack([each.reshape(-1) for each in statistics]).tolist()]


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
