"""The words that users read: spelled rightly, and in sentences that read as English."""

import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from contract import MODULES as PUBLIC_MODULES
from contract import public_names

ROOT = Path(__file__).parent.parent
MADE = ("methods", "recipes", "commands", "reference")
"Folders of docs that are written when the site is built."
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(page for page in (ROOT / "docs").rglob("*.md") if page.relative_to(ROOT / "docs").parts[0] not in MADE),
]
MODULES = [*(ROOT / "guidance_core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]

HABITS = {
    r"(?<!here )\b(?:is|are|was|were) no (?!longer|more|less|other|better|worse)[a-z]+": "write 'is not a ...'",
    r"\b(?:can|could)(?:not)? be had\b": "write 'cannot be combined', 'is available'",
    r"\bequally many\b": "write 'the same number of'",
    r"\bamounts? to\b": "write 'is'",
    r"\b(?:is|are|was|were) told (?:so|to all|both|here|before|within|by|with)\b": "write 'is reported', 'reaches'",
    r"\bwhich (?:is|are) told\b": "write 'is reported'",
    r"(?<!there )\bnone is (?!set|given|left|loaded|named|needed|empty|kept|found|better)\b": (
        "write '(none: ...)' or 'default: ...'"
    ),
    r"\b[Ww]hat (?:[\w']+ ){1,8}(?:is|are) (?:refused|raised|rejected|cut|copied|lost)\b": (
        "name the subject: 'Values that cannot be compared are refused'"
    ),
    r"(?:^|[.;:] )(?:Aimed at|Measured|Seen|Wanted|Meant|Tried) (?:is|are|was|were)\b": "put the subject first",
    r"\bThat which\b": "name the thing",
    r"\b(?:is|are) (?:the \w+'s|for the \w+) to (?:say|decide|choose)\b": "write 'the ... decides'",
    r"\b1 passes\b": "write '1 pass'",
}
"Habits that make a sentence read like a translation, and what to write."


def of_module(path: Path) -> str:
    """Return the strings and comments of a module, and as many lines as it has."""
    lines = [""] * (path.read_text().count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            for number, line in enumerate(token.string.splitlines()):
                lines[token.start[0] - 1 + number] += line
    return "\n".join(lines)


def read(path: Path) -> str:
    return of_module(path) if path.suffix == ".py" else path.read_text()


def habits_in(text: str) -> list[tuple[int, str, str]]:
    return sorted(
        (text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), advice)
        for pattern, advice in HABITS.items()
        for found in re.finditer(pattern.replace(" ", r"\s+").replace(r"here\s+)", "here )"), text, re.MULTILINE)
    )


@pytest.mark.parametrize("path", [*PAGES, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_do_not_read_like_a_translation(path):
    found = [f"{path.relative_to(ROOT)}:{line}: {text!r}; {advice}" for line, text, advice in habits_in(read(path))]
    assert not found, "\n".join(found)


def test_words_are_spelled_rightly():
    ran = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *map(str, (*PAGES, *MODULES))],
        cwd=ROOT,  # whose pyproject.toml has the words to ignore
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def public_functions() -> dict[tuple[str, int], tuple[str, str]]:
    """Return names and docstrings of what programs may call, by file and by each line."""
    found = {}
    for module in map(importlib.import_module, PUBLIC_MODULES):
        for name in public_names(module):
            value = inspect.unwrap(getattr(module, name)) if callable(getattr(module, name)) else None
            members = inspect.getmembers(value) if inspect.isclass(value) else [("", value)]
            for member, function in members:
                function = inspect.unwrap(getattr(function, "fget", None) or getattr(function, "__func__", function))
                if member.startswith("_") or not inspect.isfunction(function):
                    continue
                if function.__module__.startswith("guidance_core") and not function.__code__.co_filename.startswith(
                    "<"
                ):
                    lines, first = inspect.getsourcelines(function)
                    for line in range(first, first + len(lines)):
                        found[function.__code__.co_filename, line] = (
                            f"{module.__name__}.{name}.{member}".rstrip("."),
                            str(function.__doc__),
                        )
    return found


def test_public_docstrings_say_which_errors_they_raise():
    rule = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--preview",
        "--select=DOC501",
        "--output-format=json",
        "--exit-zero",
    ]
    ran = subprocess.run([*rule, "guidance_core"], cwd=ROOT, capture_output=True, text=True, check=True)
    functions = public_functions()
    assert len(functions) > 1000, "the public functions are found"
    missing = set()
    for place in json.loads(ran.stdout):
        name, docstring = functions.get((place["filename"], place["location"]["row"]), ("", ""))
        (error,) = re.findall(r"`(\w+)`", place["message"])
        if name and error.endswith("Error") and error != "GuidanceError" and error not in docstring:
            missing.add(f"{name} raises {error}")
    assert not missing, "\n".join(sorted(missing))


@pytest.mark.parametrize(
    "text",
    [
        "A plain object is no tensor.",
        "Both cannot be had with batched.",
        "All lists must be equally many.",
        "The error is told to all ranks.",
        "Blocks to skip; none is all of them.",
        "What cannot be compared is refused when a run starts.",
        "Aimed at were 1.9 times serial.",
        "What `cond` runs is the host's to say.",
    ],
)
def test_the_habits_are_found(text):
    assert habits_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no such plugin.",
        "It is no longer needed.",
        "What a step runs and what is made of it.",
        "none is given",
    ],
)
def test_plain_sentences_are_left_alone(text):
    assert not habits_in(text)
