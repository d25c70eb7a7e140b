"""The engines' own code: single functions and lines, taken out of their sources and run without the engines.

The sources are those of diffusers, as installed, and of the wheels that `make engines` puts into .venv/engines. Every
piece has a digest of its lines, so that a test tells when an engine changed a rule that a recipe follows.
"""

from __future__ import annotations
import __future__

import ast
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
    "Of the function, such as `rescale` or `Class.method`."
    digest: str
    "Of its lines, as the drift test says it."
    first: str = ""
    "What the first statement of the lines begins with, as `ast.unparse` writes it; the whole function if empty."
    last: str = ""
    "The same of the last statement, which stands in the same block; the first statement alone if empty."

    def __attrs_post_init__(self) -> None:
        PIECES.append(self)

    def __str__(self) -> str:
        return f"{self.engine}: {self.name}{f', {self.first!r}' if self.first else ''}"

    @property
    def node(self) -> ast.AST:
        """The function or class as written."""
        found: Any = ast.parse(source(self.engine, self.file))
        for name in self.name.split("."):
            named = [each for each in ast.walk(found) if getattr(each, "name", None) == name]
            if not named:
                raise LookupError(f"{self.file} of {self.engine} has no {self.name}")
            found = named[0]
        return found

    @property
    def statements(self) -> list[ast.stmt]:
        """The lines, or the definition itself."""
        node: Any = self.node
        if not self.first:
            return [node]
        blocks = [
            block
            for each in ast.walk(node)
            for block in (getattr(each, name, None) for name in ("body", "orelse", "finalbody"))
            if isinstance(block, list)
        ]
        found = []
        for block in blocks:
            texts = [ast.unparse(each) for each in block]
            for start in (i for i, text in enumerate(texts) if text.startswith(self.first)):
                ends = [i for i in range(start, len(texts)) if texts[i].startswith(self.last or self.first)]
                if ends:
                    found.append(block[start : ends[0] + 1])
        if len(found) != 1:
            raise LookupError(f"{self}: {len(found)} places begin so; expected one")
        return found[0]

    @property
    def found_digest(self) -> str:
        """The digest of the lines that are there; comments and layout do not count."""
        text = "\n".join(ast.unparse(each) for each in self.statements)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def run(self, /, **names: Any) -> dict[str, Any]:
        """Run the lines with these names, and return all names that there are then."""
        space = {"torch": torch, **names}
        exec(self._compiled(self.statements), space)
        return space

    def function(self, /, **names: Any) -> Any:
        """Return the function or class, which sees torch and these names; a method takes `self` first.

        A function's decorators are left out.
        """
        (node,) = self.statements
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
        module = types.ModuleType(f"taken_from_{self.engine.replace('-', '_')}")
        sys.modules[module.__name__] = module  # dataclasses look there
        module.__dict__.update({"torch": torch, **names})
        exec(self._compiled([node]), module.__dict__)
        return module.__dict__[node.name]

    def _compiled(self, statements: list[ast.stmt]) -> types.CodeType:
        module = ast.Module(body=list(statements), type_ignores=[])
        return compile(module, self.file, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)


def versions_in(text: str) -> dict[str, str]:
    """Return the engines that a text names, each with its version."""
    return dict(re.findall(rf"({'|'.join(READ)}) (\d[\w.]*\w)", text))
