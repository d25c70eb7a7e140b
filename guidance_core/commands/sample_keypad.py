"""What `guidance-core sample --model keypad` prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guidance_core.commands.options import print_json
from guidance_core.commands.sample_page import Page, show_measured
from guidance_core.commands.scored import Measured, Row

if TYPE_CHECKING:
    from guidance_core.models.demo import KeypadDemo
    from guidance_core.models.keypad_clips import Clips

SPEC = "ltx2:cfg_scale=3,modality_scale=3,stg_scale=1,stg_blocks=0,rescale_scale=0.7"
"The stack that is shown beside no guidance."
SCORES = {
    "agreement": "agreement",
    "video": "prompt seen",
    "audio": "prompt heard",
    "both": "both, and agree",
    "clipped": "sound clipped",
    "saturated": "picture clipped",
}
"Headings of the scores that the table shows; JSON has all of them. All are shares."


def show_clips(
    demo: KeypadDemo, rows: list[Clips], out: Path, animation: Path | None, page: Page | None, *, as_json: bool
) -> None:
    """Write the sheet, the animation, the sounds and the page of them, and print what was measured."""
    from guidance_core.models.keypad_pictures import save_clips

    files = save_clips(rows, demo.specs, out, animation)
    count = len(rows[0].video)
    settings = {"model": "keypad", "steps": demo.steps, "seed": demo.seed, "samples": count, "executor": demo.chosen}
    measured = Measured(
        [
            Row(spec, clips.passes_per_step, clips.seconds, clips.scores.summary(), clips.trace)
            for spec, clips in zip(demo.specs, rows, strict=True)
        ],
        SCORES,
        frozenset(SCORES),
        f"Means over clips, of which a row has {count}. agreement: share of frames in which the digit seen, read by "
        "an independent classifier, is the digit heard, measured by Goertzel's filter; prompt seen, prompt heard: "
        "share of clips whose picture or sound follows the prompt; both, and agree: share in which both do and every "
        "frame agrees; clipped: share of values outside of [-1, 1], of pictures [-1.1, 1.1].",
    )
    titles = ("picture", "animation", *(f"sound of {row.name}" for row in measured.rows))
    written = None if page is None else page(settings, measured, list(zip(titles, files, strict=True)))
    if as_json:
        data = {**settings, "picture": str(out), "files": list(map(str, files)), "rows": measured.as_data()}
        print_json({**data, **({} if written is None else {"page": str(written)})})
        return
    kinds = ("picture", "animation", *["sound"] * len(rows))
    named = [*zip(kinds, files, strict=True), *([] if written is None else [("page", written)])]
    show_measured(measured, f"{count} clips", named)
