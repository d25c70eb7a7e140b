"""Parameters: written and read back, refused where they make no sense, and each of some effect."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch

from guidance_core import discovery
from guidance_core.conformance.case import Case
from guidance_core.conformance.case_runs import PARAMETER_ROUNDING, ROUNDING_ONLY, agree, only, played, recorded
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, Violation, require
from guidance_core.errors import ConfigurationError, GuidanceError, PluginError
from guidance_core.guidance import Guidance
from guidance_core.parameters.schedules import Linear, Within
from guidance_core.parameters.values import PerOutput

PATIENCE = 10.0
"Seconds to look for an effect of a parameter, of many."


def _has_parameters(subject: Subject) -> str | None:
    return None if subject.fields else "it has no parameters"


@check(
    "round-trip",
    "Through dict, JSON, TOML and its one-line form, a stack with it comes back equal.",
    applies=lambda subject: "a parameter is a function, which is not data" if subject.holds_functions else None,
)
def round_trip(subject: Subject) -> None:
    for changed in subject.variants:
        _returns(subject, subject.changed(changed))


def _returns(subject: Subject, plugin: Any) -> None:
    with discovery.published(subject.name, subject.cls):
        guidance = Guidance([plugin])
        ways: dict[str, Callable[[], Guidance]] = {
            "a dict": lambda: Guidance.from_dict(guidance.to_dict()),
            "a dict of JSON values": lambda: Guidance.from_dict(json.loads(json.dumps(guidance.to_dict()))),
            "JSON": lambda: Guidance.from_json(guidance.to_json()),
            "TOML": lambda: Guidance.from_toml(guidance.to_toml()),
            "a spec": lambda: Guidance.from_spec(guidance.to_spec()),
        }
        for name, way in ways.items():
            try:
                back = way()
            except GuidanceError as error:
                raise Violation(f"{plugin!r} cannot be written as {name} and read back: {error}") from error
            require(back == guidance, f"Through {name} {plugin!r} comes back as {back.plugins[0]!r}.")
            require(hash(back) == hash(guidance), f"Through {name} an equal plugin comes back with another hash.")


@check(
    "equality",
    "Plugins with equal parameters are equal and have one hash; with other parameters they differ.",
    applies=_has_parameters,
)
def equality(subject: Subject) -> None:
    for changed in subject.variants:
        one, other = subject.changed(changed), subject.changed(changed)
        require(one == other and hash(one) == hash(other), f"{one!r} made twice is not equal to itself.")
        if changed:
            require(one != subject.plugin, f"{one!r} counts as equal to {subject.plugin!r}.")


@check(
    "bad-parameters",
    "A parameter of the wrong kind, NaN or infinite is refused with an error that names it, before any forward; what "
    "`values_to_try` says is accepted.",
    applies=_has_parameters,
)
def bad_parameters(subject: Subject) -> None:
    for field in subject.fields:
        bad: list[Any] = [object()]
        if any(isinstance(value, int | float | tuple) for value in subject.alternatives[field.name]):
            bad += [math.nan, math.inf, "high"]
        if field.name in subject.numeric:
            bad.append(torch.tensor([math.nan]))
        for value in bad:
            _refused(subject, field.name, value)
    for name, values in subject.values_to_try.items():
        require(name in subject.alternatives, f"values_to_try names {name}, which is not a parameter.")
        for value in values:
            try:
                subject.described(subject.stacked(subject.changed({name: value})))
            except Exception as error:
                raise Violation(
                    f"values_to_try says that {name} may be {value!r}, which is refused: {error}"
                ) from error


def _refused(subject: Subject, name: str, value: Any) -> None:
    shown = f"{name}={value!r}" if type(value) is not object else f"{name}=object()"
    try:
        plugin = subject.changed({name: value})
        subject.described(subject.stacked(plugin))
    except ConfigurationError as error:
        require(name in str(error), f"{shown} is refused, but the error does not name {name!r}: {error}")
        return
    except Exception as error:
        raise Violation(
            f"{shown} is refused with {type(error).__name__} ({error}); it should be a ConfigurationError that names "
            f"{name!r}. Fields made with number(), whole() or choice() do that."
        ) from error
    raise Violation(
        f"{shown} is accepted; nothing says what is wrong with it until a picture is. Use number(), whole() or "
        "choice(), or a validator that raises ConfigurationError."
    )


@check(
    "parameters-count",
    "Every parameter makes a difference to what is run or to the result, for some values of the others; one of "
    "`only_cost` makes none to the result.",
    draw=cases(
        batch=(2, 2), steps=(4, 4), smallest=12, varied=False, types=("flow",), varied_structure=False, evaluations=2
    ),
    applies=_has_parameters,
    share=0.05,
)
def parameters_count(subject: Subject, case: Case) -> None:
    only_cost: tuple[str, ...] = getattr(subject.cls, "only_cost", ())
    for name in only_cost:
        _leaves_result(subject, case, name)
    left = {name: values for name, values in subject.alternatives.items() if values and name not in only_cost}
    until = time.monotonic() + PATIENCE
    for base in _bases(subject):
        if time.monotonic() > until:
            raise NotApplicable(f"in {PATIENCE:g} s no effect of {', '.join(left)} was found, nor that there is none")
        seen = _outcome(subject, case, base)
        if seen is None and not base:
            recorded(subject, case)  # and say why it does not work
        for name in list(left):
            if name in base:
                continue
            for value in left[name]:
                changed = _outcome(subject, case, {**base, name: value})
                if changed is not None and seen is not None and changed != seen:
                    del left[name]
                    break
        if not left:
            return
    name, values = next(iter(left.items()))
    raise Violation(
        f"{name} makes no difference: {', '.join(map(repr, values[:4]))} give the same passes and the same bits as "
        f"{getattr(subject.plugin, name)!r}, whatever the other parameters are."
    )


def _leaves_result(subject: Subject, case: Case, name: str) -> None:
    """Raise `Violation` if a parameter that is said to change the cost alone changes the result beyond rounding."""
    wide = attrs.evolve(case, dtype="float64")
    expected = played(subject, wide)
    for value in subject.alternatives[name]:
        agree(
            played(subject, attrs.evolve(wide, parameters={name: value})),
            expected,
            f"only_cost names {name}, but with {name}={value!r} the result is another.",
            ulps=ROUNDING_ONLY,
            evaluations=case.evaluations,
        )


def _bases(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield sets of parameters to vary another one against: none changed, one changed, two changed."""
    yield {}
    singles = [{name: value} for name, values in subject.alternatives.items() for value in values]
    yield from singles
    for one, other in itertools.combinations(singles, 2):
        if one.keys() != other.keys():
            yield one | other


