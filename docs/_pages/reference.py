"""The reference: a page for each room of the library that has public names."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from _pages.markdown import between, rows, table
from _pages.objects import entry, loaded

LIBRARY = "guidance_core"
LISTING = (LIBRARY, f"{LIBRARY}.conformance", f"{LIBRARY}.models", f"{LIBRARY}.recipes")
"Packages whose `__all__` is public."
WHOLE = (
    "parameters.schedules",
    "parameters.curves",
    "parameters.phases",
    "methods.perturbations",
    "methods.attention",
    "methods.randomized",
    "methods.sliding",
    "algebra.statistics",
    "algebra.spaces",
    "hosts.diffusers",
    "hosts.guiders",
    "hosts.ltx2",
    "hosts.sglang",
    "hosts.vllm_omni",
)
"Modules and packages of which everything with a docstring is public."
CLASSES = ("describe",)
"Modules whose classes are public, since public methods return them."
ERRORS = "errors"
GROUPS = {
    "algebra": {"statistics": "Statistics", "spaces": "Spaces"},
    "methods": {
        "requests": "What a method asks for",
        "perturbations": "Perturbations",
        "attention": "Perturbations of attention",
        "randomized": "Perturbations that are drawn",
        "sliding": "Sliding windows",
    },
    "parameters": {"fields": "Fields", "schedules": "Schedules", "curves": "Curves", "phases": "Phases"},
}
"Headings of the larger rooms, by module."


def pages(docs: Path) -> dict[str, str]:
    """Return the page of each room that has public names, in the rooms' order, and a list of all methods."""
    purposes = {cells[0].strip("`"): cells[1] for cells in rows(between(docs / "architecture.md", "rooms"))}
    found = public()
    made = {room: _page(room, purposes[room], found[room]) for room in purposes if room in found}
    return made | {"index": _index(docs, made, found, purposes)}


@functools.cache
def public() -> dict[str, dict[str, Any]]:
    """Return what is public in each room: objects by the name to import them by."""
    found: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()

    def add(name: str, each: Any) -> None:
        target = each.final_target if each.is_alias else each
        if target.path not in seen and not target.is_module:
            seen.add(target.path)
            room = target.path.split(".")[1] if target.path.count(".") > 1 else "version"
            found.setdefault(room, {})[name] = each

    library = loaded(LIBRARY)
    for package in LISTING:
        module = library[package.removeprefix(LIBRARY).lstrip(".")] if package != LIBRARY else library
        for name in exported(module):
            if not name.startswith("__"):
                add(f"{package}.{name}", _named(module, name))
    for path in (*WHOLE, *CLASSES):
        module = library[path]
        names = exported(module) or [name for name, each in module.members.items() if _is_shown(name, each)]
        if path in CLASSES:
            names = [name for name in names if module[name].is_class]
        for name in names:
            add(f"{LIBRARY}.{path}.{name}", _named(module, name))
    for name, each in library[ERRORS].members.items():
        if not each.is_alias and each.is_class:
            add(f"{LIBRARY}.{ERRORS}.{name}", each)
    return found


def exported(module: Any) -> list[str]:
    """Return the names of a module's `__all__`."""
    return [str(each).strip("'\"") for each in module.exports or ()]


def _named(module: Any, name: str) -> Any:
    """Return what a package exports under a name, though one of its modules may have that name too."""
    found = module[name]
    if found.is_module and name in module.imports:
        return loaded(LIBRARY)[module.imports[name].removeprefix(f"{LIBRARY}.")]
    return found


def _is_shown(name: str, each: Any) -> bool:
    return not name.startswith("_") and not name.isupper() and not each.is_alias and bool(each.docstring)


def _page(room: str, purpose: str, found: dict[str, Any]) -> str:
    parts, current, heading = [f"# `{room}`", purpose], "", ""
    for name, each in sorted(found.items(), key=lambda item: _place(room, *item)):
        module, _, short = name.rpartition(".")
        if (title := _heading(room, each)) != heading:
            heading = title
            parts.append(f"## {title}")
        if module != current:
            current = module
            parts.append(f"```{{py:currentmodule}} {module}\n```")
        parts.append(entry(each, short))
    return "\n\n".join(parts) + "\n"


def _module(each: Any) -> str:
    path: str = (each.final_target if each.is_alias else each).path
    return path.split(".")[2] if path.count(".") > 2 else ""


def _heading(room: str, each: Any) -> str:
    if room == "hosts":
        return f"`{LIBRARY}.hosts.{_module(each)}`"
    return GROUPS.get(room, {}).get(_module(each), "More") if room in GROUPS else ""


def _place(room: str, name: str, each: Any) -> tuple[Any, ...]:
    headings = list(GROUPS.get(room, {}).values())
    heading = _heading(room, each)
    group = headings.index(heading) if heading in headings else len(headings)
    target = each.final_target if each.is_alias else each
    order = target.lineno or 0 if room == ERRORS else 0
    return group, heading, order, not target.is_class, name.lower()


def _index(docs: Path, made: dict[str, str], found: dict[str, dict[str, Any]], purposes: dict[str, str]) -> str:
    def listed(room: str) -> str:
        return ", ".join(f"`{name.rpartition('.')[2]}`" for name in sorted(found[room], key=str.lower))

    return (
        "\n\n".join(
            [
                "# Python, room by room",
                "The library's folders in the order in which data flows through them "
                "([how it works inside](../architecture.md)), with what is public in each. Methods have "
                "[pages of their own](../methods.md).",
                table(
                    ("room", "what it is for", "public names"),
                    [(f"[`{each}`]({each}.md)", purposes[each], listed(each)) for each in made],
                ),
            ]
        )
        + "\n"
    )
