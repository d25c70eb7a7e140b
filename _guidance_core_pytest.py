"""What pytest loads in every session where guidance-core is installed; it imports nothing else until it is asked to.

`pytest --guidance-plugin NAME` runs the conformance suite on an installed method, with no file needed. This module is
outside the package, which imports torch.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("guidance", "conformance of guidance plugins")
    for option, what in (("--guidance-plugin", "a method"), ("--guidance-executor", "an executor")):
        group.addoption(
            option,
            action="append",
            default=[],
            metavar="NAME",
            help=f"Check {what} with the conformance suite: an installed name, module:Class, or a spec (repeatable). "
            "Without paths on the command line nothing else is run.",
        )
    for option, kind, default, help in (
        ("--guidance-ranks", int, 4, "Maximum processes; 0 skips multi-process checks."),
        ("--guidance-max-examples", int, 20, "Examples per check (costly checks use fewer)."),
        ("--guidance-time-limit", float, 60.0, "CPU seconds per check."),
        ("--guidance-seed", int, None, "Seed of the examples (default: as --hypothesis-seed)."),
    ):
        group.addoption(option, type=kind, default=default, metavar="N", help=help)


def pytest_configure(config: pytest.Config) -> None:
    """Add the suite to the session if a method or an executor is named."""
    if not (config.getoption("--guidance-plugin") or config.getoption("--guidance-executor")):
        return
    try:
        from guidance_core.conformance.pytest_plugin import suite_of
    except ImportError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(suite_of(config), "guidance-core-suite")
