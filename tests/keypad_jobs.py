"""The Keypad model on real ranks."""

from __future__ import annotations

from typing import Any

import torch
from rank_jobs import EXECUTORS

from guidance_core import Guidance
from guidance_core.models.keypad_clips import make_clips

SPEC = "ltx2:cfg_scale=3,modality_scale=3,stg_scale=1,stg_blocks=0,rescale_scale=0.7"


def clips_of_shared_rows(group: Any) -> bool:
    """Make clips serially and with each rank running some rows of the batch; return whether they are close."""
    guidance = Guidance.from_spec(SPEC)
    settings = {"steps": 4, "per_prompt": 2}
    serial = make_clips(guidance, **settings)
    shared = make_clips(guidance, **settings, executor=EXECUTORS["all_gather"](group, split_rows=True))
    pairs = ((serial.video, shared.video), (serial.audio, shared.audio))
    return all(torch.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in pairs)


def clips(group: Any, name: str, spec: str = SPEC) -> tuple[bool, bool]:
    """Make clips serially and in parallel; return whether video, and audio, are equal bit for bit."""
    guidance = Guidance.from_spec(spec)
    settings = {"steps": 6, "per_prompt": 2}
    serial = make_clips(guidance, **settings)
    parallel = make_clips(guidance, **settings, executor=EXECUTORS[name](group))
    return torch.equal(serial.video, parallel.video), torch.equal(serial.audio, parallel.audio)
