"""The page that leads from a wish to a method, with the gallery's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from guidance_core.gallery.entries import KEYPAD, LETTERS
from guidance_core.gallery.pages import rows_of, table
from guidance_core.gallery.scores import BETTER, LESS, MORE, SCORES, WORSE


@attrs.frozen
class Wish:
    """Something that a reader wants, and rows that may give it."""

    title: str
    text: str
    rows: tuple[str, ...]
    score: str
    "What is wanted. Rows that give it come first, then those that give it at a cost; more of it comes before less."
    also: tuple[str, ...]
    "What else to look at."
    shown: tuple[str, ...] = ()
    "Columns that do not count as a cost."
    less: bool = False
    "Whether less of it is wanted."
    against: str = "cfg"
    "What the rows are compared with: plain cfg at the same effective scale and passes, `usual` cfg, or no guidance "
    "(`none`)."
    keeps: bool = False
    "Whether nothing is to be gained but passes: the rows that help are those that lose nothing."
    model: str = LETTERS


WISHES = (
    Wish(
        "Less burnt at a high scale",
        "High scales follow the condition more closely, but clip the values. These methods reduce that. The first "
        "thing to try is a lower scale of cfg, so each method is compared with plain cfg at its own effective "
        "scale. Compared with cfg at the same nominal scale, most of them saturate less. Saturation counts values "
        "before they are drawn. Drawing clips them, so paper that is far out of range looks clean, while a method "
        "that keeps it in range can show grey noise there.",
        (
            "rescale",
            "normalize",
            "renorm",
            "ep-cfg",
            "apg",
            "apg-mix",
            "dynamic-thresholding",
            "skimmed",
            "mambo-g",
            "cfg-zero-star",
            "tcfg",
            "interval",
            "fdg",
        ),
        "saturation",
        ("character", "typeface", "distance"),
        less=True,
    ),
    Wish(
        "Sharper, without a negative prompt",
        "These methods need no pass without the condition: they move away from a pass that is weakened on purpose, or "
        "from the pass of a weaker model. They are compared with no guidance. Saturation is a small share "
        "of the values in all of them, and does not count as a cost.",
        ("autoguidance", "pag", "softpag", "seg", "stg", "slg", "tpg", "swg", "m-swg", "tsg", "icg"),
        "sharpness",
        ("character", "typeface", "distance"),
        shown=("saturation",),
        against="none",
    ),
    Wish(
        "Fewer passes",
        "These methods leave out the pass without the condition in some steps. They are compared with `cfg:scale=3` "
        "and all its passes, and should lose nothing. Making fewer steps saves passes too: [the gallery's "
        "table](gallery/letters.md) compares the same rows with cfg in fewer steps, at the same number of passes.",
        ("gate", "adaptive", "interval-early"),
        "character",
        ("typeface", "distance", "saturation"),
        against="usual",
        keeps=True,
    ),
    Wish(
        "Pictures of one prompt that differ more",
        "Guidance makes the samples of one condition more alike. These methods are compared with plain cfg at the same "
        "effective scale.",
        ("cads", "interval", "cfg-plus-plus", "apg", "momentum"),
        "diversity",
        ("character", "typeface", "distance"),
    ),
    Wish(
        "Two conditions, each with its own scale",
        "In this test the conditions are the character and the typeface; in image editing, they are the text and the "
        "image.",
        ("dual", "renorm-text", "multi-condition", "perp-neg"),
        "typeface",
        ("character", "distance", "saturation"),
    ),
    Wish(
        "Picture and sound in step",
        "Modality guidance moves away from a pass in which the streams do not see each other. "
        "[Picture and sound](keypad.md) shows it.",
        ("ltx2", "keypad-modality", "keypad-stg", "keypad-cfg"),
        "agreement",
        ("both", "saturated"),
        model=KEYPAD,
    ),
)

INTRODUCTION = """# Choosing

Which method helps with which goal? The numbers come from [the gallery](gallery/index.md), which uses small models;
`guidance-core gallery` writes this page. Try the first method that measurably helps, then [add](composition.md) others.

In the tables, the numbers in parentheses are differences from the guidance that the paragraph names. Those in **bold**
are more than chance (99 % interval); the others may be chance.
"""


def written(data: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        data: what `build.read_data` returns.
    """
    return INTRODUCTION + "".join(f"\n## {wish.title}\n\n{_advice(wish, data)}\n" for wish in WISHES)


def _advice(wish: Wish, data: Mapping[str, Any]) -> str:
    by_name = {row["name"]: row for row in rows_of(data, wish.model)}
    scores = {score.name: score for score in SCORES[wish.model]}
    counted = [scores[wish.score], *(scores[name] for name in wish.also)]
    shown = [*counted, *(scores[name] for name in wish.shown)]

    def gain(row: Mapping[str, Any]) -> float:
        found = row["scores"][wish.score][wish.against]["difference"]["value"]
        return 0.0 if found is None else (-found if wish.less else found)

    wanted = {BETTER, LESS if wish.less else MORE}

    def helps(row: Mapping[str, Any]) -> bool:
        return wish.keeps or row["scores"][wish.score][wish.against]["verdict"] in wanted

    def loses(row: Mapping[str, Any]) -> bool:
        return any(row["scores"][each.name][wish.against]["verdict"] == WORSE for each in counted)

    found = [by_name[name] for name in wish.rows]
    rows = sorted(found, key=lambda row: (not helps(row), helps(row) and loses(row), -gain(row)))
    losing, helping = [row for row in rows if loses(row)], [row for row in rows if helps(row)]
    gain_said = (
        "Nothing measurably worse" if wish.keeps else f"Measurably {'less' if wish.less else 'more'} {wish.score}"
    )
    lines = [
        f"- {gain_said}{'' if wish.keeps else ', and no other score here worse'}: "
        f"{_names([row for row in helping if row not in losing])}.",
        f"- {'Something worse' if wish.keeps else gain_said + ', at a cost'}: "
        f"{_names([row for row in helping if row in losing])}.",
    ]
    if not wish.keeps:
        lines.append(f"- No measurable gain here: {_names([row for row in rows if row not in helping])}.")
    folder = "gallery/keypad.md" if wish.model == KEYPAD else "gallery/letters.md"
    stacks = "\n".join(row["stack"] for row in [row for row in helping if row not in losing] or helping)
    text = f"{wish.text}\n\n" + "\n".join(lines) + f"\n\n{table(shown, rows, wish.against, folder)}"
    return f"{text}\n\n```text\n{stacks}\n```" if stacks else text


def _names(rows: list[Any]) -> str:
    return ", ".join(f"`{row['name']}`" for row in rows) or "none"
