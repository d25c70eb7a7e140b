"""Clips of the gallery: picture and sound together."""

from __future__ import annotations

import torch

from guidance_core.gallery.letters import Found
from guidance_core.guidance import Guidance
from guidance_core.models.keypad import PATTERNS, TEMPOS
from guidance_core.models.keypad_changes import OUTPUTS
from guidance_core.models.keypad_clips import make_clips
from guidance_core.trace import Trace

PROMPTS = tuple(f"{pattern}, {tempo}" for pattern in PATTERNS[1:] for tempo in TEMPOS[1:])
"Every pattern in both tempos."
STEPS = 25


def draw(guidance: Guidance, *, steps: int, clips: int, seed: int) -> Found:
    """Make clips of every prompt, and judge them.

    Returns tensors by name, for N clips: `agreement`, `seen`, `heard`, `both`, `clipped` and `saturated` `[N]`, and
    `video_scale` and `audio_scale`, the effective scale of each output `[N]` (nan where a step has no pass u); and the
    numbers `passes` (a step) and `seconds`.
    """
    trace = Trace()
    made = make_clips(guidance, PROMPTS, steps=steps, per_prompt=clips, seed=seed, trace=trace)
    scores = made.scores
    found = {
        "agreement": scores.agreement,
        "seen": scores.video,
        "heard": scores.audio,
        "both": scores.both,
        "clipped": scores.clipped,
        "saturated": scores.saturated,
    }
    scales = {}
    for output in OUTPUTS:
        moved = [record.outputs[output].effective_strength for record in trace]
        known = [torch.tensor(each, dtype=torch.float64) for each in moved if each is not None]
        whole = torch.stack(known).mean(0) if len(known) == len(moved) else torch.full((len(made.video),), torch.nan)
        scales[f"{output}_scale"] = 1 + whole
    return (
        {name: each.double() for name, each in found.items()}
        | scales
        | {
            "passes": torch.tensor(made.passes_per_step, dtype=torch.float64),
            "seconds": torch.tensor(made.seconds, dtype=torch.float64),
        }
    )