def _unused(name: str, value: object, error: PluginError) -> Violation:
    """Say that a value is accepted though a hook fails with it, and what helps where the hook did not resolve it."""
    is_unresolved = isinstance(error.__cause__, TypeError | AttributeError)
    advice = f"\nUse step.value(self.{name}) in hooks, not the parameter itself." if is_unresolved else ""
    return Violation(f"{name}={value} is neither refused nor used: {error}{advice}")


def _outcome(subject: Subject, case: Case, parameters: dict[str, Any]) -> Any:
    """Return what a run did, comparable; None where the parameters cannot be combined."""
    try:
        guidance = Guidance(subject.stacked(subject.changed(parameters)))
        run = subject.start(case, guidance)
        results, passes = recorded(subject, case, guidance)
    except GuidanceError:
        return None
    costs = [[branch.cost for branch in layout.branches] for layout in run.layouts]
    return passes, costs, [[tensor.tolist() for tensor in named.values()] for named in results]


def _takes_tensors(subject: Subject) -> str | None:
    try:
        return None if list(_tensor_parameters(subject)) else "it takes no parameter per sample"
    except Violation:
        return None


def _tensor_parameters(subject: Subject) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each parameter that takes one number per sample, with two numbers that it takes."""
    for name in subject.numeric:
        values = [value for value in subject.alternatives[name] if type(value) is float]
        pair = (values[0], values[-1])
        try:
            subject.described(subject.stacked(subject.changed({name: torch.tensor(pair)})))
        except ConfigurationError:
            continue
        except Exception as error:
            raise Violation(
                f"{name}=tensor({list(pair)}) is neither taken nor refused: {error}\nWhether a parameter is neutral, "
                f"step.active(self.{name}, neutral) says for tensors too."
            ) from error
        if values[0] != values[-1]:
            yield name, pair


@check(
    "per-sample-parameters",
    "A parameter given for each sample acts on each as the number alone would.",
    draw=cases(batch=(2, 2), varied=False, dtypes=("float64",)),
    applies=_takes_tensors,
    share=0.5,
)
def per_sample_parameters(subject: Subject, case: Case) -> None:
    if subject.mixes_samples(case):
        raise NotApplicable("it mixes samples, as it says")
    for name, pair in _tensor_parameters(subject):
        given = attrs.evolve(case, parameters={name: torch.tensor(pair)})
        together = played(subject, given)
        for number, value in enumerate(pair):
            alone = attrs.evolve(case, parameters={name: value}, samples=(case.samples[number],))
            agree(
                only(together, [number]),
                played(subject, alone),
                f"With {name}=tensor({list(pair)}) sample {number} gets another result than with {name}={value:g}.",
                ulps=PARAMETER_ROUNDING,
            )


@check(
    "per-output-parameters",
    "A parameter given for each output acts on each as the number alone would, or is refused.",
    draw=cases(varied=False, batch=(1, 1)),
    applies=lambda subject: None if subject.numeric else "it has no numeric parameter",
    share=0.5,
)
def per_output_parameters(subject: Subject, case: Case) -> None:
    names = subject.outputs or ("video", "audio")
    case = attrs.evolve(case, structure="dict", outputs=names)
    taken = 0
    for name in subject.numeric:
        values = [value for value in subject.alternatives[name] if type(value) is float]
        pair = dict(zip(names, itertools.cycle((values[0], values[-1]))))
        try:
            together, passes = recorded(subject, attrs.evolve(case, parameters={name: PerOutput(pair)}))
        except ConfigurationError:
            continue
        except PluginError as error:
            raise _unused(name, pair, error) from error
        for output, value in pair.items():
            apart, others = recorded(subject, attrs.evolve(case, parameters={name: value}))
            if not all(set(mine) >= set(other) for mine, other in zip(passes, others, strict=True)):
                continue  # the value decides what is run, for all outputs together
            taken += 1
            agree(
                [{output: named[output]} for named in together],
                [{output: named[output]} for named in apart],
                f"With {name}={pair} output {output!r} gets another result than with {name}={value:g}.",
            )
    if not taken:
        raise NotApplicable("it takes no parameter per output")


@check(
    "scheduled-parameters",
    "A parameter that depends on the step has at each step the value that the schedule gives there, or is refused.",
    draw=cases(varied=False, steps=(3, 4), batch=(1, 1), types=("flow",)),
    applies=lambda subject: None if subject.numeric else "it has no numeric parameter",
    share=0.5,
)
def scheduled_parameters(subject: Subject, case: Case) -> None:
    taken = 0
    for name in subject.numeric:
        values = [value for value in subject.alternatives[name] if type(value) is float]
        first, last = values[0], values[-1]
        for schedule in (Linear(first, first), Within(first, lo=0.0, hi=1.0, otherwise=last)):
            try:
                scheduled = played(subject, attrs.evolve(case, parameters={name: schedule}))
            except ConfigurationError:
                continue
            except PluginError as error:
                raise _unused(name, schedule, error) from error
            taken += 1
            constant = played(subject, attrs.evolve(case, parameters={name: first}))
            agree(scheduled, constant, f"{name}={schedule} is {first:g} at every step, but acts otherwise.")
        changes = Within(first, lo=0.0, hi=0.5, by="fraction", otherwise=last)
        try:
            scheduled = played(subject, attrs.evolve(case, parameters={name: changes}))
        except ConfigurationError:
            continue
        begun = played(subject, attrs.evolve(case, parameters={name: first}))
        agree(scheduled[:1], begun[:1], f"{name}={changes} is {first:g} at the first step, but acts otherwise there.")
        ended = played(subject, attrs.evolve(case, parameters={name: last}))
        for output, tensor in scheduled[-1].items():
            same = torch.equal(tensor, begun[-1][output]) and not torch.equal(tensor, ended[-1][output])
            require(
                not same,
                f"{name}={changes} is {last:g} at the last step, but output {output!r} is still what {first:g} gives.",
            )
    if not taken:
        raise NotApplicable("it takes no schedules")
