"""A module that sets an environment variable when it is imported."""

from __future__ import annotations

import os

import attrs

from zoo.entry import broken
from zoo.sound import Linear

os.environ["TOKENIZERS_PARALLELISM"] = "false"


@broken("quiet-import", "the environment")
@attrs.frozen
class SetsAVariable(Linear):
    """Changes what other libraries do when it is imported."""
