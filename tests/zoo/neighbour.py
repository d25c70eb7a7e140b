"""A module that needs every other plugin to load."""

from __future__ import annotations

from importlib.metadata import entry_points

import attrs

from zoo.entry import broken
from zoo.sound import Linear

KNOWN = [point.load() for point in entry_points(group="guidance_core.plugins")]


@broken("loads-beside-a-broken-neighbour", "no_such_module", published_as="needs-all-others")
@attrs.frozen
class NeedsAllOthers(Linear):
    """Loads all installed methods when it is imported, and fails with any of them."""
