"""Measure what guidance does to the Keypad model's clips: the table of docs/keypad.md.

    python training/measure_keypad.py [--seed N] [--per-prompt N]

Each row has the same prompts (five patterns, two tempos) and starts from the same noise. Means with 95 %
intervals over clips; the first row is real clips of digits that neither the model nor the judge has seen.
"""

from __future__ import annotations

import argparse

import torch
from keypad_data import clips

from guidance_core import Guidance
from guidance_core.models.keypad import PATTERNS, TEMPOS
from guidance_core.models.keypad_clips import make_clips
from guidance_core.models.keypad_judges import Scores, judge, load_digit_reader

ROWS = {
    "cond alone": "",
    "cfg": "cfg:scale=3",
    "cfg + STG": "ltx2:cfg_scale=3,stg_scale=1,stg_blocks=0,modality_scale=1,rescale_scale=0",
    "cfg + modality": "ltx2:cfg_scale=3,stg_scale=0,modality_scale=3,rescale_scale=0",
    "all four": "ltx2:cfg_scale=3,stg_scale=1,stg_blocks=0,modality_scale=3,rescale_scale=0",
    "all four, rescaled": "ltx2:cfg_scale=3,stg_scale=1,stg_blocks=0,modality_scale=3,rescale_scale=0.7",
    "the 2.3 preset": "ltx2:preset=2.3,stg_blocks=0",
}
SHARES = ("agreement", "video", "audio", "both", "in_time", "clipped", "saturated")


def written(scores: Scores) -> str:
    """Return the scores as the cells of a table."""
    found = scores.summary()
    cells = [found[name].written(percent=True).replace(" %", "") for name in SHARES]
    return " | ".join([*cells, found["offset"].written()])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure guidance on the Keypad model.")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--per-prompt", type=int, default=40)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("-g", action="append", help="a stack to measure in place of the usual rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prompts = [f"{pattern}, {tempo}" for pattern in PATTERNS[1:] for tempo in TEMPOS[1:]]
    print(
        "| guidance | agree | prompt, seen | prompt, heard | both, agreeing | in time | clipped | saturated | offset |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    count = options.per_prompt * len(prompts)
    video, audio, asked, _ = clips(count, "held out", torch.Generator().manual_seed(options.seed))
    with torch.no_grad():
        print(f"| real clips | {written(judge(video, audio, asked, load_digit_reader()))} |", flush=True)
    for name, spec in ({spec: spec for spec in options.g} if options.g else ROWS).items():
        made = make_clips(
            Guidance.from_spec(spec), prompts, steps=options.steps, per_prompt=options.per_prompt, seed=options.seed
        )
        print(f"| {name} | {written(made.scores)} |", flush=True)


if __name__ == "__main__":
    main()
