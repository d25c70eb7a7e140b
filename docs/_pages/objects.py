"""Entries of the reference: signatures with types, and docstrings, read from the source and never imported.

An engine need not be installed for its adapter to be described.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
logging.getLogger("griffe").setLevel(logging.CRITICAL)  # types stand in signatures, so its advice does not help


@functools.cache
def loaded(package: str) -> Any:
    """Return a package of this project, read from its source."""
    return _loader().modules_collection[package]


@functools.cache
def _loader() -> griffe.GriffeLoader:
    """Read both packages together, since methods inherit from classes of the library."""
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "plugins"], docstring_parser="google")
    for package in ("guidance_core", "guidance_plugins"):
        loader.load(package)
    loader.resolve_aliases()
    return loader


def signature(found: Any) -> str:
    """Return the entry of a method's class without what its page has said: its signature, and its functions."""
    members = [_member(each) for each in _members(found.final_target) if each.is_function]
    return _directive("py:class", f"{found.name}{_made(found.final_target)}", members, 5)


def entry(found: Any, name: str = "") -> str:
    """Return the entry of a class, function or value, as a directive with those of its members inside."""
    obj = found.final_target if found.is_alias else found
    name = name or found.name
    if obj.is_class:
        return _class(obj, name)
    if obj.is_function:
        return _function(obj, name, "py:function", 3)
    return _attribute(obj, name, "py:data", 3)


def _class(obj: Any, name: str) -> str:
    is_error = any(base.endswith(("Error", "Exception")) for base in map(str, obj.bases))
    members = [_member(each) for each in _members(obj)]
    exported = {str(each).strip("'") for each in loaded("guidance_core").exports}
    parents = ", ".join(f"`{base}`" for base in map(str, obj.bases) if base in exported)
    body = [f"A kind of {parents}." if parents else "", _text(obj), *members]
    return _directive("py:exception" if is_error else "py:class", f"{name}{_made(obj)}", body, 5)


def _members(obj: Any) -> Iterator[Any]:
    """Return the public members, inherited ones of this project included, without what attrs and Python add."""
    for name, member in obj.all_members.items():
        target = member.final_target if member.is_alias else member
        if name.startswith("_") or not str(target.path).startswith(("guidance_core.", "guidance_plugins.")):
            continue
        if target.is_class or (target.is_attribute and not (target.docstring or _is_field(target))):
            continue
        if target.is_function and not target.docstring and not _is_hook(target):
            continue
        yield target


def _member(obj: Any) -> str:
    if obj.is_function:
        kind = (
            "py:classmethod"
            if "classmethod" in obj.labels
            else "py:staticmethod"
            if "staticmethod" in obj.labels
            else "py:method"
        )
        return _function(obj, obj.name, kind, 4)
    return _attribute(obj, obj.name, "py:property" if "property" in obj.labels else "py:attribute", 4)


def _function(obj: Any, name: str, kind: str, colons: int) -> str:
    parameters = [each for each in obj.parameters if each.name not in ("self", "cls")]
    returned = f" -> {obj.returns}" if obj.returns is not None else ""
    return _directive(kind, f"{name}({_listed(parameters)}){returned}", [_text(obj)], colons)


def _attribute(obj: Any, name: str, kind: str, colons: int) -> str:
    annotation = str(obj.annotation) if obj.annotation is not None else ""
    options = {"type": annotation}
    if kind == "py:data" and obj.value is not None and len(str(obj.value)) < 200:
        options["value"] = str(obj.value)
    return _directive(kind, name, [_options(options), _text(obj) or _help(obj)], colons)


def _directive(kind: str, signature: str, body: list[str], colons: int) -> str:
    fence = ":" * colons
    inside = "\n\n".join(filter(None, body))
    return f"{fence}{{{kind}}} {' '.join(signature.split())}\n{inside}\n{fence}"


