"""Asking a fresh process about a subject; what that process does is in `fresh_process_main`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from guidance_core import discovery
from guidance_core.conformance import jobs
from guidance_core.conformance.case import Case
from guidance_core.conformance.subject import Subject, unreachable
from guidance_core.conformance.violation import NotApplicable, Violation

_CASES = (
    Case(samples=(0, 1), shape=(3, 4), steps=3),
    Case(samples=(0, 1, 2), shape=(5,), steps=2, prediction_type="x0", dtype="bfloat16", seed=1),
)


def cases_for(subject: Subject) -> list[Case]:
    """Return the runs that a process started anew is asked to make."""
    return [_fitted(case, subject) for case in _CASES]


def _fitted(case: Case, subject: Subject) -> Case:
    if subject.outputs:
        case = attrs.evolve(case, outputs=subject.outputs, structure="tuple")
    if case.prediction_type not in subject.prediction_types:
        case = attrs.evolve(case, prediction_type=subject.prediction_types[0])
    fitting = [shape for shape in subject.shapes if len(shape) == len(case.shape)] or subject.shapes
    shape = case.shape if case.shape in subject.shapes else fitting[0]
    return attrs.evolve(case, shape=shape, same_shapes=not subject.takes_any_shape)


PATIENCE = 120.0
"Seconds that a fresh process may take, where no time limit of the check ends it before."

_answers: dict[str, dict[str, Any]] = {}


def asked(subject: Subject) -> dict[str, Any]:
    """Return what a fresh process finds; one process answers all checks about a subject.

    Raises:
        NotApplicable: the subject cannot be sent to another process.
        Violation: it cannot be imported there, or does not end.
    """
    reason = unreachable(subject)
    if reason:
        raise NotApplicable(reason)
    request = jobs.packed((subject, cases_for(subject)))
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
        path = os.pathsep.join([folder, *(os.path.abspath(each) for each in sys.path if each)])
        limits = (
            discovery.DISABLE,
            discovery.ONLY,
            discovery.ONLY_EXECUTORS,
        )  # what this process may load does not matter here
        kept = {name: value for name, value in os.environ.items() if name not in limits}
        environment = {**kept, "PYTHONPATH": path, "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "guidance_core.conformance.fresh_process_main"],
                input=request,
                capture_output=True,
                text=True,
                env=environment,
                cwd=folder,
                check=False,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Violation(f"A fresh process does not import and run it within {PATIENCE:g} s.") from None
    if done.returncode != 0:
        raise Violation(f"A fresh process cannot import or run it:\n{done.stderr.strip()[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
