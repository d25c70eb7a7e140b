"""Which pipelines of diffusers do classifier-free guidance, how they call their models, and what the library says.

python tests/diffusers_survey.py            one line for each
python tests/diffusers_survey.py --write    the table of those that are refused, in docs/diffusers-pipelines.md
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import attrs
import diffusers

from guidance_core.hosts.diffusers.pipelines import PATTERNS
from guidance_core.hosts.diffusers.refused import LIKE, REASONS, UNTRIED

PAGE = Path(__file__).parents[1] / "docs" / "diffusers-pipelines.md"
BEGIN, END = "<!-- refused -->", "<!-- end of refused -->"
FORMULA = re.compile(
    r"\w*(guidance|cfg)_?\w*\s*\*\s*\(?\s*\w*(pred|cond|text|pos|eps|v_|velocity|\()"  # s·(c − u)
    r"|\.lerp\(|\bguider\(|guidance_scale\s*\+\s*1|\(1\s*\+\s*\w*guidance_scale\)|(cfg|guidance_scale - 1)\) \* \("
)
"What guidance looks like in a pipeline's source; it finds too much rather than too little."
CALL = re.compile(r"\b(?:self\.)?(unet|transformer|prior|decoder|current_model|unconditional_transformer)\(")
STACKED = re.compile(r"torch\.cat\(\[\w*latents\w*\] \* \d|\.repeat\(2|num_cfg \+ 1|cat\(\[\w+\] \* 2")
OUTSIDE = re.compile(r"deprecated|flax|onnx")
"Modules of pipelines that diffusers does not keep up any more, or that run on another engine."


@attrs.frozen
class Surveyed:
    """A class of pipelines."""

    name: str
    guides: bool
    "Whether its source has a formula of guidance."
    calls: int
    "Calls of models in its source."
    is_stacked: bool
    "Whether its source puts latents into one batch."

    @property
    def says(self) -> str:
        """What the library says of it."""
        if self.name in PATTERNS:
            return "works"
        return REASONS.get(self.name) or f"was not tried, seems to be like {UNTRIED.get(self.name)}"


def surveyed() -> Iterator[Surveyed]:
    """Yield every class of pipelines that has a call of its own."""
    for kind in sorted(_classes(), key=lambda each: each.__name__):
        source = "\n".join(_sources(kind))
        is_stacked = bool(STACKED.search(source))
        yield Surveyed(kind.__name__, bool(FORMULA.search(source)), len(CALL.findall(source)), is_stacked)


def _sources(kind: type) -> Iterator[str]:
    for name, value in vars(kind).items():
        if inspect.isfunction(value) and name not in ("__init__", "encode_prompt", "get_guidance_scale_embedding"):
            yield inspect.getsource(inspect.unwrap(value))


def _classes() -> set[type]:
    pipelines = importlib.import_module("diffusers.pipelines")
    found = set()
    for module in pkgutil.walk_packages(pipelines.__path__, f"{pipelines.__name__}."):
        if OUTSIDE.search(module.name) or not module.name.split(".")[-1].startswith("pipeline_"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            is_own = inspect.isclass(value) and value.__module__ == module.name
            if is_own and issubclass(value, diffusers.DiffusionPipeline) and "__call__" in vars(value):
                found.add(value)
    return found


def table() -> str:
    """Return why pipelines are refused, as Markdown."""
    rows = ["| refused | why |", "|---|---|"]
    for reason in dict.fromkeys(REASONS.values()):
        rows.append(f"| {_listed(name for name, why in REASONS.items() if why == reason)} | {reason} |")
    for known, names in LIKE.items():
        rows.append(f'| {_listed(names)} | not tried; `pattern="{known}"` may do |')
    return "\n".join(rows)


def _listed(names: Iterator[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "--write" in sys.argv[1:]:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, found, after = rest.partition(END)
        assert found, f"{END} is missing"
        PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
    else:
        for each in surveyed():
            how = "one stacked call" if each.is_stacked else f"{each.calls} calls"
            print(f"{each.name:48s} {'guides' if each.guides else '':8s}{how:18s}{each.says}")
