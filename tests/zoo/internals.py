"""A module that imports what is not public."""

from __future__ import annotations

import attrs

from guidance_core.methods.stack import plugin_name
from zoo.entry import broken
from zoo.sound import Linear


@broken("public-names", "a module inside guidance_core")
@attrs.frozen
class UsesInternals(Linear):
    """Imports from a module of the library that is not public."""

    def strength(self, step):
        return super().strength(step) if plugin_name(type(self)) else 0.0
