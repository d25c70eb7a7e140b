"""One thread a process, ranks that live as long as the session, and what the parallel examples showed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from tallies import tallies

from guidance_core.discovery import registry
from guidance_core.ranks import Ranks
from guidance_core.recipes import finding

torch.set_num_threads(1)

# The same examples every time, so that the tests give the same verdict every time.
# `pytest --hypothesis-profile random --hypothesis-seed N` draws others.
settings.register_profile("seeded", derandomize=True, database=None, deadline=None)
settings.register_profile("random", derandomize=False, database=None, deadline=None, print_blob=True)
settings.load_profile("seeded")


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch):
    """Forget after each test what it registered, so that the tests pass in any order and any selection."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(finding, "_registered", dict(finding._registered))


@pytest.fixture(scope="session")
def ranks():
    """Six processes with Gloo between them."""
    with Ranks(6, outlives_failures=True, patience=120) as pool:
        yield pool


def pytest_terminal_summary(terminalreporter):
    for what, (examples, units, ulps) in tallies.items():
        terminalreporter.write_line(
            f"{what}: {examples:.0f} examples on 1 to 6 ranks, "
            f"largest error {units:.3f} of the bound, {ulps:.2f} bf16 ulps"
        )
