"""What a reader and an installer of the plugin rely on; some of it a process started anew finds out."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from guidance_core import discovery
from guidance_core.conformance.fresh_process import asked
from guidance_core.conformance.registry import check
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, Violation, require

_REFERENCE = re.compile(
    r"arxiv|doi\.|https?://|^\s*source\b|\bsource:|\bet al\b|\breference", re.IGNORECASE | re.MULTILINE
)

_PUBLIC = ("conformance", "hosts", "models")
"Modules inside `guidance_core` that are for everybody."


@check(
    "documented",
    "Its docstring says in one line what it does, gives the formula and the source, and each parameter has a help "
    "text.",
)
def documented(subject: Subject) -> None:
    text = inspect.cleandoc(subject.cls.__doc__ or "")
    if not text or text.startswith(f"{subject.cls.__name__}("):
        raise Violation(f"{subject.cls.__name__} has no docstring.")
    summary = text.partition("\n")[0]
    require(len(summary) <= 120, f"The first line of the docstring is {len(summary)} characters long; 120 is a line.")
    changes_numbers = subject.branches or not subject.is_wrapper
    require(
        not changes_numbers or re.search(r"\S\s*(=|←|:=)\s*\S|·", text),
        "The docstring gives no formula (a line with `=`, such as `guided = c + (s − 1)·(c − u)`).",
    )
    require(
        _REFERENCE.search(text),
        "The docstring names no source: a paper (arXiv:..., with the equation), a repository, or `this package`.",
    )
    bare = [field.name for field in subject.fields if not field.metadata.get("help")]
    require(
        not bare,
        f"{', '.join(bare)}: no help text; number(..., help='...') or attrs.field(metadata={{'help': '...'}}).",
    )


@check(
    "public-names",
    "It uses only what `guidance_core` exports: no module inside it, no name with an underscore.",
)
def public_names(subject: Subject) -> None:
    try:
        tree = ast.parse(Path(inspect.getfile(subject.cls)).read_text(encoding="utf-8"))
    except (OSError, TypeError, SyntaxError, UnicodeError):
        raise NotApplicable("its source is not at hand") from None
    imported = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    inside = {alias.asname for alias in imported if alias.name == "guidance_core"}
    inside |= {"guidance_core" for alias in imported if alias.name.partition(".")[0] == "guidance_core"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            _check_import(node.module or "", [alias.name for alias in node.names], node.lineno)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                _check_import(alias.name, [], node.lineno)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in inside and not node.attr.startswith("__"):
                _check_import("guidance_core", [node.attr], node.lineno)
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            require(
                not (is_private and node.value.id in ("step", "plan", "reference", "predictions", "run")),
                f"Line {node.lineno} uses {node.value.id}.{node.attr}, which may change without notice.",
            )


def _check_import(module: str, names: list[str], line: int) -> None:
    root, _, inside = module.partition(".")
    if root != "guidance_core":
        return
    import guidance_core

    part = inside.partition(".")[0]
    require(
        not part or part in _PUBLIC,
        f"Line {line} imports from {module}, a module inside guidance_core; import from guidance_core itself.",
    )
    exported = ("*", *_PUBLIC, *guidance_core.__all__)
    unknown = [name for name in names if not inside and name not in exported]
    require(not unknown, f"Line {line} takes {', '.join(unknown)} from guidance_core, which does not export it.")


@check(
    "quiet-import",
    "Importing it changes no global setting: dtype, threads, gradient mode, random state, environment.",
    processes=True,
    autograd=False,
)
def quiet_import(subject: Subject) -> None:
    answer = asked(subject)
    require(
        not answer["changed"],
        f"Importing {subject.cls.__module__} changes {', '.join(answer['changed'])} for the whole process.",
    )


@check(
    "loads-beside-a-broken-neighbour",
    "Its entry point loads alone in a fresh process, and beside a plugin that fails to import.",
    processes=True,
    applies=lambda subject: None if discovery.entry_name(subject.cls) else "it is not published under an entry point",
    autograd=False,
)
def loads_beside_a_broken_neighbour(subject: Subject) -> None:
    answer = asked(subject)
    require(answer["neighbour"], "The broken neighbour was not reported as failed.")
    require(
        answer["loaded"] is None,
        f"Its entry point does not load in a fresh process: {answer['loaded']}",
    )
