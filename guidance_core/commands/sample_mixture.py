"""What `guidance-core sample --model mixture` prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidance_core.commands.options import print_json
from guidance_core.commands.sample_page import Page, show_measured
from guidance_core.commands.scored import Measured, Row, as_data

if TYPE_CHECKING:
    from guidance_core.models.demo import MixtureDemo
    from guidance_core.models.mixture_drawing import Cloud

SPECS = ("", "cfg:scale=4", "autoguidance:scale=3,model=weak")
"The stacks that are shown if none is given."


def show_clouds(demo: MixtureDemo, clouds: list[Cloud], out: Path, page: Page | None, *, as_json: bool) -> None:
    """Write the picture and the page of it, and print what was measured."""
    from guidance_core.models.mixture_data import CLASSES
    from guidance_core.models.mixture_drawing import real_samples
    from guidance_core.models.mixture_pictures import SHARES, save_clouds

    count = len(clouds[0].samples)
    data = real_samples(count // CLASSES)
    save_clouds(data, clouds, demo.specs, out)
    measured = Measured(
        [
            Row(spec, cloud.passes_per_step, cloud.seconds, cloud.scores, cloud.trace)
            for spec, cloud in zip(demo.specs, clouds, strict=True)
        ],
        {name: name for name in data.scores},
        frozenset(SHARES),
        f"Samples in a row: {count}. class: share most likely of the class asked for; outliers: share less likely than "
        "all but a thousandth of the data; coverage: how much of the data's weight is filled, branch by branch; "
        "likelihood: mean log density of the data; distance: sliced Wasserstein distance from the data; diversity: "
        "mean distance between two samples of a class.",
        beside={"data": data.scores},
    )
    settings: dict[str, Any] = {
        "model": "mixture",
        "steps": demo.steps,
        "seed": demo.seed,
        "samples": count,
        "executor": demo.chosen,
    }
    files = [("picture", out)]
    if page is not None:
        files.append(("page", page(settings, measured, files)))
    if as_json:
        beside = {"data": {"scores": as_data(data.scores)}}
        print_json({**settings, **{kind: str(path) for kind, path in files}, **beside, "rows": measured.as_data()})
        return
    show_measured(measured, f"{count} samples", files)
