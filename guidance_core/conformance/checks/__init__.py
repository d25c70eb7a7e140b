"""The checks, by theme. Importing this registers them all."""

from guidance_core.conformance.checks import (  # noqa: F401
    algebra,
    branches,
    composition,
    devices,
    executors,
    finite,
    parameters,
    processes,
    publication,
    runs,
    samples,
)
