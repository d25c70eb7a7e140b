"""Outcomes as text and as plain data: what is promised, the smallest example, where it differs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import attrs
from torch import Tensor

from guidance_core.conformance.outcome import Failure, Outcome
from guidance_core.conformance.registry import Check
from guidance_core.errors import ConfigurationError

WIDTH = 110
SMALL = 12
"Tensors of at most so many elements are shown in full."


def report_of(outcome: Outcome) -> str:
    """Return what an author reads about a failed check."""
    failure = outcome.failure
    assert failure is not None
    lines = [f"{outcome.check.name}: {outcome.subject.name} does not keep this promise:"]
    lines += [*_wrapped(outcome.check.sentence, "    "), ""]
    for paragraph in failure.what.splitlines():
        lines += _wrapped(paragraph, "  ")
    if failure.place is not None:
        lines += [f"    {line}" for line in failure.place.lines()]
    if failure.trace:
        lines += ["", "  Where it was raised:", textwrap.indent(failure.trace, "  ")]
    lines += ["", f"  Smallest example found (of {outcome.examples} tried), to paste and run:"]
    lines += ["", example_code(outcome)]
    values = _values(outcome, failure)
    if values:
        lines += ["", "  In it:", *(f"    {line}" for line in values)]
    return "\n".join(lines)


def example_code(outcome: Outcome) -> str:
    """Return code that runs the failed check on its smallest example."""
    failure, subject = outcome.failure, outcome.subject
    names = ["check_one"] if failure is None or failure.case is None else ["Case", "check_one"]
    arguments = [repr(outcome.check.name), subject.code]
    if subject.kind == "executor":
        names.append("executor_subject_of")
    elif subject.settings:
        names.append("subject_of")
        settings = ", ".join(f"{name}={_code(value)}" for name, value in subject.settings.items())
        arguments[1] = f"subject_of({subject.code}, {settings})"
    lines = [f"from guidance_core.conformance import {', '.join(names)}", *subject.imports]
    conditions = subject.conditions if subject.kind == "plugin" else {}
    lines += [f"# and {_code(each)}, from where it is defined" for each in conditions.values() if callable(each)]
    if failure is not None and failure.case is not None:
        arguments.append(repr(failure.case))
    if failure is not None and failure.ranks is not None:
        arguments.append(f"ranks={failure.ranks}")
    if "tensor(" in "".join(arguments):
        lines.insert(0, "from torch import tensor")
    call = f"check_one({', '.join(arguments)})"
    if outcome.check.processes:
        return "\n".join([*lines, "", 'if __name__ == "__main__":', f"    {call}"])
    return "\n".join([*lines, "", call])


def _code(value: Any) -> str:
    """Return code for a setting; a function by its name."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_code(each)}" for key, each in value.items()) + "}"
    return getattr(value, "__name__", repr(value)) if callable(value) else repr(value)


def _values(outcome: Outcome, failure: Failure) -> list[str]:
    """Return the numbers of the step that differs, where they are few."""
    case = failure.case
    if case is None or failure.hangs or outcome.subject.kind != "plugin":
        return []
    step = failure.place.step if failure.place is not None else 0
    output = failure.place.output if failure.place is not None else case.names[0]
    if step >= case.steps or output not in case.names:
        return []
    lines = [f"plugin     {textwrap.shorten(repr(outcome.subject.changed(case.parameters)), 3 * WIDTH)}"]
    lines.append(f"sigma      {case.sigmas[step]:g} at step {step} of {case.steps}, {case.prediction_type} predictions")
    try:
        plan = outcome.subject.start(case).plan(step, case.sample(step))
        tensors = {"x": plan.samples[output]}
        tensors |= {branch.name: case.named(case.prediction(branch, step))[output] for branch in plan.branches}
    except Exception:  # an example whose plan cannot be made is shown without it
        return lines
    for name, tensor in tensors.items():
        lines.append(f"{name:<10} {_shown(tensor)}")
    return lines


def _shown(tensor: Tensor) -> str:
    kind = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if tensor.numel() > SMALL:
        return kind
    return f"{[[round(number, 4) for number in row] for row in tensor.flatten(1).tolist()]}  {kind}"


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain data."""
    failure = outcome.failure
    data: dict[str, Any] = {
        "check": outcome.check.name,
        "sentence": outcome.check.sentence,
        "theme": outcome.check.theme,
        "status": outcome.status,
        "reason": outcome.reason,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 3),
    }
    if failure is not None:
        data["failure"] = {
            "what": failure.what,
            "where": None if failure.place is None else _plain(attrs.asdict(failure.place)),
            "case": None if failure.case is None else repr(failure.case),
            "ranks": failure.ranks,
            "traceback": failure.trace,
            "code": example_code(outcome),
        }
    return data


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """Return data that JSON can hold: it has no NaN and no infinity."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in data.items()
    }


BEGIN, END = "<!-- checks: written by", "<!-- end of checks -->"
"Between the lines that begin with these a page lists the checks."


def with_checks(page: str, checks: Iterable[Check]) -> str:
    """Return a page whose part between two markers lists the checks with their sentences, by theme."""
    before, marker, rest = page.partition(BEGIN)
    first, _, rest = rest.partition("\n")
    _, end, after = rest.partition(END)
    if not marker or not end:
        raise ConfigurationError(f"the page lacks the lines {BEGIN!r} and {END!r}.")
    return f"{before}{marker}{first}\n{_listed(checks)}\n{end}{after}"


def _listed(checks: Iterable[Check]) -> str:
    themes: dict[tuple[str, str], list[Check]] = {}
    for each in checks:
        themes.setdefault((each.subject, each.theme), []).append(each)
    lines: list[str] = []
    for (subject, theme), listed in sorted(themes.items(), key=lambda item: item[0][0] == "executor"):
        title = "Executors" if subject == "executor" else f"Plugins: {theme}"
        lines += ["", f"### {title}", "", "| check | what it promises |", "|---|---|"]
        lines += [f"| `{each.name}` | {each.sentence.replace('|', chr(92) + '|')} |" for each in listed]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent) or [""]
