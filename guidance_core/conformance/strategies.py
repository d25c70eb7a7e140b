"""How hypothesis draws cases for a subject: the simplest first, so that failures shrink towards it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from hypothesis import strategies as st

from guidance_core.conformance.case import PREDICTION_TYPES, Case
from guidance_core.conformance.subject import Subject
from guidance_core.errors import ConfigurationError

LARGE = (4, 48, 64)
"Beyond 4,096 and 8,192 elements, where some methods change to another way of computing."


def cases(
    *,
    batch: tuple[int, int] = (1, 3),
    steps: tuple[int, int] = (1, 3),
    types: Sequence[str] = PREDICTION_TYPES,
    dtypes: Sequence[str] = ("float32",),
    fills: Sequence[str] = ("normal",),
    magnitudes: Sequence[float] = (1.0,),
    smallest: int = 1,
    long: int | None = None,
    crowd: int | None = None,
    large: bool = False,
    firsts: Sequence[float] = (0.95,),
    evaluations: int = 1,
    varied: bool = True,
    edges: bool = False,
    varied_structure: bool = True,
) -> Callable[[Subject], st.SearchStrategy[Case]]:
    """Return what draws the cases of a check for a subject.

    Args:
        batch: fewest and most samples.
        steps: fewest and most steps.
        types: prediction types, of those that the subject is made for.
        dtypes: of sample and predictions.
        fills: what predictions look like.
        magnitudes: their size.
        smallest: fewest elements of a sample.
        long: number of steps of some of the runs.
        crowd: number of samples in some of the runs.
        large: whether some of the samples are large, where any shape is taken.
        firsts: noise levels of the first step.
        evaluations: of each step.
        varied: whether the subject's parameters are varied too.
        edges: whether they are varied to 0 and to their bounds, several at once.
        varied_structure: whether outputs may also be several.
    """

    def draw(subject: Subject) -> st.SearchStrategy[Case]:
        shapes = [shape for shape in subject.shapes if math.prod(shape) >= smallest] or list(subject.shapes)
        if large and subject.takes_any_shape:
            shapes += [LARGE] * (len(shapes) // 2)
        return st.builds(
            _case,
            layout=st.sampled_from(_layouts(subject) if varied_structure else _layouts(subject)[:1]),
            samples=_number(batch, crowd).map(lambda count: tuple(range(count))),
            shape=st.sampled_from(shapes),
            same_shapes=st.just(not subject.takes_any_shape),
            steps=_number(steps, long),
            evaluations=st.just(evaluations),
            first=st.sampled_from(list(firsts)),
            prediction_type=st.sampled_from(_fitting(types, subject)),
            dtype=st.sampled_from(list(dtypes)),
            fill=st.sampled_from(list(fills)),
            magnitude=st.sampled_from(list(magnitudes)),
            seed=st.integers(0, 2**16),
            parameters=st.just({}) | st.sampled_from(_variants(subject, varied=varied, edges=edges)),
        ).filter(lambda case: _can_start(subject, case))

    return draw


def _variants(subject: Subject, *, varied: bool, edges: bool) -> Sequence[dict[str, Any]]:
    if edges:
        return subject.edges or ({},)
    return subject.variants if varied else ({},)


def at_edges(subject: Subject, predictions: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Return a small case for each set of parameters at their edges and each kind of predictions."""
    structure, outputs = _layouts(subject)[0]
    plain = Case(
        samples=(0, 1),
        shape=subject.shapes[0],
        same_shapes=not subject.takes_any_shape,
        steps=2,
        prediction_type=subject.prediction_types[0],
        structure=structure,
        outputs=outputs,
    )
    fitting = [each for each in ({}, *subject.edges) if _can_start(subject, attrs.evolve(plain, parameters=each))]
    return [attrs.evolve(plain, parameters=each, **kind) for each in fitting for kind in predictions]


def structures(subject: Subject) -> list[Case]:
    """Return a small case for each structure of outputs that the subject takes."""
    cases = [
        Case(
            samples=(0, 1),
            shape=subject.shapes[0],
            same_shapes=not subject.takes_any_shape,
            steps=2,
            prediction_type=subject.prediction_types[0],
            structure=structure,
            outputs=outputs,
        )
        for structure, outputs in _layouts(subject)
    ]
    return [case for case in cases if _can_start(subject, case)]


def _number(usual: tuple[int, int], other: int | None) -> st.SearchStrategy[int]:
    """Return what draws a number, or now and then another, from one choice, so that it shrinks well."""
    if other is None:
        return st.integers(*usual)
    return st.integers(usual[0], usual[1] + 2).map(lambda drawn: drawn if drawn <= usual[1] else other)


def _fitting(types: Sequence[str], subject: Subject) -> list[str]:
    """Return the prediction types of a check that a subject is made for; its simplest if there is none."""
    return [each for each in types if each in subject.prediction_types] or [subject.prediction_types[0]]


def _case(layout: tuple[str, tuple[str, ...]], **given: Any) -> Case:
    return Case(structure=layout[0], outputs=layout[1], **given)


def _layouts(subject: Subject) -> list[tuple[str, tuple[str, ...]]]:
    """Return structures with names of outputs; a subject whose parameters name outputs gets those."""
    if subject.outputs:
        return [("tuple", subject.outputs), ("dict", subject.outputs)]
    return [
        ("tensor", ()),
        ("dict", ("video", "audio")),
        ("tuple", ("video", "audio")),
        ("dict", ("video", "audio", "depth")),
    ]


def _can_start(subject: Subject, case: Case) -> bool:
    """Whether the plugin takes these parameters for these outputs and this prediction type."""
    simplest = subject.prediction_types[0], _layouts(subject)[0][0]
    if not case.parameters and (case.prediction_type, case.structure) == simplest:
        return True  # the check reports a mistake in the simplest
    try:
        subject.start(case)
    except ConfigurationError:
        return False
    except Exception:
        return True
    return True
