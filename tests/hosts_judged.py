"""How every host is judged: against its own guidance, by its passes, and on ranks. `make table-hosts`.

python tests/hosts_judged.py            the table of docs/hosts.md
python tests/hosts_judged.py --write    write it into the page
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import diffusers_judged
import host_jobs
import torch
from every_pipeline import CASES

from guidance_core.ranks import Ranks

PAGE = Path(__file__).parents[1] / "docs" / "hosts.md"
BEGIN, END = "<!-- hosts -->", "<!-- end of hosts -->"
COLUMNS = ("host", "version", "mechanism", "pipelines", "equality", "passes", "ranks")
MOST = 1e-5
"The largest difference to a host's own guidance that is rounding."


@attrs.frozen
class Shown:
    """How a host is called in the table."""

    host: str
    mechanism: str
    pipelines: str


SHOWN = {
    "modular": Shown("diffusers, Modular", "a guider, `StackGuidance`", "Wan 2.1"),
    "loop": Shown("your own loop", "`run.step` with `LTX2Denoiser`", "LTX-2's transformer of diffusers"),
    "ltx-pipelines": Shown("ltx-pipelines", "a `Denoiser`, `StackDenoiser`", "LTX-2's transformer of ltx-core"),
    "sglang": Shown("sglang", "a mixin for `DenoisingStage`", "its stage, a small model"),
    "sglang, LTX-2": Shown("sglang, LTX-2", "a mixin for `LTX2DenoisingStage`", "its stage, a small model"),
    "vllm-omni": Shown("vLLM-Omni", "a mixin for `CFGParallelMixin`", "its mixin, a small model"),
    "vllm-omni, LTX-2": Shown("vLLM-Omni, LTX-2", "a mixin for `LTXGuidanceExecutor`", "its executor, a small model"),
    "comfyui": Shown("ComfyUI", "a guider for SamplerCustomAdvanced", "Wan 2.1"),
}
"The hosts of the table below classic pipelines, by their names in `host_jobs.HOSTS`."


def row(name: str, pool: Any) -> tuple[str, ...]:
    """Return a host's row."""
    judged, shown = host_jobs.Judged(name), SHOWN[name]
    counts = judged.passes
    passes = ", ".join(f"{count} with `{which}`" for which, count in counts.items() if which not in ("own", "equal"))
    same = f"{counts['equal']}; own {counts['own']}; {passes}"
    version = judged.subject.version
    return (
        shown.host,
        version,
        shown.mechanism,
        shown.pipelines,
        bound(judged.difference),
        same,
        ranks(judged, name, pool),
    )


def ranks(judged: Any, name: str, pool: Any) -> str:
    """Return how two ranks compare with one process: the bits of every stack, and no pass in vain."""
    if not judged.subject.takes_ranks:
        return "its own devices"
    found = pool.run(host_jobs.on_ranks, name)
    for which, digest in judged.bits.items():
        if {each[which][0] for each in found} != {digest}:
            return f"`{which}` differs"
        if sum(each[which][1] for each in found) != judged.passes[which]:
            return f"`{which}` runs {sum(each[which][1] for each in found)} passes"
    return "2, same bits"


def classic() -> tuple[str, ...]:
    """Return the row of classic pipelines, which sums up the table of their own page."""
    page = diffusers_judged.PAGE.read_text()
    lines = page.partition(diffusers_judged.BEGIN)[2].partition(diffusers_judged.END)[0].strip().splitlines()[2:]
    cells = [[each.strip() for each in line.strip("|").split("|")] for line in lines]
    names = [each[0] for each in cells]
    assert names == [case.name for case in CASES], "run `make table-diffusers` first"
    kinds = Counter(each[1] for each in cells)
    pipelines = (
        f"[{len({type(case.pipeline()) for case in CASES})} classes, {len(cells)} cases](diffusers-pipelines.md)"
    )
    mechanism = f"a stand-in for the model: {', '.join(f'{kind} ({count})' for kind, count in sorted(kinds.items()))}"
    same = {each[6] for each in cells}
    return (
        "diffusers, classic",
        metadata.version("diffusers"),
        mechanism,
        pipelines,
        bound(max(float(each[3]) for each in cells)),
        "as many as its own; fewer with `interval` and `gate`",
        f"2, {same.pop()}" if len(same) == 1 else "differs",
    )


def bound(difference: float) -> str:
    """Return the power of ten that a difference lies below; what is exact is 0."""
    return "0" if difference == 0 else f"< 1e{math.floor(math.log10(difference)) + 1:+03d}"


def table(names: Any = tuple(SHOWN)) -> str:
    """Return the table as Markdown."""
    with Ranks(2, patience=120, imports=["diffusers", "transformers"]) as pool:
        rows = [classic(), *(row(name, pool) for name in names)]
    return as_table(rows)


def as_table(rows: Any) -> str:
    """Return rows as Markdown."""
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(each)} |" for each in rows)])


def committed() -> list[tuple[str, ...]]:
    """Return the rows of the page."""
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.strip().splitlines()[2:]]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    text = table()
    if "--write" in sys.argv[1:]:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, found, after = rest.partition(END)
        assert found, f"{END} is missing"
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    else:
        print(text)
