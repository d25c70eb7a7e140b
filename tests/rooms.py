"""The rooms of the library: their order, and who imports whom.

python tests/rooms.py --write       the table of rooms in docs/architecture.md
"""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "guidance_core"
PAGE = ROOT.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->", "<!-- end of rooms -->"
ORDER = (
    "errors",
    "version",
    "discovery",
    "parameters",
    "algebra",
    "methods",
    "config",
    "recipes",
    "steps",
    "executors",
    "describe",
    "trace",
    "run",
    "guidance",
    "unpublished",
    "tuner",
    "catalog",
    "hosts",
    "",  # guidance_core itself: what it exports lies before, what uses it as others do lies behind
    "ranks",
    "models",
    "conformance",
    "gallery",
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
    """Return the room that a module stands in; empty for `guidance_core` itself."""
    return module.partition(".")[2].partition(".")[0]


def summary(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def table() -> str:
    """Return the rooms in order, with what each is for and the modules in it, as Markdown."""
    lines = ["| room | what it is for | modules |", "|---|---|---|"]
    for name in ORDER[:-1]:
        module = f"guidance_core.{name}" if name else "guidance_core"
        inside = sorted(each.removeprefix(f"{module}.") for each in modules() if name and each.startswith(f"{module}."))
        direct = [each for each in inside if "." not in each and each != "__main__"]
        shown = ", ".join(f"`{each}`" for each in direct)
        lines.append(f"| `{name or 'guidance_core'}` | {summary(modules()[module])} | {shown} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """Return the page with the table between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_table(PAGE.read_text()))
    else:
        print(table())
