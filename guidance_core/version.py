"""The version of the library, and of the contract between it and what is built on it."""

__version__ = "0.2.0"

CONTRACT_VERSION: tuple[int, int] = (1, 0)
"""Major and minor version of the contract: of what docs/contract.md names as public.

A new minor version only adds. A new major version takes away what was deprecated for a minor version of the library.
"""
