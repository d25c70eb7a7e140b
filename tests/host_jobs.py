"""The hosts of the table, each a small model in the host's own code: functions that processes can import."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from engines.loading import VERSIONS, with_engine

from guidance_core import AllGatherExecutor
from guidance_core.bench.hosts.subject import Counted, NotInstalledError, Subject, apart, saving, tensors_in
from guidance_core.bench.hosts.subjects import SUBJECTS


def _sglang_ltx2() -> Subject:
    with_engine("sglang")
    import sglang_ltx2_jobs as jobs

    counted = Counted()

    def made(stage: Any, parallel: bool = False) -> Any:
        found = stage.generate(parallel=parallel)
        counted.rows += stage.model.rows
        return found

    def ours(spec: str, way: Any, _: int) -> Any:
        if way != "serial":
            jobs.join(way.group)
        return made(jobs.Guided(spec), way != "serial")

    specs = saving(jobs.SPEC, skip_step=f"{jobs.SPEC},skip_step=1")
    return Subject("sglang", VERSIONS["sglang"], jobs.STEPS, lambda _: made(jobs.Small()), ours, specs, counted)


def _vllm_omni_ltx2() -> Subject:
    with_engine("vllm_omni")
    import vllm_omni_jobs as jobs

    counted = Counted()

    def made(pipeline: Any, parallel: bool = False) -> Any:
        found = pipeline.generate(parallel=parallel)
        counted.rows += pipeline.rows
        return found

    def ours(spec: str, way: Any, _: int) -> Any:
        if way != "serial":
            jobs.join(way.group)
        return made(jobs.Pipeline(jobs.Executor(spec)), way != "serial")

    specs = saving(jobs.SPEC, skip_step=f"{jobs.SPEC},skip_step=1")
    version = VERSIONS["vllm_omni"]
    return Subject("vLLM-Omni", version, jobs.LTX_STEPS, lambda _: made(jobs.Pipeline()), ours, specs, counted)


LTX_SPEC = "ltx2:cfg_scale=3,modality_scale=3,stg_scale=1,stg_blocks=1,rescale_scale=0.7"
LTX_VERSION, LTX_STEPS = "1.0.0", 6


def _ltx_pipelines() -> Subject:
    import ltx_engine

    if not ltx_engine.PACKAGES.is_dir():
        raise NotInstalledError(f"ltx-pipelines {LTX_VERSION} is not here; `make test-hosts` fetches it")
    import ltx_jobs as jobs

    theirs = jobs.loaded(LTX_VERSION)
    model, log = jobs.transformer(theirs)
    counted, sigmas = Counted(), jobs.schedule(theirs, LTX_STEPS)
    params = theirs.guiders.MultiModalGuiderParams(
        cfg_scale=3.0, modality_scale=3.0, stg_scale=1.0, stg_blocks=[1], rescale_scale=0.7
    )

    def made(denoiser: Any) -> Any:
        found = jobs.sampled(theirs, "euler", model, denoiser, jobs.states(theirs), sigmas)
        counted.rows = log.passes
        return found

    def ours(spec: str, way: Any, _: int) -> Any:
        return made(jobs.ours(theirs, model, "2.0", spec, executor=way)[0])

    return Subject(
        "ltx-pipelines",
        LTX_VERSION,
        LTX_STEPS,
        lambda _: made(jobs.native(theirs, model, "2.0", params, params)),
        ours,
        saving(LTX_SPEC, skip_step=f"{LTX_SPEC},skip_step=1"),
        counted,
    )


HOSTS: dict[str, Callable[[], Subject]] = {
    **{name: functools.partial(make, True) for name, make in SUBJECTS.items()},
    "sglang, LTX-2": _sglang_ltx2,
    "vllm-omni, LTX-2": _vllm_omni_ltx2,
    "ltx-pipelines": _ltx_pipelines,
}


class Judged:
    """What a run of a host gives, in one process."""

    def __init__(self, name: str) -> None:
        warnings.simplefilter("ignore")
        self.subject = subject = HOSTS[name]()
        self.passes: dict[str, int] = {}
        own = self._counted("own", subject.own, 0)
        made = {which: self._counted(which, subject.ours, spec, "serial", 0) for which, spec in subject.specs.items()}
        self.difference = apart(made["equal"], own)
        self.bits = {which: bits(each) for which, each in made.items()}

    def _counted(self, which: str, run: Callable[..., Any], *given: Any) -> Any:
        before = self.subject.counted.rows
        made = run(*given)
        self.passes[which] = self.subject.counted.rows - before
        return made


def bits(made: Any) -> str:
    return hashlib.sha256(b"".join(each.contiguous().numpy().tobytes() for each in tensors_in(made))).hexdigest()


def on_ranks(group: Any, name: str) -> dict[str, tuple[str, int]]:
    """Return the digest of every stack's run on the ranks, and this rank's passes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    subject, found = HOSTS[name](), {}
    executor = AllGatherExecutor(group)
    for which, spec in subject.specs.items():
        before = subject.counted.rows
        found[which] = bits(subject.ours(spec, executor, 0)), subject.counted.rows - before
    return found
