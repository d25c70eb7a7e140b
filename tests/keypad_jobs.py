"""The Keypad model on real ranks."""

from __future__ import annotations

from typing import Any

import torch
from rank_jobs import EXECUTORS

from guidance_core import Guidance
from guidance_core.models.keypad_clips import make_clips

SPEC = "ltx2:cfg_scale=3,modality_scale=3,stg_scale=1,stg_blocks=0,rescale_scale=0.7"


def clips(group: Any, name: str, spec: str = SPEC) -> tuple[bool, bool]:
    """Make clips serially and in parallel; return whether video, and audio, are equal bit for bit."""
    guidance = Guidance.from_spec(spec)
    settings = {"steps": 6, "per_prompt": 2}
    serial = make_clips(guidance, **settings)
    parallel = make_clips(guidance, **settings, executor=EXECUTORS[name](group))
    return torch.equal(serial.video, parallel.video), torch.equal(serial.audio, parallel.audio)
