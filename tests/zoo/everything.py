"""All entries of the zoo."""

from __future__ import annotations

import os

import torch

from zoo import (  # noqa: F401
    algebra,
    composition,
    executors,
    internals,
    neighbour,
    parameters,
    publication,
    rare,
    samples,
    state,
)
from zoo.entry import ENTRIES

_before = torch.is_grad_enabled(), torch.get_num_threads(), os.environ.copy()

from zoo import environment, global_settings, threads_setting  # noqa: E402, F401

# Their mistake is not to be one of whoever looks at the zoo.
torch.set_grad_enabled(_before[0])
torch.set_num_threads(_before[1])
os.environ.clear()
os.environ.update(_before[2])

ZOO = tuple(ENTRIES)
