"""What `guidance-core sample --model keypad` prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from guidance_core.commands.options import Console, print_json
from guidance_core.commands.sample_page import Page
from guidance_core.commands.scored import as_data

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


def show_clips(
    demo: KeypadDemo, rows: list[Clips], out: Path, animation: Path | None, page: Page | None, *, as_json: bool
) -> None:
    """Write the sheet, the animation, the sounds and the page of them, and print what was measured."""
    from guidance_core.models.keypad_pictures import save_clips

    files = save_clips(rows, demo.specs, out, animation)
    count = len(rows[0].video)
    settings = {"model": "keypad", "steps": demo.steps, "seed": demo.seed, "samples": count, "executor": demo.chosen}
    made = [_as_data(spec, clips) for spec, clips in zip(demo.specs, rows, strict=True)]
    data = {**settings, "picture": str(out), "files": list(map(str, files)), "rows": made}
    titles = ("picture", "animation", *(f"sound of {spec or 'no guidance'}" for spec in demo.specs))
    written = None if page is None else page(data, list(zip(titles, files, strict=True)))
    if as_json:
        print_json({**data, **({} if written is None else {"page": str(written)})})
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
        console.print(f"{kind}: {file}", soft_wrap=True, markup=False)
    if written is not None:
        console.print(f"page: {written}", soft_wrap=True, markup=False)


def _table(rows: list[Clips]) -> Table:
    table = Table("", "passes\nper step", "seconds", *SCORES.values(), box=SIMPLE, pad_edge=False, padding=(0, 1))
    for number, clips in enumerate(rows, 1):
        found = clips.scores.summary()
        shares = [
            f"{100 * each.value:.0f}" + (f" ±{50 * (each.high - each.low):.0f}" if each.has_interval else "")
            for each in map(found.__getitem__, SCORES)
        ]
        facts = (str(number), f"{clips.passes_per_step:.2f}", f"{clips.seconds:.2f}")
        table.add_row(*facts, *shares)
    return table


def _as_data(spec: str, clips: Clips) -> dict[str, Any]:
    data = {
        "guidance": spec,
        "passes_per_step": clips.passes_per_step,
        "seconds": round(clips.seconds, 3),
        "scores": as_data(clips.scores.summary()),
    }
    return data if clips.trace is None else {**data, "trace": clips.trace.to_dict()["steps"]}
