"""The layouts of a run so far, found again by what the plugins would be told at a step.

A plugin learns where a step stands only by asking its `Step`. With the same answers it asks for the same passes, so
that it need not be asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeAlias

import attrs

from guidance_core.methods.moment import Moment
from guidance_core.methods.step import Question
from guidance_core.steps.layout import Layout


@attrs.frozen(eq=False)
class _Asked:
    """What the plugins ask next, and where each answer leads."""

    question: Question
    ways: dict[Any, _Node] = attrs.field(factory=dict)


_Node: TypeAlias = _Asked | list[Layout]


class KnownLayouts:
    """Finds the layout of a step among those of other steps."""

    def __init__(self, plugins: Mapping[str, object], layouts: Iterable[Layout] = ()) -> None:
        self._plugins = plugins
        self._ways: dict[Any, _Node] = {}
        for layout in layouts:
            self.add(layout)

    def find(self, moment: Moment, holdable: Set[str]) -> Layout | None:
        """Return the layout of a step that the plugins cannot tell from another, or None.

        Args:
            moment: where the step stands.
            holdable: the outputs that have a last x0 to keep there.
        """
        at = self._ways.get(None)
        try:
            while isinstance(at, _Asked):
                at = at.ways.get(at.question.answered_at(moment, self._plugins))
        except Exception:  # ask the plugin itself, which raises what is wrong
            return None
        return next((each for each in at or () if each.asked_to_hold & holdable == each.holds), None)

    def add(self, layout: Layout) -> None:
        """Take a layout, unless a plugin looked at its state."""
        if layout.depends_on_state:
            return
        ways, told = self._ways, None
        try:
            for question, answer in layout.answers:
                at = ways.setdefault(told, _Asked(question))
                if not isinstance(at, _Asked) or not at.question.is_like(question):
                    return  # the plugin asks without reason, sometimes this and sometimes that
                ways, told = at.ways, answer
            found = ways.setdefault(told, [])
        except TypeError:  # an answer that cannot be compared
            return
        if isinstance(found, list):
            found.append(layout)
