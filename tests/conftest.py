"""One thread a process, ranks that live as long as the session, and what the parallel examples showed."""

from __future__ import annotations

import pytest
import torch
from ranks import Ranks, tallies

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ranks():
    """Six processes with Gloo between them."""
    with Ranks(6) as pool:
        yield pool


def pytest_terminal_summary(terminalreporter):
    for what, (examples, units, ulps) in tallies.items():
        terminalreporter.write_line(
            f"{what}: {examples:.0f} examples on 1 to 6 ranks, "
            f"largest error {units:.3f} of the bound, {ulps:.2f} bf16 ulps"
        )
