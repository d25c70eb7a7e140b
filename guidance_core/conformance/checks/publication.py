"""What a reader and an installer of the plugin rely on. These look at it from a fresh process."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from guidance_core import discovery
from guidance_core.conformance import jobs
from guidance_core.conformance.case import Case
from guidance_core.conformance.registry import check
from guidance_core.conformance.subject import Subject, unreachable
from guidance_core.conformance.violation import NotApplicable, Violation, require

_REFERENCE = re.compile(
    r"arxiv|doi\.|https?://|^\s*source\b|\bsource:|\bet al\b|\breference", re.IGNORECASE | re.MULTILINE
)

_PUBLIC = ("conformance", "hosts", "models", "samplers")
"Modules inside `guidance_core` that are for everybody."


@check(
    "documented",
    "Its docstring says in one line what it does, gives the formula and the source, and each parameter has a help "
    "text.",
)
def documented(subject: Subject) -> None:
    text = inspect.cleandoc(subject.cls.__doc__ or "")
    if not text or text.startswith(f"{subject.cls.__name__}("):
        raise Violation(f"{subject.cls.__name__} has no docstring.")
    summary = text.partition("\n")[0]
    require(len(summary) <= 120, f"The first line of the docstring is {len(summary)} characters long; 120 is a line.")
    changes_numbers = subject.branches or not subject.is_wrapper
    require(
        not changes_numbers or re.search(r"\S\s*(=|←|:=)\s*\S|·", text),
        "The docstring gives no formula (a line with `=`, such as `guided = c + (s − 1)·(c − u)`).",
    )
    require(
        _REFERENCE.search(text),
        "The docstring names no source: a paper (arXiv:..., with the equation), a repository, or `this package`.",
    )
    bare = [field.name for field in subject.fields if not field.metadata.get("help")]
    require(
        not bare,
        f"{', '.join(bare)}: no help text; number(..., help='...') or attrs.field(metadata={{'help': '...'}}).",
    )


@check(
    "public-names",
    "It uses only what `guidance_core` exports: no module inside it, no name with an underscore.",
)
def public_names(subject: Subject) -> None:
    try:
        tree = ast.parse(Path(inspect.getfile(subject.cls)).read_text(encoding="utf-8"))
    except (OSError, TypeError, SyntaxError, UnicodeError):
        raise NotApplicable("its source is not at hand") from None
    inside = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "guidance_core"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            _check_import(node.module or "", [alias.name for alias in node.names], node.lineno)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                _check_import(alias.name, [], node.lineno)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in inside:
                _check_import("guidance_core", [node.attr], node.lineno)
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            require(
                not (is_private and node.value.id in ("step", "plan", "reference", "predictions", "run")),
                f"Line {node.lineno} uses {node.value.id}.{node.attr}, which may change without notice.",
            )


def _check_import(module: str, names: list[str], line: int) -> None:
    root, _, inside = module.partition(".")
    if root != "guidance_core":
        return
    import guidance_core

    part = inside.partition(".")[0]
    require(
        not part or part in _PUBLIC,
        f"Line {line} imports from {module}, a module inside guidance_core; import from guidance_core itself.",
    )
    exported = ("*", *_PUBLIC, *guidance_core.__all__)
    unknown = [name for name in names if not inside and name not in exported]
    require(not unknown, f"Line {line} takes {', '.join(unknown)} from guidance_core, which does not export it.")


@check(
    "quiet-import",
    "Importing it changes no global setting: dtype, threads, gradient mode, random state, environment.",
    processes=True,
)
def quiet_import(subject: Subject) -> None:
    answer = _asked(subject, [])
    require(
        not answer["changed"],
        f"Importing {subject.cls.__module__} changes {', '.join(answer['changed'])} for the whole process.",
    )


@check(
    "loads-beside-a-broken-neighbour",
    "Its entry point loads alone in a fresh process, and beside a plugin that fails to import.",
    processes=True,
    applies=lambda subject: None if discovery.entry_name(subject.cls) else "it is not published under an entry point",
)
def loads_beside_a_broken_neighbour(subject: Subject) -> None:
    answer = _asked(subject, [])
    require(answer["neighbour"], "The broken neighbour was not reported as failed.")
    require(
        answer["loaded"] is None,
        f"Its entry point does not load in a fresh process: {answer['loaded']}",
    )


_CASES = (
    Case(samples=(0, 1), shape=(3, 4), steps=3),
    Case(samples=(0, 1, 2), shape=(5,), steps=2, prediction_type="x0", dtype="bfloat16", seed=1),
)


@check(
    "same-in-a-fresh-process",
    "A process started anew, with another order of hashes, plans the same passes and computes the same bits.",
    processes=True,
    applies=unreachable,
)
def same_in_a_fresh_process(subject: Subject) -> None:
    cases = [_for(subject, case) for case in _CASES]
    answer = _asked(subject, cases)
    if answer["error"]:
        raise Violation(f"In a fresh process it fails:\n{answer['error']}")
    for case, here, there in zip(
        cases, (jobs.digests(subject, case) for case in cases), answer["digests"], strict=True
    ):
        for step, (mine, other) in enumerate(zip(here, there, strict=True)):
            different = jobs.other_plan(other["plan"], mine["plan"])
            require(
                not different,
                f"In a fresh process step {step} of {case!r} plans {different}, compared with here: something depends "
                "on the order of a set, or on what was imported before.",
            )
            require(mine["bits"] == other["bits"], f"In a fresh process step {step} of {case!r} gives other bits.")


@check(
    "any-device",
    "Tensors that it makes are on the sample's device: it runs on a GPU (here a pretended one).",
    processes=True,
    applies=unreachable,
)
def any_device(subject: Subject) -> None:
    answer = _asked(subject, [_for(subject, case) for case in _CASES])
    if answer["unsupported"]:
        raise NotApplicable(answer["unsupported"])
    if answer["device"]:
        raise Violation(f"With the sample on a GPU it fails:\n{answer['device']}")


def _for(subject: Subject, case: Case) -> Case:
    if subject.outputs:
        case = attrs.evolve(case, outputs=subject.outputs, structure="tuple")
    if case.prediction_type not in subject.prediction_types:
        case = attrs.evolve(case, prediction_type=subject.prediction_types[0])
    fitting = [shape for shape in subject.shapes if len(shape) == len(case.shape)]
    return attrs.evolve(case, shape=case.shape if case.shape in subject.shapes else (fitting or subject.shapes)[0])


PATIENCE = 120.0
"Seconds that a fresh process may take, where no time limit of the check ends it before."

_answers: dict[str, dict[str, Any]] = {}


def _asked(subject: Subject, cases: list[Case]) -> dict[str, Any]:
    """Return what a fresh process finds; one process answers all checks about a subject."""
    reason = unreachable(subject)
    if reason:
        raise NotApplicable(reason)
    cases = cases or [_for(subject, case) for case in _CASES]
    request = jobs.packed((subject, cases))
    if request not in _answers:
        _answers.clear()
        _answers[request] = _fresh_answer(request)
    return _answers[request]


def _fresh_answer(request: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="guidance-core-fresh-") as folder:
        broken = Path(folder, "broken_neighbour-1.0.dist-info")
        broken.mkdir()
        Path(broken, "METADATA").write_text("Metadata-Version: 2.1\nName: broken-neighbour\nVersion: 1.0\n")
        Path(broken, "entry_points.txt").write_text(
            "[guidance_core.plugins]\nbroken-neighbour = no_such_module_of_a_neighbour:Nothing\n"
        )
        path = os.pathsep.join([folder, *(each for each in sys.path if each)])
        limits = (discovery.DISABLE, discovery.ONLY)  # what this process may load is no matter here
        kept = {name: value for name, value in os.environ.items() if name not in limits}
        environment = {**kept, "PYTHONPATH": path, "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "guidance_core.conformance.fresh"],
                input=request,
                capture_output=True,
                text=True,
                env=environment,
                check=False,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Violation(f"A fresh process does not import and run it within {PATIENCE:g} s.") from None
    if done.returncode != 0:
        raise Violation(f"A fresh process cannot import or run it:\n{done.stderr.strip()[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
