"""A process of its own that answers questions about a subject: `python -m guidance_core.conformance.fresh`."""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

import torch

from guidance_core.conformance import jobs
from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.traces import raised
from guidance_core.discovery import ONLY, find_plugins


def _settings() -> dict[str, Any]:
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's number of threads": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "torch's random state": torch.get_rng_state().tolist(),
        "Python's random state": random.getstate(),
        "the environment": sorted(os.environ.items()),
        "the working folder": os.getcwd(),
    }


def main() -> None:
    """Read a subject and cases from standard input, and write what is found as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    request = sys.stdin.read()
    before = _settings()
    written: set[str] = set()

    def noting(event: str, _: tuple[Any, ...]) -> None:
        if event in ("os.putenv", "os.unsetenv"):  # also where the variable came to this process with that value
            written.add("the environment")

    sys.addaudithook(noting)
    subject, cases = jobs.unpacked(request)
    changed = [name for name, value in _settings().items() if before[name] != value or name in written]
    answer = {"changed": changed, **_loading(subject), "error": "", "digests": [], "device": "", "unsupported": ""}
    try:
        answer["digests"] = [jobs.digests(subject, case) for case in cases]
    except Exception as error:
        answer["error"] = raised(error)
    if not answer["error"]:
        answer |= _on_a_pretended_gpu(subject, cases)
    print(json.dumps(answer))


def _loading(subject: Subject) -> dict[str, Any]:
    everything = {found.name: found for found in find_plugins()}
    neighbour = everything.get("broken-neighbour")
    os.environ[ONLY] = subject.name
    try:
        alone = {found.name: found for found in find_plugins()}
    finally:
        del os.environ[ONLY]
    failures = [
        found.failure if found is not None else "it is not found"
        for found in (everything.get(subject.name), alone.get(subject.name))
    ]
    first = next((failure for failure in failures if failure), None)
    return {"neighbour": neighbour is not None and neighbour.failure is not None, "loaded": first}


def _on_a_pretended_gpu(subject: Subject, cases: list[Case]) -> dict[str, str]:
    """Run with fake tensors that claim to be on a GPU; operations on mixed devices fail there."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            torch.empty(2, device="cuda") + torch.empty(2, device="cuda")
    except Exception as error:
        return {"unsupported": f"this torch cannot pretend to have a GPU ({type(error).__name__})"}

    def moved(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            output: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") for output, tensor in named.items()
        }

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        for case in cases:
            run = subject.start(case)
            for step in range(case.steps):
                with mode:
                    sample = case.structured(moved(case.named(case.sample(step))))
                    plan = run.plan(step, sample)
                    made = {
                        branch.name: case.structured(moved(case.named(Host(case, step)(branch))))
                        for branch in plan.branches
                    }
                    run.finish(plan, made)
    except Exception as error:
        if "not linked with support for cuda" in f"{error}{error.__cause__}":
            return {"unsupported": "this torch, built without CUDA, cannot pretend to index tensors on a GPU"}
        return {"device": raised(error)}
    return {}


if __name__ == "__main__":
    main()
