"""A module that takes all threads when it is imported."""

from __future__ import annotations

import attrs
import torch

from zoo.entry import broken
from zoo.sound import Linear

torch.set_num_threads(3)


@broken("quiet-import", "number of threads")
@attrs.frozen
class SetsTheNumberOfThreads(Linear):
    """Chooses how many threads the whole process has when it is imported."""
