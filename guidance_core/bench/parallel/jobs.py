"""What every contender does: LTX-2 with four branches, and with three of two samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from guidance_core.hosts.ltx2 import Grid, Sizes

RANKS = 2
"Ranks of the timed steps."
COUNTED = (3, 4, 5, 6)
"Ranks of the steps that are only counted."
PHI = 0.7
TINY = Sizes(2, heads=2, head_dim=16, audio_head_dim=8, channels=8, caption_channels=16, grid=Grid(2, 2, 2, 4))
"For steps that are only counted."
SERIAL, FORWARDS, GATHER, REDUCE = "serial", "forwards", "all_gather", "all_reduce"
BASELINE, PACKED, PADDED = "baseline", "packed", "padded"
CONTENDERS = (SERIAL, FORWARDS, BASELINE, PACKED, PADDED, GATHER, REDUCE)
WITHOUT_CONTROL = " without control"
LABELS = {
    SERIAL: "serial, one rank",
    FORWARDS: "forwards alone, nothing sent",
    GATHER: "all_gather",
    REDUCE: "all_reduce",
    BASELINE: "engines' generic dispatch (baseline)",
    PACKED: "sglang's path for LTX-2",
    PADDED: "vLLM-Omni's path for LTX-2",
}


@attrs.frozen
class Job:
    """What every contender does."""

    title: str
    spec: str
    strengths: Mapping[str, tuple[float, ...]]
    "The same in the baseline's words, by output."
    batch: int = 1
    options: Mapping[str, Any] = attrs.field(factory=dict)
    "Of the distributed executors."


def falling(steps: int) -> list[float]:
    """Return the noise levels of a run of `steps`, each another one, from 1 to 0."""
    return [1 - index / steps for index in range(steps + 1)]


_SPEC = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,rescale_scale=0.7,stg_blocks=1,modality_scale="
SAVING_STEPS = 8
"Steps of the runs in which methods save passes."
SAVINGS = {
    "plain": f"{_SPEC}3",
    "gate": f"{_SPEC}3,gate",
    "interval": f"{_SPEC}3,interval:lo=0.25,hi=0.75,by=fraction",
    "skip_step": f"{_SPEC}3,skip_step=1",
}
"What saves passes, in the job with four branches."
FOUR = Job("four branches, one sample", f"{_SPEC}3", {"video": (2.0, 1.0, 2.0), "audio": (6.0, 1.0, 2.0)})
THREE = Job(
    "three branches, two samples, rows shared out",
    f"{_SPEC}1",
    {"video": (2.0, 1.0), "audio": (6.0, 1.0)},
    batch=2,
    options={"split_rows": True, "batched": True},
)
