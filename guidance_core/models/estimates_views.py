"""Estimates of x0 to look at: some steps side by side, or many one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guidance_core.models.drawing import Drawing
from guidance_core.models.estimates import spread
from guidance_core.models.files import writing
from guidance_core.models.grid import Row, facts_of, grid

COLUMNS = 8
"The most steps side by side."
LINES = 3
"The most classes of a row."
FRAMES = 50
"The most frames of an animation."
SECONDS = 4.0
"How long an animation of many frames takes, without the last one."
LAST = 1500
"Milliseconds that the last frame stays."


def save_steps(drawings: Sequence[Drawing], labels: Sequence[str], path: Path, caption: str = "") -> None:
    """Write a PNG: a row for each drawing, with a line for each of its first classes, and a column for each step.

    Args:
        drawings: one for each row, with estimates of the same steps.
        labels: what stands left of each row.
        path: where to write.
        caption: stands below.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    kept = drawings[0].kept
    chosen = [kept.steps.index(step) for step in spread(kept.steps[-1] + 1, COLUMNS)]
    rows = [
        Row(label, facts_of(drawing), drawing.kept.x0[chosen, :LINES, 0].transpose(0, 1))
        for label, drawing in zip(labels, drawings, strict=True)
    ]
    columns = [f"step {kept.steps[place]}" for place in chosen]
    notes = [f"sigma {kept.sigmas[place]:.2f}" for place in chosen]
    with writing(path):
        grid(columns, rows, notes=notes, caption=caption).save(path, "PNG")


def save_animation(drawings: Sequence[Drawing], labels: Sequence[str], path: Path, caption: str = "") -> None:
    """Write an animation, GIF or WebP by the path's ending: the rows of `save_grid`, with a frame for each step.

    Arguments and errors as of `save_steps`.
    """
    first = drawings[0]
    frames = []
    for place, (step, sigma) in enumerate(zip(first.kept.steps, first.kept.sigmas, strict=True)):
        rows = [
            Row(label, facts_of(drawing), drawing.kept.x0[place, :, 0][None])
            for label, drawing in zip(labels, drawings, strict=True)
        ]
        said = f"step {step}, sigma {sigma:.2f}"
        frames.append(grid(first.columns, rows, notes=first.notes, caption=f"{said}: {caption}" if caption else said))
    pause = int(max(40.0, min(250.0, 1000 * SECONDS / len(frames))))
    durations = [pause] * (len(frames) - 1) + [LAST]
    settings = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    with writing(path):
        if path.suffix.lower() == ".webp":
            frames[0].save(path, "WEBP", lossless=True, method=4, **settings)
        else:
            frames[0].save(path, "GIF", **settings)
