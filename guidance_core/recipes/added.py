"""What may be added to the methods of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.errors import ConfigurationError
from guidance_core.methods.stack import plugin_name
from guidance_core.recipes.recipe import Chosen

AWAY_FROM_NEGATIVE = frozenset({"cfg", "ltx2"})
"Methods that are, or hold, classifier-free guidance; what declares `form_of` one of them is another form of it."


def check_added(chosen: Chosen, own: Sequence[Any], added: Sequence[Any]) -> None:
    """Raise `ConfigurationError` where an added method would apply the guidance of a recipe a second time.

    In a stack that somebody writes out, the same method may stand twice. Whoever adds `cfg` to a recipe that has it
    does not see that the two add up.
    """
    guides = [plugin_name(type(plugin)) for plugin in own if _guides(plugin)]
    second = [plugin_name(type(plugin)) for plugin in added if _guides(plugin)]
    if guides and second:
        how = f"write @{chosen.name}:{next(iter(chosen.values))}=..." if chosen.values else "write its methods out"
        raise ConfigurationError(
            f"the recipe {chosen.name!r} guides with {guides[0]!r} already, and {second[0]!r} would apply "
            f"classifier-free guidance a second time. To change its strength, {how}; to replace it, leave out the "
            "recipe."
        )


def _guides(plugin: Any) -> bool:
    return not AWAY_FROM_NEGATIVE.isdisjoint((plugin_name(type(plugin)), getattr(type(plugin), "form_of", None)))
