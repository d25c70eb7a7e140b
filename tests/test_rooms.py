"""The rooms of the library stand in one order, and a module imports only what lies before it."""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

import guidance_core

ROOT = Path(guidance_core.__file__).parent
ORDER = (
    "errors",
    "version",
    "discovery",
    "parameters",
    "algebra",
    "methods",
    "config",
    "steps",
    "executors",
    "describe",
    "run",
    "guidance",
    "hosts",
    "",  # guidance_core itself: what it exports lies before, what uses it as others do lies behind
    "ranks",
    "models",
    "conformance",
    "bench",
    "scaffold",
    "commands",
    "__main__",
)


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module of the library by name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(("guidance_core", *(part for part in parts if part != "__init__")))] = path
    return found


def imported(path: Path) -> set[str]:
    """Return the library's modules that a file imports anywhere: in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are written out"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = names & modules().keys()
            found |= inside | ({node.module or ""} if inside < names else set())
    return found & modules().keys()


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_every_module_stands_in_a_room_of_the_order():
    assert {room(module) for module in modules()} == set(ORDER)
    assert sum(path.parent == ROOT for path in modules().values()) <= 14, "too many modules lie flat at the top"


def test_a_module_imports_only_what_lies_before_it():
    wrong = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in imported(path)
        if ORDER.index(room(other)) > ORDER.index(room(module))
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_module_imports_itself_through_others():
    graphlib.TopologicalSorter({module: imported(path) - {module} for module, path in modules().items()}).prepare()


def test_the_walk_sees_late_imports_and_those_for_type_checkers(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from guidance_core.run import Run\n"
        "def late():\n    from guidance_core import describe, Guidance\n"
    )
    assert imported(file) == {"guidance_core.run", "guidance_core.describe", "guidance_core"}
