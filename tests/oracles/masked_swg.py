"""M-SWG."""

import torch
from hypothesis import strategies as st

from guidance_plugins import MaskedSWG
from oracles._weakened import weakened


def covering(length, size, count):
    window = round(size * length)
    covered = torch.zeros(length)
    for start in {(length - window) * number // max(count - 1, 1) for number in range(count)}:
        covered[start : start + window] += 1
    return covered


def delta(c, p, size, count):
    rows, columns = (covering(length, size, count) for length in c.shape[-2:])
    covered = rows[:, None] * columns
    return torch.where(covered > 1, c - p, 0.0)


ORACLE = weakened(
    MaskedSWG,
    "windows",
    delta=delta,
    parameters={"size": st.sampled_from([0.5, 0.75]), "count": st.sampled_from([2, 3])},
)
