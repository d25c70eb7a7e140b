"""What a new method may be called: its package, its module and its class."""

from __future__ import annotations

import builtins
import importlib.metadata
import keyword
import re
import sys

import attrs

import guidance_core
from guidance_core.discovery import publishers
from guidance_core.errors import ConfigurationError

LONGEST = 40
_RESERVED = (
    "guidance_core",
    "guidance_plugins",
    "torch",
    "attr",
    "attrs",
    "cattrs",
    "pluggy",
    "test",
    "tests",
    "conftest",
)
_IN_TEMPLATES = ("Mapping",)


@attrs.frozen
class Names:
    """The names of one method."""

    name: str
    "Of the distribution, its folder, and the method in a spec: `my-method`."
    module: str
    "`my_method`."
    class_name: str
    "`MyMethod`."


def check_name(name: str) -> Names:
    """Return the names that follow from `name`.

    Raises:
        ConfigurationError: it is not in the form that package names are compared in (lower case, hyphens), its
            module or class would hide another, or something installed has it already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        near = _nearest(name)
        raise ConfigurationError(
            f"{name!r} cannot be the name of a package and a method: it takes lower-case letters, digits and single "
            f"hyphens, and begins with a letter.{f' Did you mean {near!r}?' if near else ''}"
        )
    if len(name) > LONGEST:
        raise ConfigurationError(f"{name!r} has {len(name)} characters; a name may have {LONGEST}.")
    names = Names(name, name.replace("-", "_"), "".join(part.capitalize() for part in name.split("-")))
    _check_module(names.module)
    _check_class(names.class_name)
    _check_installed(names)
    return names


def _nearest(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    return re.sub(r"[^a-z0-9]+", "-", words).lstrip("-0123456789").rstrip("-")[:LONGEST].rstrip("-")


def _check_module(module: str) -> None:
    if keyword.iskeyword(module):
        raise ConfigurationError(f"the module would be called {module!r}, a keyword of Python; choose another name.")
    if module in sys.stdlib_module_names:
        raise ConfigurationError(f"the module would be called {module!r}, as one of Python's own; choose another name.")
    if module in _RESERVED:
        raise ConfigurationError(f"the module would be called {module!r}, which is taken; choose another name.")


def _check_class(name: str) -> None:
    if keyword.iskeyword(name) or hasattr(builtins, name):
        raise ConfigurationError(f"the class would be called {name}, as one of Python's own; choose another name.")
    if name in _IN_TEMPLATES or name in guidance_core.__all__:
        raise ConfigurationError(f"the class would be called {name}, which a method imports; choose another name.")


def _check_installed(names: Names) -> None:
    published = publishers(names.name)
    if published:
        raise ConfigurationError(
            f"{' and '.join(published)} already publishes a method called {names.name!r}; choose another name."
        )
    try:
        version = importlib.metadata.version(names.name)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        raise ConfigurationError(f"a package {names.name} {version} is installed already; choose another name.")
    owners = importlib.metadata.packages_distributions().get(names.module)
    if owners:
        raise ConfigurationError(
            f"the module would be called {names.module!r}, as that of {owners[0]}, which is installed; choose another "
            "name."
        )
