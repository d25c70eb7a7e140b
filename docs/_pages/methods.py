"""A page for each method that ships, from its class and from what the other pages have found about it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from _pages.markdown import between, linked, rows, table, told, wrapped
from _pages.objects import loaded, signature
from guidance_core import MethodInfo, ParameterInfo, catalog
from guidance_core.discovery import plugin_class
from guidance_core.discovery.shipped import PLUGINS, SHIPPED

FORMULAS = tomllib.loads(Path(__file__).with_name("formulas.toml").read_text(encoding="utf-8"))
FAMILIES = {
    "cfg": ("CFG and its relatives", "Away from a prediction without the condition, or with another one."),
    "weakened": ("Weakened passes", "Away from a pass that the model makes worse on purpose."),
    "correction": ("Corrections", "They change the sum that the methods before them make, and cost no pass."),
    "other": ("Others", "Windows, edits of the model's inputs, and gradients."),
}
SYMBOLS = {
    "c": "is the prediction of `cond`",
    "u": "that of the negative condition",
    "p": "that of the weakened pass",
    "g": "what the methods before it make",
}
"Letters that mean the same in all formulas."
MODELS = {"letters": "On letters", "mixture": "In the plane", "keypad": "Picture and sound"}
"The models of the gallery."


def pages(docs: Path) -> dict[str, str]:
    """Return the page of each method that ships, by its name."""
    known = _Known(docs)
    return {info.name: known.page(info) for info in shipped()}


def _moved(text: str) -> str:
    """Return text of a page of the gallery with its links seen from the page of a method."""

    def link(found: re.Match[str]) -> str:
        return f"]({found[1]})" if "://" in found[1] else f"](../gallery/{found[1]})"

    return re.sub(r"\]\((?!#)([^)]+)\)", link, text)


def shipped() -> list[MethodInfo]:
    """Return the methods that ship, by name."""
    return [info for info in catalog() if info.name in SHIPPED[PLUGINS]]


def examples(docs: Path) -> dict[str, list[str]]:
    """Return the specs of docs/methods.md by the methods in them."""
    (block, *_) = re.findall(r"^```text\n(.*?)^```", (docs / "methods.md").read_text("utf-8"), re.M | re.S)
    found: dict[str, list[str]] = {}
    for spec in block.splitlines():
        for name in SHIPPED[PLUGINS]:
            if re.search(rf"(^|,){re.escape(name)}(:|,|$)", re.sub(r"\[.*?\]|\{.*?\}", "", spec)):
                found.setdefault(name, []).append(spec)
    return found


class _Known:
    """What the other pages of the documentation hold about methods."""

    def __init__(self, docs: Path) -> None:
        text = (docs / "methods.md").read_text(encoding="utf-8")
        self.gallery = docs / "gallery"
        self.listed = {
            cells[0].strip("`"): cells for cells in rows(text) if cells[0].startswith("`") and len(cells) == 5
        }
        self.examples = examples(docs)
        self.differs = re.findall(r"^- .*(?:\n  .*)*", text.partition("## Where others differ")[2], re.M)
        self.judged = {cells[0].strip("`"): cells for cells in rows(between(docs / "oracles.md", "oracles"))}
        pairs = between(docs / "composition.md", "pairs")
        self.reasons = re.findall(r"^- (.*)", pairs, re.M)
        self.signs = _signs(pairs)

    def page(self, info: MethodInfo) -> str:
        cls = plugin_class(info.name)
        about = told(cls.__doc__ or "")
        parts = [
            f"# `{info.name}`",
            f"*{about.summary}*",
            "## Formula",
            f"$$\n{FORMULAS[info.name].strip()}\n$$" if info.name in FORMULAS else f"```text\n{about.formulas}\n```",
            _symbols(FORMULAS.get(info.name, "")),
            about.text,
            f"**Reference**: {linked(about.source)}.".replace("..", "."),
            *self._pictures(info.name),
            "## Parameters",
            table(("name", "takes", "default", "meaning"), map(_parameter, info.parameters))
            if info.parameters
            else "It has none.",
            "## Use",
            self._use(info.name),
            "## What it costs",
            self._cost(info.name),
            "## What it composes with",
            self._composes(info.name),
            "## How it is checked",
            self._checked(info.name),
            *self._differs(info.name),
            "## In Python",
            f"```{{py:currentmodule}} guidance_plugins\n```\n\n{signature(loaded('guidance_plugins')[cls.__name__])}",
        ]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _pictures(self, name: str) -> list[str]:
        """Return what the gallery shows of a method, from its pages: pictures, sweeps, and what was measured."""
        data = self.gallery / "data" / f"{name}.json"
        if not data.exists():
            return []
        parts = ["## In pictures"]
        for row in json.loads(data.read_text(encoding="utf-8"))["rows"]:
            page = (self.gallery / f"{row['model']}.md").read_text(encoding="utf-8")
            section = re.search(rf"^## {re.escape(row['name'])}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
            if section is None:
                raise ValueError(f"docs/gallery/{row['model']}.md has no section {row['name']}")
            parts += [f"### {MODELS[row['model']]}: {row['name']}", _moved(section[1].strip())]
        return [*parts, "How it was measured, and every other method: [Gallery](../gallery/index.md)."]

    def _use(self, name: str) -> str:
        specs = "\n".join(self.examples.get(name, ()))
        if not specs:
            return "It takes a function, so it is made in Python; see [Weakened passes](../methods.md#weakened-passes)."
        return f"As a spec:\n\n{wrapped(specs)}"

    def _cost(self, name: str) -> str:
        _, _, neutral, passes, _ = self.listed[name]
        cost = "It runs no pass of its own." if passes == "–" else f"Passes in a step, `cond` included: {passes}."
        return cost if neutral == "–" else f"{cost} It does nothing at {neutral}."

    def _composes(self, name: str) -> str:
        signs = self.signs[name]

        def named(sign: str) -> str:
            return ", ".join(f"[`{each}`]({each}.md)" for each in sorted(signs) if signs[each] == sign and each != name)

        lines = {
            "In any order": named("+"),
            "In an order that matters": named(">"),
            "Refused when the stack is made": named("x"),
            "Refused when a run starts, for the usual parameters": named("s"),
            "Together, but one of them has nothing to do": named("o"),
        }
        listed = "\n".join(f"- {title}: {names}." for title, names in lines.items() if names)
        why = [each for each in self.reasons if f"`{name}`" in each and not each.startswith("Forms of")]
        return "\n\n".join([listed, *why, "[What composes](../composition.md) says how this was found."])

    def _checked(self, name: str) -> str:
        _, _, compared, float32, bf16, float16 = self.judged[name]
        if float32 == "–":
            return f"With {compared}. [Formulas](../oracles.md) has the others."
        return (
            f"Against its formula in float64 ({compared}). Largest errors seen: {float32} roundings of float32; {bf16} "
            f"units in the last place of bfloat16, {float16} of float16, where rounding alone gives 0.5. "
            "[Formulas](../oracles.md) says how they are measured."
        )

    def _differs(self, name: str) -> list[str]:
        found = [each for each in self.differs if f"`{name}`" in each.partition("\n")[0]]
        # The pages lie one folder deeper than the page that these lines come from.
        moved = [re.sub(r"\]\((?!http)([\w-]+\.md)", r"](../\1", each) for each in found]
        return ["## Where others differ", "\n".join(moved)] if found else []


def _symbols(formula: str) -> str:
    """Return what the usual letters stand for, of those that a formula has."""
    bare = re.sub(r"\\(text|math\w+)\{[^}]*\}|\\[a-zA-Z]+", " ", formula)
    found = [
        f"${each}$ {meaning}"
        for each, meaning in SYMBOLS.items()
        if re.search(rf"(?<![a-zA-Z]){each}(?![a-zA-Z])", bare) and not re.search(rf"(?<![a-zA-Z]){each}\s*&?=", bare)
    ]
    return f"Here {', '.join(found)}." if found else ""


def _signs(pairs: str) -> dict[str, dict[str, str]]:
    lines = [cells for cells in rows(pairs) if "`" in cells[0]]
    names = [cells[0].partition(" ")[2].strip("`") for cells in lines]
    signs: dict[str, dict[str, str]] = {name: {} for name in names}
    for name, (_, *cells) in zip(names, lines, strict=True):
        for other, sign in zip(names, cells, strict=False):
            if sign:
                signs[name][other] = signs[other][name] = sign
    return signs


def _parameter(info: ParameterInfo) -> tuple[str, ...]:
    return (f"`{info.name}`", _taken(info), _default(info), info.help or "–")


def _taken(info: ParameterInfo) -> str:
    if info.options:
        return ", ".join(f"`{each}`" for each in info.options)
    bounds = [
        f"{'from' if edge else 'up to'} {value:g}"
        for edge, value in ((True, info.low), (False, info.high))
        if value is not None
    ]
    return " ".join([info.kind, *bounds])


def _default(info: ParameterInfo) -> str:
    if info.is_required:
        return "required"
    return "–" if info.default is None else f"`{_written(info.default)}`"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
