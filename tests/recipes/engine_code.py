"""The engines' own code: single functions and lines, taken out of their sources and run without the engines.

The sources are those of diffusers, as installed, and of the wheels that `make engines` puts into .venv/engines. Every
piece has a digest of its lines, so that a test tells when an engine changed a rule that a recipe follows.
"""

from __future__ import annotations
import __future__

import ast
import copy
import functools
import hashlib
import re
import sys
import types
import zipfile
from importlib import metadata, util
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

READ = {"diffusers": "0.42.1", "ltx-core": "1.0.0", "sglang": "0.5.23", "vllm-omni": "0.30.0"}
"The versions in which the recipes were read."
WHEELS = Path(sys.prefix) / "engines"
PIECES: list[Piece] = []
"Every piece that a test uses."


def wheel(engine: str) -> Path | None:
    """Return the engine's wheel, where it has been fetched."""
    found = sorted(WHEELS.glob(f"{engine.replace('-', '_')}-*.whl"))
    return found[-1] if found else None


def version(engine: str) -> str | None:
    """Return the version of the engine that is there."""
    if engine == "diffusers":
        return metadata.version(engine) if util.find_spec(engine) else None
    found = wheel(engine)
    return found.name.split("-")[1] if found else None


@functools.cache
def source(engine: str, file: str) -> str:
    """Return the text of one file, such as `sglang/multimodal_gen/runtime/models/vision_utils.py`.

    Skips the test where the engine is not there.
    """
    if version(engine) is None:
        pytest.skip(f"{engine} {READ[engine]} is not here; `make engines` fetches it")
    if engine == "diffusers":
        root = Path(str(util.find_spec(engine).origin)).parents[1]
        return (root / file).read_text(encoding="utf-8")
    with zipfile.ZipFile(wheel(engine)) as files:
        return files.read(file).decode("utf-8")


@attrs.frozen
class Piece:
    """A function, a method or some lines of one, in an engine's source."""

    engine: str
    file: str
    name: str
    "Of the function, such as `rescale` or `Class.method`; empty for lines of the module."
    digest: str
    "Of its lines, as the drift test says it."
    first: str = ""
    "What the first statement of the lines begins with, as `ast.unparse` writes it; the whole function if empty."
    last: str = ""
    "The same of the last statement, which stands in the same block; the first statement alone if empty."
    members: tuple[str, ...] = ()
    "Of a class: the members to keep; all if empty."

    def __attrs_post_init__(self) -> None:
        PIECES.append(self)

    def __str__(self) -> str:
        return f"{self.engine}: {self.name}{f', {self.first!r}' if self.first else ''}"

    @property
    def found_digest(self) -> str:
        """The digest of the lines that are there; comments and layout do not count."""
        text = "\n".join(ast.unparse(each) for each in _statements(self))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def run(self, /, **names: Any) -> dict[str, Any]:
        """Run the lines with these names, and return all names that there are then; `returned` is what they return."""
        space = {"torch": torch, **names}
        exec(_code(self), space)
        return space

    def function(self, /, **names: Any) -> Any:
        """Return the function or class, which sees torch and these names; a method takes `self` first.

        A function's decorators are left out.
        """
        module = types.ModuleType(f"taken_from_{self.engine.replace('-', '_')}")
        sys.modules[module.__name__] = module  # dataclasses look there
        module.__dict__.update({"torch": torch, **names})
        exec(_code(self), module.__dict__)
        return module.__dict__[self.name.rpartition(".")[2]]


@functools.cache
def _tree(engine: str, file: str) -> ast.Module:
    return ast.parse(source(engine, file))


@functools.cache
def _statements(piece: Piece) -> list[ast.stmt]:
    """Return the lines, or the definition itself."""
    node: Any = _tree(piece.engine, piece.file)
    for name in filter(None, piece.name.split(".")):
        named = [each for each in ast.walk(node) if getattr(each, "name", None) == name]
        if not named:
            raise LookupError(f"{piece.file} of {piece.engine} has no {piece.name}")
        node = named[0]
    node = copy.deepcopy(node)
    if piece.members:
        node.body = [each for each in node.body if getattr(each, "name", None) in piece.members]
    if not piece.first:
        return [node]
    found = []
    for block in (each for inner in ast.walk(node) for each in _blocks(inner)):
        for start in (i for i, each in enumerate(block) if _begins(each, piece.first)):
            ends = [i for i in range(start, len(block)) if _begins(block[i], piece.last or piece.first)]
            found += [block[start : end + 1] for end in ends[:1]]
    if len(found) != 1:
        raise LookupError(f"{piece}: {len(found)} places begin so; expected one")
    return found[0]


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    named = (getattr(node, name, None) for name in ("body", "orelse", "finalbody"))
    return [block for block in named if isinstance(block, list)]


def _begins(statement: ast.stmt, text: str) -> bool:
    """Whether a statement begins with a text; what a block holds does not count."""
    head: Any = copy.copy(statement)
    for name in ("body", "orelse", "finalbody", "handlers"):
        if getattr(head, name, None):
            setattr(head, name, [ast.Pass()])
    if hasattr(head, "handlers"):
        return False
    return ast.unparse(head).startswith(text)


@functools.cache
def _code(piece: Piece) -> types.CodeType:
    statements = [_kept(each) for each in _statements(piece)]
    for each in statements:
        if isinstance(each, ast.FunctionDef):
            each.decorator_list = []
    module = ast.Module(body=statements, type_ignores=[])
    return compile(module, piece.file, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)


def _kept(statement: ast.stmt) -> ast.stmt:
    """Return a statement that keeps under a name what it would return."""
    if not isinstance(statement, ast.Return) or statement.value is None:
        return statement
    kept = ast.Assign(targets=[ast.Name("returned", ast.Store())], value=statement.value)
    return ast.fix_missing_locations(ast.copy_location(kept, statement))


def versions_in(text: str) -> dict[str, str]:
    """Return the engines that a text names, each with its version."""
    return dict(re.findall(rf"({'|'.join(READ)}) (\d[\w.]*\w)", text))
