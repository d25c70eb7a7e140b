"""What `guidance-core sample --model keypad` prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from guidance_core.commands.options import Console, print_json

if TYPE_CHECKING:
    from guidance_core.models.demo import KeypadDemo
    from guidance_core.models.keypad_clips import Clips

SPEC = "ltx2:cfg_scale=3,modality_scale=3,stg_scale=1,stg_blocks=0,rescale_scale=0.7"
"The stack that is shown beside no guidance."
SCORES = {
    "agreement": "agree",
    "video": "prompt\nseen",
    "audio": "prompt\nheard",
    "both": "both,\nagree",
    "clipped": "sound\nclipped",
    "saturated": "picture\nclipped",
}
"Headings of the scores that the table shows; JSON has all of them."


def show_clips(demo: KeypadDemo, rows: list[Clips], out: Path, *, as_json: bool) -> None:
    """Write the sheet, the animation and the sounds, and print what was measured."""
    from guidance_core.models.keypad_pictures import save_clips

    files = save_clips(rows, demo.specs, out)
    count = len(rows[0].video)
    if as_json:
        settings = {"steps": demo.steps, "seed": demo.seed, "samples": count, "executor": demo.chosen}
        made = [_as_data(spec, clips) for spec, clips in zip(demo.specs, rows, strict=True)]
        print_json({**settings, "picture": str(out), "files": list(map(str, files)), "rows": made})
        return
    for clips, spec in zip(rows, demo.specs, strict=True):
        if clips.trace is not None:
            print(f"{spec or 'no guidance'}, means over {count} clips\n{clips.trace}\n")
    console = Console()
    console.print(_table(rows))
    for number, spec in enumerate(demo.specs, 1):
        console.print(f"{number}: {spec or 'no guidance'}", soft_wrap=True)
    console.print(
        f"In percent: means of the clips ({count} a row), and half of their 95 % intervals. agree: share of frames in "
        "which the digit seen, read by an independent classifier, is the digit heard, measured by Goertzel's filter."
    )
    for kind, file in zip(("picture", "animation", *["sound"] * len(rows)), files, strict=True):
        console.print(f"{kind}: {file}", soft_wrap=True)


def _table(rows: list[Clips]) -> Table:
    table = Table("", "passes\nper step", "seconds", *SCORES.values(), box=SIMPLE, pad_edge=False, padding=(0, 1))
    for number, clips in enumerate(rows, 1):
        found = clips.scores.summary()
        several = len(clips.video) > 1
        shares = [
            f"{100 * mean:.0f}" + f" ±{50 * (high - low):.0f}" * several
            for mean, low, high in map(found.__getitem__, SCORES)
        ]
        facts = (str(number), f"{clips.passes_per_step:.2f}", f"{clips.seconds:.2f}")
        table.add_row(*facts, *shares)
    return table


def _as_data(spec: str, clips: Clips) -> dict[str, Any]:
    scores = {
        name: {"mean": round(mean, 4), "interval": [round(low, 4), round(high, 4)]}
        for name, (mean, low, high) in clips.scores.summary().items()
    }
    data = {
        "guidance": spec,
        "passes_per_step": clips.passes_per_step,
        "seconds": round(clips.seconds, 3),
        "scores": scores,
    }
    return data if clips.trace is None else {**data, "trace": clips.trace.to_dict()["steps"]}