def _options(options: dict[str, str]) -> str:
    return "\n".join(f":{name}: {' '.join(value.split())}" for name, value in options.items() if value)


def _listed(parameters: list[Any]) -> str:
    """Write parameters as a definition has them."""
    written, is_starred = [], False
    for each in parameters:
        kind = each.kind.value if each.kind else "positional or keyword"
        if kind == "keyword-only" and not is_starred:
            written.append("*")
            is_starred = True
        is_starred = is_starred or kind == "variadic positional"
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        text = star + each.name + (f": {each.annotation}" if each.annotation is not None else "")
        written.append(text + ("" if each.default is None or star else f" = {each.default}"))
        if kind == "positional-only" and each is [p for p in parameters if p.kind and p.kind.value == kind][-1]:
            written.append("/")
    return ", ".join(written)


def _made(obj: Any) -> str:
    """Return what a class takes: the parameters of its `__init__`, or its fields."""
    init = obj.members.get("__init__")
    if init is not None and init.is_function:
        return f"({_listed([each for each in init.parameters if each.name != 'self'])})"
    fields = [
        each for each in _members(obj) if each.is_attribute and _is_field(each) and "init=False" not in str(each.value)
    ]
    if not fields or not any("attrs" in str(each.value) or "dataclass" in str(each.value) for each in obj.decorators):
        return ""
    fields.sort(key=lambda each: "kw_only=True" in str(each.value))
    return f"({', '.join(map(_field, fields))})"


def _field(obj: Any) -> str:
    default = _default(obj.value)
    return f"{obj.name}: {obj.annotation}" + (f" = {default}" if default else "")


def _is_field(obj: Any) -> bool:
    return obj.annotation is not None and "instance-attribute" in obj.labels and "property" not in obj.labels


def _is_hook(obj: Any) -> bool:
    return obj.name in ("build_branches", "combine", "postprocess")


def _default(value: Any) -> str:
    """Return the default of a field, whatever makes the field."""
    if value is None:
        return ""
    if not isinstance(value, griffe.ExprCall):
        return str(value)
    if "factory=dict" in str(value):
        return "{}"
    for each in value.arguments:
        if isinstance(each, griffe.ExprKeyword):
            if each.name == "default":
                return "..." if "NOTHING" in str(each.value) else str(each.value)
            if each.name == "factory":
                return f"{each.value}()"
    first = [each for each in value.arguments if not isinstance(each, griffe.ExprKeyword)]
    found = str(first[0]) if first else ""
    return "..." if "NOTHING" in found else found


def _help(obj: Any) -> str:
    """Return the help text of a parameter, for a field that has no docstring."""
    found = re.search(r"help=('[^']*'|\"[^\"]*\")", str(obj.value or ""))
    return found[1][1:-1] if found else ""


def _text(obj: Any) -> str:
    """Return a docstring as Markdown, its sections as lists of fields."""
    if obj.docstring is None:
        return ""
    parts = []
    for section in obj.docstring.parsed:
        kind, value = section.kind.value, section.value
        if kind in ("parameters", "other parameters"):
            parts.append("\n".join(f":param {each.name}: {_line(each.description)}" for each in value))
        elif kind == "raises":
            parts.append("\n".join(f":raises {each.annotation}: {_line(each.description)}" for each in value))
        elif kind == "warns":
            warned = "\n".join(f"- `{each.annotation}`: {_line(each.description)}" for each in value)
            parts.append(f"**Warns**\n\n{warned}")
        elif kind in ("returns", "yields"):
            parts.append("\n".join(f":returns: {_line(each.description)}" for each in value))
        elif kind == "text":
            parts.append(value.strip("\n"))
        elif kind == "admonition":
            parts.append(f"**{section.title or value.kind}**: {value.contents}")
        else:
            parts.append(f"**{section.title or kind.title()}**\n\n{value}")
    return "\n\n".join(filter(None, parts))


def _line(text: str) -> str:
    return " ".join(text.split())
