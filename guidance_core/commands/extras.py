"""The extras that commands need."""

from __future__ import annotations

import importlib

from guidance_core.errors import ConfigurationError

EXTRAS = {
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


def check_extra(extra: str) -> None:
    """Raise `ConfigurationError` unless the packages of an extra are there, before any process starts."""
    for package in (package for package, brings in EXTRAS.items() if brings == extra):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            raise ConfigurationError(lacking(package)) from None
