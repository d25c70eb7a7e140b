"""A sample's result depends on that sample alone."""

from __future__ import annotations

import math

import attrs
import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.case_runs import ROUNDING_ONLY, agree, only, played, steps_of
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, require
from guidance_core.errors import PluginError


@check(
    "batch-order",
    "Samples in another order give the results in that order.",
    draw=cases(batch=(2, 4), dtypes=("float64",)),
)
def batch_order(subject: Subject, case: Case) -> None:
    order = list(reversed(range(len(case.samples))))
    turned = attrs.evolve(case, samples=[case.samples[number] for number in order])
    agree(
        played(subject, turned),
        only(played(subject, case), order),
        f"With the samples in the order {order} a sample's result is another.",
        ulps=ROUNDING_ONLY,
    )


@check(
    "batch-mates",
    "A sample alone has the result that it has in a batch: no statistic runs over samples.",
    draw=cases(batch=(2, 3), dtypes=("float64",), long=12, crowd=5, large=True),
)
def batch_mates(subject: Subject, case: Case) -> None:
    together = played(subject, case)
    if subject.mixes_samples(case):
        _really_mixes(subject, case)
        return
    for number, sample in enumerate(case.samples):
        alone = played(subject, attrs.evolve(case, samples=(sample,)))
        agree(
            only(together, [number]),
            alone,
            f"Sample {number} has another result in a batch of {len(case.samples)} than alone (index counts from it): "
            "guidance_core.std, norm and inner are taken over a sample.",
            ulps=ROUNDING_ONLY,
        )


def _really_mixes(subject: Subject, case: Case) -> None:
    """Raise `Violation` if it says that samples are mixed, and they are not."""
    acting = (
        acting.implementation.plugin
        for layout in subject.start(case).layouts
        for output in layout.outputs.values()
        for acting in output.all_acting
    )
    if subject.name not in acting:
        return  # it is switched off
    alone = [played(subject, attrs.evolve(case, samples=(sample,))) for sample in case.samples]
    together = played(subject, case)
    same = all(
        torch.equal(torch.cat([each[step][output] for each in alone]), tensor)
        for step, named in enumerate(together)
        for output, tensor in named.items()
    )
    require(
        not same, f"{subject.cls.__name__}.mixes_samples says that samples are mixed with {case.parameters}; none is."
    )


class _OneIsNaN(Host):
    """The last sample's predictions are NaN."""

    def __call__(self, branch: object) -> object:
        named = self.case.named(super().__call__(branch))  # type: ignore[arg-type]
        for tensor in named.values():
            tensor[-1] = math.nan
        return self.case.structured(named)


@check(
    "nan-stays-in-its-sample",
    "A NaN in one sample's predictions leaves the other samples' results as they are.",
    draw=cases(batch=(2, 3), dtypes=("float64",)),
    share=0.5,
)
def nan_stays_in_its_sample(subject: Subject, case: Case) -> None:
    if subject.mixes_samples(case):
        return
    try:
        got = steps_of(subject.start(case), case, _OneIsNaN)
    except PluginError as error:
        if isinstance(error.__cause__, LinAlgError):
            raise NotApplicable("torch refuses to decompose what holds a NaN, so that none spreads") from None
        raise
    others = range(len(case.samples) - 1)
    agree(only(got, others), only(played(subject, case), others), "A NaN spread to another sample.", ulps=ROUNDING_ONLY)
    if subject.hooks.keys() != {"build_branches"} or subject.is_wrapper:
        return
    for step, named in enumerate(got):
        for output, tensor in named.items():
            require(
                bool(torch.isnan(tensor[-1]).all()),
                f"Step {step}, output {output!r}: the NaN of `cond` is gone from its own sample's result.",
            )
