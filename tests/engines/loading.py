"""The modules of engines, out of their wheels; a test whose wheel has not been fetched is skipped."""

from __future__ import annotations

import pytest

from guidance_core.bench.hosts import wheels
from guidance_core.bench.hosts.subject import NotInstalledError

WHEELS, VERSIONS = wheels.WHEELS, wheels.VERSIONS


def with_engine(name: str) -> None:
    """Have the modules of an engine found in its wheel, or skip the test where it has not been fetched."""
    try:
        wheels.with_engine(name)
    except NotInstalledError as missing:
        pytest.skip(str(missing))
