"""The pages of the gallery, from its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from guidance_core.gallery.entries import KEYPAD, LETTERS, MIXTURE
from guidance_core.gallery.scores import BETTER, SAME, SCORES, WORSE, Score

Row = Mapping[str, Any]
"A row of the data."
COMMAND = "guidance-core gallery"

INTRODUCTION = """# Gallery

These pages show every method that ships, drawn and measured on the [embedded models](../quickstart.md) beside plain
cfg. `{command}` writes them; do not edit them. They show what methods do **on these models**, which are small: a method
that does nothing here may help a large model.

| page | shows |
|---|---|
| [Letters](letters.md) | pictures and sweeps of every method |
| [Mixture](mixture.md) | points in the plane, with an exact denoiser |
| [Picture and sound](keypad.md) | LTX-2's rule, with two outputs |
| [Choosing](../choosing.md) | from a goal to a method |

## What is compared

A method that moves farther along c − u follows the condition better, and so does plain cfg at a higher scale. So each
method is compared with plain cfg at the same **effective scale** and the same number of passes
([arXiv:2602.22570](https://arxiv.org/abs/2602.22570)):

    effective scale = 1 + mean over steps of ⟨guided − c, c − u⟩ / ‖c − u‖²

For plain cfg this is its scale. The cfg that a method is compared with has the nearest scale, in steps of 0.25 below 5,
of 0.5 below 10 and of 1 up to 20. Its number of steps is chosen so that the passes are equal: a method with three
passes per step is compared with 1.5 times as many steps of cfg, and a method with a single pass with half as many.

- All rows start from the same noise, the first of seed {seed}. Pictures show every fourth character, and the first
  picture of each. No picture was selected by hand. Stacks, sizes and scores were fixed before the first run; parameters
  were chosen with a different seed. After the first run, a bug in the function of `classifier` that destroyed pictures
  was fixed, and scales above 20 were no longer compared.
- Tables show the method's score and, in parentheses, its difference from plain cfg. A difference in **bold** has a 99 %
  bootstrap interval, over the same pictures of both, that does not contain 0. By chance, this happens about once in a
  hundred times.
- The products of the effective scale are sums over the whole batch. If c − u nearly vanishes, as in late steps of
  methods that reuse an earlier difference, the scale is large. Methods with a scale above 20 are not compared.

| model | size of each row |
|---|---|
{sizes}

The judge of letters is a classifier that was trained only on real letters. The scores are:

{meanings}
"""


def written(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the pages by file name.

    Args:
        data: what `build.read_data` returns.
    """
    return {
        "index.md": _index(data),
        "letters.md": _letters(data),
        "mixture.md": _mixture(data),
        "keypad.md": _keypad(data),
    }


def rows_of(data: Mapping[str, Any], model: str) -> list[Row]:
    """Return the rows of a model, in the order of the gallery."""
    order = data["gallery"]["order"]
    methods = [each for name, each in data.items() if name != "gallery"]
    found = [row for each in methods for row in each["rows"] if row["model"] == model]
    return sorted(found, key=lambda row: order.index(row["name"]))


def controls_of(data: Mapping[str, Any], model: str) -> list[Row]:
    """Return the control rows of a model."""
    return [row for row in data["gallery"]["controls"] if row["model"] == model]


def cell(score: Score, row: Row, against: str = "cfg") -> str:
    """Return a score with its difference from plain cfg, or from `none`; bold where it is more than chance."""
    found = row["scores"][score.name]
    apart = found[against]["difference"]["value"]
    if found["value"] is None or apart is None:
        return "–"
    if not is_fair(row, against):
        return number(score, found["value"])
    text = f"({number(score, apart, signed=True)})"
    return f"{number(score, found['value'])} " + (text if found[against]["verdict"] == SAME else f"**{text}**")


def is_fair(row: Row, against: str = "cfg") -> bool:
    """Whether a row can be compared: no plain cfg stands beside one that pulls harder than any."""
    return against != "cfg" or bool(row["beside"]["is_fair"])


def number(score: Score, value: float | None, *, signed: bool = False) -> str:
    """Return a score as text: shares in percent, others with three digits."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    if score.is_share:
        text = f"{100 * value:{sign}.2f}" if 0 < abs(value) < 0.001 else f"{100 * value:{sign}.1f}"
    elif abs(value) >= 1000:
        text = f"{value:{sign}.0f}"
    else:
        text = f"{value:{sign}.3g}" if abs(value) >= 5e-4 else "0"
    return text.replace("-", "−")


def scale(row: Row) -> str:
    """Return the effective scale of a row."""
    values = row["effective_scale"].values()
    return " / ".join("–" if each is None else f"{each:.2f}".replace("-", "−") for each in values)


def effect(row: Row, scores: Iterable[Score], against: str = "cfg") -> str:
    """Say in words what differs from plain cfg, or from no guidance, by more than chance."""
    if not is_fair(row, against):
        return "no comparison, because no plain cfg up to scale 20 has this effective scale"
    said: dict[str, list[str]] = {}
    for score in scores:
        verdict = row["scores"][score.name][against]["verdict"]
        if verdict != SAME:
            said.setdefault(verdict, []).append(score.name)
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in said.items()) or "no difference"


def table(scores: Sequence[Score], rows: Sequence[Row], against: str = "cfg", link: str = "") -> str:
    """Return a table of rows with their scores."""
    heads = [f"{score.name}{' %' if score.is_share else ''}" for score in scores]
    lines = ["| | effective scale | passes | " + " | ".join(heads) + " |", "|---|---|---|" + "---|" * len(heads)]
    for row in rows:
        name = f"[{row['name']}]({link}#{row['name']})" if link is not None and row["method"] else f"*{row['name']}*"
        cells = [cell(score, row, against) for score in scores]
        lines.append(f"| {name} | {scale(row)} | {row['passes_per_step']:.3g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _index(data: Mapping[str, Any]) -> str:
    about, scores = data["gallery"], SCORES[LETTERS]
    rows, controls = rows_of(data, LETTERS), controls_of(data, LETTERS)
    meanings = "\n".join(f"- **{score.name}**: {score.meaning}." for score in scores)
    sizes = "\n".join(f"| {model} | {size} |" for model, size in about["sizes"].items())
    text = INTRODUCTION.format(command=COMMAND, seed=about["protocol"]["seed"], sizes=sizes, meanings=meanings)
    groups: dict[str, list[str]] = {"helps": [], "mixed": [], "costs": [], "none": []}
    for row in rows:
        if not is_fair(row):
            continue
        found = {row["scores"][score.name]["cfg"]["verdict"] for score in scores}
        kind = ("mixed" if WORSE in found else "helps") if BETTER in found else "costs" if WORSE in found else "none"
        groups[kind].append(f"[`{row['name']}`](letters.md#{row['name']})")
    said = {key: ", ".join(names) or "none" for key, names in groups.items()}
    unshown = "\n".join(f"- `{name}` {why}" for name, why in about["unshown"].items())
    return (
        text
        + "\n## Letters, beside plain cfg\n\n"
        + table(scores, [*rows, *controls], link="letters.md")
        + "\n\nWithout guidance: "
        + ", ".join(
            f"{score.name} {number(score, about['unguided'][LETTERS]['scores'][score.name]['value'])}"
            + (" %" if score.is_share else "")
            for score in scores
        )
        + ".\n\n### What the table says\n\n"
        + f"- Better than plain cfg in at least one score, worse in none: {said['helps']}.\n"
        + f"- Better in one and worse in another: {said['mixed']}.\n"
        + f"- Worse in at least one, better in none: {said['costs']}.\n"
        + f"- Neither better nor worse than cfg at the same effective scale and passes: {said['none']}.\n"
        + "\n### Controls\n\n"
        + "Two stacks that cannot help show whether the comparison is fair.\n\n"
        + "\n".join(
            f"- `{row['name']}`: {row['stack']}. Compared with plain cfg: {effect(row, scores)}." for row in controls
        )
        + "\n\n## Not shown\n\n"
        + unshown
        + "\n\n## Data\n\n`data/<method>.json` has everything that the pages show of a method: its rows with scores, "
        "intervals and differences, its sweep, and its pictures. `data/gallery.json` has the protocol, the controls "
        "and the scores without guidance.\n\n```sh\nguidance-core gallery --out docs\n```\n"
    )


def _letters(data: Mapping[str, Any]) -> str:
    scores = SCORES[LETTERS]
    parts = [
        "# Gallery: letters\n\nEach picture shows plain cfg, at the same effective scale and number of passes, above "
        "the method. [The index](index.md) explains what is compared and how.\n\n![Letters without "
        "guidance](pictures/none.png)"
    ]
    sweeps = {sweep["name"]: sweep for name, each in data.items() if name != "gallery" for sweep in each["sweeps"]}
    for row in [*rows_of(data, LETTERS), *controls_of(data, LETTERS)]:
        parts.append(_section(row, scores))
        sweep = sweeps.get(row["name"])
        if sweep is not None:
            parts.append(_sweep(sweep, scores))
    return "\n\n".join(parts) + "\n"


def _section(row: Row, scores: Sequence[Score]) -> str:
    beside = row["beside"]
    spec = f"`{row['stack']}`"
    other = f"`{beside['stack']}`" if beside["stack"] else "no guidance"
    note = f" {row['note']}" if row["note"] else ""
    steps = "" if beside["steps"] == row["steps"] else f" in {beside['steps']} steps"
    pair = (
        f"; compared with {other}{steps}"
        if beside["is_fair"]
        else ", more than any plain cfg; `cfg:scale=3` is shown above it"
    )
    picture = f"\n\n![{row['name']}, below plain cfg]({row['picture']})" if row["picture"] else ""
    return (
        f"## {row['name']}\n\n{spec}, effective scale {scale(row)}, {row['passes_per_step']:.3g} passes per step{pair}."
        f"{note}{picture}\n\nCompared with plain cfg: {effect(row, scores)}. "
        f"Compared with no guidance: {effect(row, scores, 'none')}."
    )


def _sweep(sweep: Row, scores: Sequence[Score]) -> str:
    heads = [f"{score.name}{' %' if score.is_share else ''}" for score in scores]
    known = [
        (score, head)
        for score, head in zip(scores, heads, strict=True)
        if any(row["scores"][score.name]["value"] is not None for row in sweep["rows"])
    ]
    lines = [
        f"| {sweep['parameter']} | effective scale | " + " | ".join(head for _, head in known) + " |",
        "|---|---|" + "---|" * len(known),
    ]
    for row in sweep["rows"]:
        cells = []
        for score, _ in known:
            found = row["scores"][score.name]
            low, high = number(score, found["low"]), number(score, found["high"])
            cells.append(f"{number(score, found['value'])} [{low}, {high}]")
        lines.append(f"| {row['value']} | {scale(row)} | {' | '.join(cells)} |")
    picture = f"![A row for each {sweep['parameter']}]({sweep['picture']})\n\n" if sweep["picture"] else ""
    count = sweep["rows"][0]["samples"]
    return f"{picture}{count} samples for each value, with 95 % intervals:\n\n" + "\n".join(lines)


def _mixture(data: Mapping[str, Any]) -> str:
    scores = SCORES[MIXTURE]
    rows = [*rows_of(data, MIXTURE), *controls_of(data, MIXTURE)]
    meanings = "\n".join(f"- **{score.name}**: {score.meaning}." for score in scores)
    pictures = "\n\n".join(
        f"## {row['name']}\n\n`{row['stack']}`. Compared with plain cfg: {effect(row, scores)}.\n\n"
        f"![{row['name']}, right of plain cfg]({row['picture']})"
        for row in rows
    )
    return (
        "# Gallery: mixture\n\nThe data are three classes of four Gaussians in the plane, and the denoiser is exact: "
        "without guidance the points are correct, except for the error of the steps. Every change by guidance is a "
        "departure from the truth. Methods that look at rows and columns, or change a network, have nothing to act on "
        "and are left out.\n\n"
        "Rings have a radius of two standard deviations. [The index](index.md) explains what is compared. Numbers in "
        f"parentheses are differences from plain cfg; bold ones are more than chance.\n\n{meanings}\n\n"
        + table(scores, rows)
        + "\n\nWithout guidance: "
        + ", ".join(
            f"{score.name} {number(score, data['gallery']['unguided'][MIXTURE]['scores'][score.name]['value'])}"
            for score in scores
        )
        + f".\n\n{pictures}\n"
    )


def _keypad(data: Mapping[str, Any]) -> str:
    scores = SCORES[KEYPAD]
    rows = rows_of(data, KEYPAD)
    meanings = "\n".join(f"- **{score.name}**: {score.meaning}." for score in scores)
    sweeps = [
        each for name, one in data.items() if name != "gallery" for each in one["sweeps"] if each["model"] == KEYPAD
    ]
    sections = "\n\n".join(_section(row, scores) for row in rows)
    return (
        "# Gallery: picture and sound\n\nThe clips show digits and play their tones. [Picture and sound](../keypad.md) "
        "has frames, waveforms and a larger measurement. Here each stack is compared with plain cfg at the same "
        f"effective scale, of video and of audio, and the same number of passes.\n\n{meanings}\n\n"
        + table(scores, rows)
        + "\n\n"
        + sections
        + "\n\n## Modality scale\n\n"
        + "\n\n".join(_sweep(each, scores) for each in sweeps)
        + "\n"
    )
