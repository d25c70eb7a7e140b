"""The picture of the mixture: a panel for each stack, with the data's density, trajectories and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guidance_core.models.files import writing
from guidance_core.models.grid import wrapped
from guidance_core.models.mixture_data import tree_mixture
from guidance_core.models.mixture_drawing import SHOWN, Cloud

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGIONS = (0.5, 0.9, 0.999)
"The shares of the data that lie within the contours."
LEFT, RIGHT, BOTTOM, TOP = -2.0, 2.0, -1.55, 1.35
"What a panel shows of the plane."
ACROSS = 3
"The most panels in a row."
WIDTH, HEIGHT, LINE, DPI = 4.4, 3.0, 0.17, 110
"Of a panel in inches, of a line of text, and pixels for an inch."
SHADES = ("#ffe3c2", "#ffc98a", "#fdae5c")
"From the largest region to the smallest."
OTHERS, PATH, SAMPLE, INK, GREY = "#9aa5b1", "#4a6fa5", "#b3261e", "#282828", "#6e6e6e"
SHARES = ("class", "outliers", "coverage")
"Scores that are shares."
CAPTION = ("outliers", "coverage", "likelihood", "distance")
"Scores that stand below a panel."


def save_clouds(data: Cloud, clouds: Sequence[Cloud], labels: Sequence[str], path: Path) -> None:
    """Write a PNG: a panel of the data, and one for each stack, of the first class.

    Args:
        data: samples of the data itself.
        clouds: what each stack made.
        labels: what stands above each panel; long ones are broken at commas.
        path: where to write.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    import matplotlib as mpl  # an optional dependency, needed for this alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [("data", data), *zip((label or "no guidance" for label in labels), clouds, strict=True)]
    columns = min(ACROSS, len(panels))
    rows = math.ceil(len(panels) / columns)
    titles = [wrapped(label) for label, _ in panels]
    above = max(title.count("\n") + 1 for title in titles) * LINE + 0.15
    below = (len(CAPTION) + 2) * LINE + 0.1
    height = rows * (above + HEIGHT + below) + 2 * LINE
    # The defaults, whatever a user's own style says; and no part of pyplot, so that no display is asked for.
    with mpl.rc_context(mpl.rcParamsDefault | {"backend": "agg"}):
        figure = Figure((columns * WIDTH, height), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        for number, (title, (_, cloud)) in enumerate(zip(titles, panels, strict=True)):
            row, column = divmod(number, columns)
            bottom = height - (row + 1) * (above + HEIGHT + below) + below
            place = (column / columns + 0.01, bottom / height, 1 / columns - 0.02, HEIGHT / height)
            axes = figure.add_axes(place)
            _draw(axes, cloud)
            axes.set_title(title, fontsize=10, color=INK)
            axes.text(0, -0.03, _caption(cloud), fontsize=8.5, color=GREY, va="top", transform=axes.transAxes)
        _legend(figure)
        with writing(path):
            canvas.print_figure(path, format="png")


def _draw(axes: Axes, cloud: Cloud) -> None:
    """Draw the densities, the trajectories and the samples of one stack."""
    data, generator = tree_mixture(), torch.Generator().manual_seed(0)
    across, up = torch.linspace(LEFT, RIGHT, 360), torch.linspace(BOTTOM, TOP, 260)
    plane = torch.cartesian_prod(up, across).flip(1).double()

    def density(label: int | None) -> tuple[Any, list[float]]:
        """Return the log density over the plane, and its levels around the regions, the largest first."""
        drawn = data.log_density(data.sample(10_000, label, generator), label)
        levels = drawn.quantile(1 - torch.tensor(REGIONS, dtype=torch.float64)).sort().values.tolist()
        return data.log_density(plane, label).reshape(len(up), len(across)).numpy(), levels

    inside, levels = density(SHOWN)
    axes.contourf(across, up, inside, [*levels, inside.max() + 1], colors=SHADES)
    every, outline = density(None)
    axes.contour(across, up, every, outline[:1], colors=OTHERS, linewidths=0.7, linestyles="solid")
    for path in cloud.paths.transpose(0, 1).tolist():
        axes.plot(*zip(*path, strict=True), color=PATH, linewidth=0.5, alpha=0.6)
    samples = cloud.samples[cloud.label == SHOWN]
    axes.plot(*samples.T.tolist(), linestyle="", marker="o", markersize=1.8, markeredgewidth=0, color=SAMPLE, alpha=0.7)
    axes.set(xlim=(LEFT, RIGHT), ylim=(BOTTOM, TOP), xticks=[], yticks=[])
    for edge in axes.spines.values():
        edge.set_color(OTHERS)


def _caption(cloud: Cloud) -> str:
    samples = cloud.samples[cloud.label == SHOWN]
    shown = (samples >= torch.tensor([LEFT, BOTTOM])) & (samples <= torch.tensor([RIGHT, TOP]))
    outside = int((~shown.all(1)).sum())
    scores = [f"{name} {cloud.scores[name].written(percent=name in SHARES)}" for name in CAPTION]
    passes = f"{cloud.passes_per_step:.3g}"
    facts = f"{passes} {'pass' if passes == '1' else 'passes'} per step" if cloud.passes_per_step else "drawn directly"
    facts += f"; scores of {len(cloud.samples):,} samples"
    hidden = f"{outside} of {len(samples)} lie outside of the panel" if outside else ""
    return "\n".join((facts, *scores, hidden))


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shares = ", ".join(f"{100 * region:.3g}" for region in REGIONS)
    entries = [
        Patch(color=SHADES[1], label=f"the class asked for: {shares} % of its data"),
        Line2D([], [], color=OTHERS, linewidth=1, label=f"both classes: {100 * REGIONS[-1]:.3g} % of the data"),
        Line2D([], [], color=PATH, linewidth=1, label="trajectory"),
        Line2D([], [], color=SAMPLE, marker="o", linestyle="", markersize=4, label="sample"),
    ]
    figure.legend(handles=entries, loc="lower center", ncols=2, fontsize=8.5, frameon=False, labelcolor=INK)
