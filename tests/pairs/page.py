"""The table of pairs, as a part of a page of the documentation."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pairs.judged import Verdict, judged, pairs
from pairs.usual import NAMES, POINTLESS, made, of

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
BEGIN, END = "<!-- pairs -->", "<!-- end of pairs -->"
ANY, ORDER, CONSTRUCTION, START, NOTHING = "+", ">", "x", "s", "o"


def table() -> str:
    """Return the table, and the reasons for what is refused."""
    found = {pair: judged(pair) for pair in pairs()}
    numbers = [str(number + 1) for number in range(len(NAMES))]
    lines = [f"| | {' | '.join(numbers)} |", f"|---|{'---|' * len(NAMES)}"]
    for row, name in enumerate(NAMES):
        signs = [_sign(found[other, name]) if column <= row else "" for column, other in enumerate(NAMES)]
        lines.append(f"| {row + 1} `{name}` | {' | '.join(signs)} |")
    reasons = [*_forms(found), *_others(found), *_pointless(), *_in_one_process()]
    return "\n".join([*lines, "", *reasons])


def with_table(text: str) -> str:
    """Return the page with the table between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _sign(verdict: Verdict) -> str:
    if verdict.refused:
        return CONSTRUCTION if verdict.refused_at == "construction" else START
    if verdict.names in POINTLESS:
        return NOTHING
    return ORDER if verdict.in_order else ANY


def _form(name: str) -> str:
    return getattr(type(made(name)), "form_of", name)


def _forms(found: dict[tuple[str, ...], Verdict]) -> list[str]:
    """Return a line for each set of methods that are forms of one thing."""
    forms = defaultdict(set)
    for (one, other), verdict in found.items():
        if verdict.refused_at == "construction" and _form(one) == _form(other):
            forms[_form(one)] |= {one, other}
    return [
        f"- Forms of `{form}`, of which a stack holds one: {', '.join(f'`{name}`' for name in sorted(names))}."
        for form, names in sorted(forms.items())
    ]


def _others(found: dict[tuple[str, ...], Verdict]) -> list[str]:
    """Return a line for each other reason, with the pairs that have it."""
    reasons = defaultdict(list)
    for (one, other), verdict in found.items():
        if verdict.refused and (verdict.refused_at == "start" or _form(one) != _form(other)):
            reasons[verdict.refused].append(f"`{one}` and `{other}`" if one != other else f"`{one}` twice")
    return [f"- {'; '.join(names)}: {reason}" for reason, names in reasons.items()]


def _pointless() -> list[str]:
    return [f"- `{one}` and `{other}`: {reason}" for (one, other), reason in POINTLESS.items()]


def _in_one_process() -> list[str]:
    names = ", ".join(f"`{name}`" for name in NAMES if of(name).differentiates)
    return [f"- In one process only, since they differentiate through the model: {names}."] if names else []
