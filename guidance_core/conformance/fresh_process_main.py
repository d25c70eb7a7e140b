"""What a fresh process does to answer questions about a subject, when run as a module."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

from guidance_core.conformance import jobs
from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.subject import Subject
from guidance_core.discovery import ONLY, find_plugins
from guidance_core.discovery.tracebacks import raised


def _settings() -> dict[str, Any]:
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's number of threads": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "torch's random state": torch.get_rng_state().tolist(),
        "Python's random state": random.getstate(),
        "NumPy's random state": str(numpy.random.get_state()) if numpy is not None else "",
        "the environment": sorted(os.environ.items()),
        "the working folder": os.getcwd(),
    }


def main() -> None:
    """Read a subject and cases from standard input, and write what is found as JSON."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what modules and hooks print is not the answer
    request = sys.stdin.read()
    changed = _changed_by(lambda: jobs.unpacked(request))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subject, cases = jobs.unpacked(request)
    answer = {"changed": changed, **_loading(subject), "error": "", "digests": [], "device": "", "unsupported": ""}
    try:
        answer["digests"] = [jobs.digests(subject, case) for case in cases]
    except Exception as error:
        answer["error"] = raised(error)
    if not answer["error"]:
        answer |= _on_a_pretended_gpu(subject, cases)
    with open(answer_to, "w", encoding="utf-8") as file:
        json.dump(answer, file)


def _changed_by(load: Callable[[], Any]) -> list[str]:
    """Return which settings change when something is loaded, be it to what most people have."""
    torch.set_num_threads(7)
    torch.manual_seed(4711)
    random.seed(4711)
    if numpy is not None:
        numpy.random.seed(4711)
    before = _settings()
    written: set[str] = set()

    def noting(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.putenv":  # also where the variable came to this process with that value
            written.add(os.fsdecode(arguments[0]))

    sys.addaudithook(noting)
    load()
    changed = [name for name, value in _settings().items() if before[name] != value]
    if "the environment" not in changed and written & os.environ.keys():
        changed.append("the environment")
    return changed


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


_NOT_PRETENDED = re.compile(
    "not linked with support for|Cannot get CUDA generator|PrivateUse1|with arguments from the '|"
    "backend has not registered"
)
"In errors that come from pretending to have a device, not from a method."


def _on_a_pretended_gpu(subject: Subject, cases: list[Case]) -> dict[str, str]:
    """Run with fake tensors that claim to be on a GPU; operations on mixed devices fail there.

    A torch built without CUDA can pretend most of it, but not to index; then a device of another name takes its place.
    """
    failure = "there is no device to pretend"
    for device in _pretended_devices():
        try:
            _run_on(device, subject, cases)
        except Exception as error:
            if not _NOT_PRETENDED.search(f"{error}{error.__cause__}"):
                return {"device": raised(error)}
            failure = str(error.__cause__ or error).partition("\n")[0]
        else:
            return {}
    return {"unsupported": f"this torch cannot pretend to have a GPU ({failure})"}


def _pretended_devices() -> Iterator[str]:
    yield "cuda"
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:  # torch before 2.9
        return
    _setup_privateuseone_for_python_backend("gpu")
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device=...) works there
    yield "gpu"


class _StayingThere(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to copy from the pretended device to the host, which on a real one waits for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        to = (kwargs or {}).get("device")
        if func.overloadpacket.__name__ == "_to_copy" and to is not None and to.type == "cpu" != args[0].device.type:
            raise RuntimeError("a tensor is copied to the CPU, which waits for the device")
        return func(*args, **(kwargs or {}))


def _run_on(device: str, subject: Subject, cases: list[Case]) -> None:
    def moved(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            output: torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for output, tensor in named.items()
        }

    mode = FakeTensorMode(allow_non_fake_inputs=True)  # one for all steps: what a run keeps belongs to it
    for case in cases:
        run = subject.start(case)
        for step in range(case.steps):
            with mode, _StayingThere():  # type: ignore[no-untyped-call]
                sample = case.structured(moved(case.named(case.sample(step))))
                plan = run.plan(step, sample)
                made = {
                    branch.name: case.structured(moved(case.named(Host(case, step)(branch))))
                    for branch in plan.branches
                }
                run.finish(plan, made)


if __name__ == "__main__":
    main()
