"""The table of methods and their formulas, as a part of a page of the documentation."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from guidance_core.discovery import plugin_class
from guidance_core.discovery.shipped import PLUGINS, SHIPPED
from guidance_core.hosts.guiders import ROWS
from oracles import oracles
from oracles._measured import largest

PAGE = Path(__file__).parents[2] / "docs" / "oracles.md"
BEGIN, END = "<!-- oracles -->", "<!-- end of oracles -->"
HEADER = (
    "| method | source | compared with | float32 | bf16 | float16 |",
    "|---|---|---|---|---|---|",
)

WITHOUT: dict[str, str] = {
    "cads": "it edits inputs of the model; `test_cads_anneals_as_in_the_paper` and others in `test_field_methods.py`",
    "nag": "the model makes it; `test_normalized_attention_is_that_of_the_paper` in `test_perturbations.py`",
    "universal": "it differentiates through the model; "
    "`test_universal_guidance_moves_the_noise_along_the_gradient` in `test_field_methods.py`",
}
"Methods that no formula stands for, with the reason and the test that stands in."


def module_of(name: str) -> str:
    """Return the module that holds a method's formula: it is named as the plugin's."""
    return SHIPPED[PLUGINS][name].partition(":")[0].rpartition(".")[2]


def source_of(name: str) -> str:
    """Return the source that a plugin's docstring names."""
    text = inspect.cleandoc(plugin_class(name).__doc__ or "")
    found = re.search(r"^Source: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()).rstrip(".") if found else "–"


def compared_with(name: str) -> str:
    """Return the file of a method's formula, and the guiders of diffusers that it is the first part of."""
    guiders = [f"`{guider}`" for guider, row in ROWS.items() if row.methods[0] == name]
    return ", ".join([f"`{module_of(name)}.py`", *guiders])


def table() -> str:
    """Return the table, and where the code of others differs."""
    known = oracles()
    lines, differs = [*HEADER], []
    for name in sorted(SHIPPED[PLUGINS]):
        module = module_of(name)
        if name in WITHOUT:
            lines.append(f"| `{name}` | {source_of(name)} | no formula: {WITHOUT[name]} | – | – | – |")
            continue
        found = largest(known[module])
        figures = f"{found.float32:.1f} | {found.bf16:.3f} | {found.float16:.3f}"
        lines.append(f"| `{name}` | {source_of(name)} | {compared_with(name)} | {figures} |")
        if known[module].differs:
            differs.append(f"- `{name}`: {known[module].differs}")
    return "\n".join([*lines, "", "Where the code of others differs on purpose:", "", *differs])


def with_table(text: str) -> str:
    """Return the page with the table between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def listed(text: str) -> dict[str, list[str]]:
    """Return the cells of every row of a page, by method."""
    _, _, rest = text.partition(BEGIN)
    rows = [line.strip("| ").split(" | ") for line in rest.splitlines() if line.startswith("| `")]
    return {name.strip("`"): cells for name, *cells in rows}
