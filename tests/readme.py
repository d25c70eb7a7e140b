"""The parts of README.md that are made from what ships.

python tests/readme.py --write       write them anew
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from guidance_core import catalog
from guidance_core.recipes.finding import shipped

ROOT = Path(__file__).parent.parent
FILE = ROOT / "README.md"
HOSTS = ROOT / "docs" / "hosts.md"
PAGES = {
    "diffusers": "diffusers.md",
    "your own loop": "loops.md",
    "sglang": "sglang.md",
    "vLLM-Omni": "vllm-omni.md",
    "ComfyUI": "comfyui.md",
    "ltx-pipelines": "ltx.md",
}
"The page of each host, by how its row in the table of hosts begins."

WISHES = {
    "follow the prompt more closely": (
        *("cfg", "cfg-plus-plus", "cfg-zero-star", "apg", "apg-mix", "tcfg", "fdg", "fresca", "mambo-g", "skimmed"),
        *("smc-cfg", "dynamic-thresholding"),
    ),
    "use several conditions, or do without a negative one": ("dual", "multi-condition", "perp-neg", "nag", "icg"),
    "move away from a weakened model": (
        *("stg", "slg", "pag", "softpag", "seg", "tpg", "s2", "swg", "m-swg", "tsg", "autoguidance"),
    ),
    "guide video and audio together": ("ltx2",),
    "correct the result": ("rescale", "normalize", "renorm", "renorm-text", "ep-cfg", "tag", "momentum"),
    "run fewer passes": ("interval", "gate", "adaptive"),
    "add noise to conditions, or follow the gradient of a loss": ("cads", "classifier", "universal"),
    "match an engine bit for bit": ("rounded-cfg",),
}
"What each method is for."


def methods() -> str:
    """Return the methods by what they are for; every one that ships is in one row."""
    named = [name for names in WISHES.values() for name in names]
    shipping = {method.name for method in catalog() if method.distribution == "guidance-core"}
    if sorted(named) != sorted(shipping):
        raise ValueError(f"WISHES lacks {shipping - set(named)}, and has {set(named) - shipping} beside what ships")
    rows = [f"| {wish} | {', '.join(f'`{name}`' for name in names)} |" for wish, names in WISHES.items()]
    return "\n".join(["| to … | methods |", "|---|---|", *rows])


def recipes() -> str:
    """Return how many recipes there are, and for which models."""
    all_of_them = list(shipped().values())
    compared = sum(recipe.checked.startswith("compared") for recipe in all_of_them)
    families = sorted({_family(recipe.title) for recipe in all_of_them}, key=str.lower)
    text = (
        f"{len(all_of_them)} recipes ship with the library. Tests compare {compared} of them with the code of "
        f"diffusers, sglang, vLLM-Omni or ltx-core by running both; the others are marked 'read, not compared'. "
        f"They are for {', '.join(families[:-1])} and {families[-1]}. "
        "[Recipes](docs/recipes.md) lists each with its parameters and source."
    )
    return textwrap.fill(text, 124, break_long_words=False, break_on_hyphens=False)


def _family(title: str) -> str:
    """Return a title without the version, the variant, and anything after them."""
    name = re.split(r",|\s+\(|[\s.-]+(?=\d)", title)[0]
    return re.sub(r"[ -](?:Turbo|Base|Mid|Edge|Edit(?:-Turbo)?|Layered|Sprint|XT|Avatar)$", "", name)


def hosts() -> str:
    """Return the hosts with their versions and mechanisms, from the table of hosts that the tests make."""
    lines = [line for line in HOSTS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    header, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    columns = [header.index(name) for name in ("host", "version", "mechanism", "pipelines")]
    shown = []
    for row in rows:
        host, version, mechanism, pipelines = (row[column] for column in columns)
        page = next(page for start, page in PAGES.items() if host.startswith(start))
        pipelines = re.sub(r"\]\((?!http)", "](docs/", pipelines)
        shown.append(f"| [{host}](docs/{page}) | {version} | {mechanism} | {pipelines} |")
    intro = (
        "[Hosts](docs/hosts.md) shows how closely each result equals the host's own guidance, and how many passes "
        "it runs."
    )
    return "\n".join(["| host | version tested | mechanism | tried with |", "|---|---|---|---|", *shown, "", intro])


PARTS = {"methods": methods, "recipes": recipes, "hosts": hosts}


def renewed(page: str) -> str:
    """Return the page with every part made anew between its marks."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    FILE.write_text(renewed(FILE.read_text(encoding="utf-8")), encoding="utf-8")
