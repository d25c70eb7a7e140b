"""What `guidance-core sample --model mixture` prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from guidance_core.commands.options import Console, print_json
from guidance_core.commands.sample_page import Page
from guidance_core.commands.scored import as_data, score_table

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
    rows = [
        {
            "guidance": spec,
            "passes_per_step": cloud.passes_per_step,
            "seconds": round(cloud.seconds, 3),
            "scores": as_data(cloud.scores),
            **({} if cloud.trace is None else {"trace": cloud.trace.to_dict()["steps"]}),
        }
        for spec, cloud in zip(demo.specs, clouds, strict=True)
    ]
    made: dict[str, Any] = {
        "model": "mixture",
        "steps": demo.steps,
        "seed": demo.seed,
        "samples": count,
        "executor": demo.chosen,
        "picture": str(out),
        "data": {"scores": as_data(data.scores)},
        "rows": rows,
    }
    files = [("picture", out)]
    if page is not None:
        files.append(("page", page(made, files)))
    if as_json:
        print_json({**made, **{kind: str(path) for kind, path in files}})
        return
    labels = [spec or "none" for spec in demo.specs]
    for label, cloud in zip(labels, clouds, strict=True):
        if cloud.trace is not None:
            print(f"{label}, means over {count} samples\n{cloud.trace}\n")
    console = Console()
    numbers = list(map(str, range(1, len(clouds) + 1)))
    cost = Table("", Column("guidance", overflow="fold"), "passes per step", "seconds")
    for number, label, cloud in zip(numbers, labels, clouds, strict=True):
        cost.add_row(number, label, f"{cloud.passes_per_step:.2f}", f"{cloud.seconds:.2f}")
    console.print(cost)
    console.print(score_table([cloud.scores for cloud in (data, *clouds)], SHARES, ["data", *numbers]))
    console.print(
        f"Of {count} samples a row, and half of the 95 % intervals. class: share most likely of the class asked for; "
        "outliers: share less likely than all but a thousandth of the data; coverage: how much of the data's weight is "
        "filled, branch by branch; likelihood: mean log density of the data; distance: sliced Wasserstein distance "
        "from the data; diversity: mean distance between two samples of a class"
    )
    for kind, path in files:
        console.print(f"{kind}: {path}", soft_wrap=True, markup=False)
