"""The extras that commands need."""

from __future__ import annotations

import importlib

from guidance_core.errors import ConfigurationError, shortened

EXTRAS = {
    "matplotlib": "demo",
    "numpy": "demo",
    "PIL": "demo",
    "safetensors": "demo",
    "diffusers": "hosts",
    "hypothesis": "testing",
    "pytest": "testing",
}
"The extra that brings each optional package a command imports."


def lacking(package: str) -> str:
    """Return the line that says how to get a missing package."""
    extra = EXTRAS[package]
    return f"this command needs the extra {extra!r} ({package} is missing): pip install 'guidance-core[{extra}]'"


SOME = {"matplotlib"}
"Packages that only some of an extra's commands use, and that take long to import."


def check_extra(extra: str) -> None:
    """Raise `ConfigurationError` unless the packages of an extra are there, before any process starts.

    Those that only some commands use are left to `check_package`.
    """
    for package in (package for package, brings in EXTRAS.items() if brings == extra and package not in SOME):
        check_package(package)


def check_package(package: str) -> None:
    """Raise `ConfigurationError` unless a package of an extra is there."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise ConfigurationError(lacking(package)) from None
    except ValueError as error:  # what matplotlib raises for a backend that does not exist, in MPLBACKEND
        raise ConfigurationError(f"{package} cannot be loaded: {shortened(str(error), 300)}") from None
