"""What all commands keep: examples, JSON, exit statuses, and one line for each error, in any terminal or none."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import guidance_core
from guidance_core import UnknownNameError
from guidance_core.commands.app import app
from guidance_core.commands.statuses import STATUSES, TRACEBACK
from guidance_core.commands.variables import VARIABLES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/commands.md"
TOP = typer.main.get_command(app)


def leaves(command, *words):
    """Yield every command that does something, with the words that call it."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield words, command
    for name, each in inner.items():
        yield from leaves(each, *words, name)


ALL = {" ".join(words): command for words, command in leaves(TOP) if words}


def call(*words):
    return CliRunner().invoke(app, list(words))


def process(*words, script=None, **environment):
    """Run the command as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, *(("-c", script) if script else ("-m", "guidance_core", *words))],
        capture_output=True,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def test_every_command_is_known_here():
    names = {"plugins", "describe", "sample", "gallery", "check", "convert", "new", "dashboard", "env", "recipes"}
    assert {name for name in ALL if not name.startswith("bench ")} == names | {"recipes show"}


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_json_quiet_and_examples_that_it_understands(name):
    command = ALL[name]
    options = {option for param in command.params for option in param.opts}
    assert {"--json", "--quiet"} <= options
    shown = call(*name.split(), "--help").output
    examples = command.epilog.split("\n\n")[0].splitlines()
    assert examples
    for example in examples:
        assert f"  {example}\n" in shown, "an example is never wrapped"
        words = shlex.split(example)
        assert words[0] == "guidance-core"
        assert " ".join(words[1:]).startswith(name.split()[0])
        asked, given = TOP, words[1:]
        while getattr(asked, "commands", {}).get(given[0] if given else None):
            asked, given = asked.commands[given[0]], given[1:]
        asked.make_context(words[-1], list(given)).close()


def test_the_help_and_the_page_tell_the_exit_statuses():
    shown = " ".join(call("--help").output.split())
    page = PAGE.read_text()
    for status, meaning in STATUSES.items():
        assert f"{status} {' '.join(meaning.split())}" in shown
        assert f"| {status} | {meaning} |" in page


def test_the_page_names_every_command_and_variable():
    page = PAGE.read_text()
    assert {name for name in ALL if f"`guidance-core {name}" not in page} == set()
    assert {name for name in VARIABLES if f"`{name}`" not in page} == set()


WRONG = [
    ("describe cgf", "Did you mean 'cfg'?"),
    ("describe cfg:scale=x", "error: "),
    ("describe --recipe sd --recipe sdxl", "--recipe is given 2 times; it takes one value."),
    ("describe cfg --steps 3 --steps 4", "--steps is given 2 times"),
    ("describe cfg --nope", "--nope"),
    ("nope", "nope"),
    ("recipes show wan2.2", "wan2.2-i2v-a14b, wan2.2-t2v-a14b, wan2.2-ti2v-5b"),
    ("recipes zzzz", "no recipe holds the text 'zzzz'"),
    ("convert no/such/file", "no/such/file"),
    ("sample --out /proc/nowhere/x.png", "/proc/nowhere"),
    ("new My_Method", "Did you mean 'my-method'?"),
    ("new my-method --into /proc/nowhere", "/proc/nowhere"),
    ("dashboard no/such/list", "no/such/list"),
    ("check cfg --param nope=1", "nope"),
    ("bench methods nope", "nope"),
]
RUN = """
import sys
from guidance_core.commands import main
for words in {words!r}:
    sys.argv = ["guidance-core", *words]
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code
    print("status", status, file=sys.stderr)
"""


def test_wrong_use_has_status_2_and_no_traceback():
    words = [shlex.split(line) for line, _ in WRONG]
    done = process(script=RUN.format(words=words))
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert done.stdout == b""
    parts = re.split(r"^status (.*)\n", text, flags=re.MULTILINE)
    told = dict(zip((line for line, _ in WRONG), zip(parts[1::2], parts[0::2], strict=False), strict=True))
    for line, says in WRONG:
        assert told[line][0] == "2", (line, told[line])
        assert says in told[line][1], (line, told[line])


BROKEN_METHOD = """
import attrs
from guidance_core import Branch, hookimpl


@attrs.frozen
class Wrong:
    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True)]

    @hookimpl
    def combine(self, step, predictions):
        return predictions["cond"] * predictions["cond"].std()
"""


def test_a_broken_promise_has_status_1_and_is_printed_though_quiet(tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN_METHOD)
    quickly = ("--only", "batch-mates", "--ranks", "0", "--seed", "0", "--max-examples", "5", "--quiet")
    done = process("check", "mine:Wrong", *quickly, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"batch-mates" in done.stderr


def test_an_error_that_nobody_foresaw_is_one_line_with_status_70(tmp_path):
    script = (
        "import sys; sys.argv = ['guidance-core', 'describe', 'cfg']; from unittest import mock\n"
        "from guidance_core.commands import main\n"
        "with mock.patch('guidance_core.guidance.Guidance.describe', side_effect=KeyError('x')): main()"
    )
    done = process(script=script)
    assert done.returncode == 70
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: KeyError: 'x'.")
    assert TRACEBACK in line
    assert b"Traceback" in process(script=script, **{TRACEBACK: "1"}).stderr


def test_ascii_output_is_legible():
    words = [line.split() for line in ("plugins", "recipes", "describe ltx2 --steps 3", "env", "check --list")]
    done = process(script=RUN.format(words=words), PYTHONIOENCODING="ascii", COLUMNS="100")
    assert done.stderr.decode().split() == ["status", "0"] * len(words)
    assert done.stdout.isascii()
    assert re.findall(rb".*\\\\[ux].*", done.stdout) == [], "a character without a spelling in ASCII"


@pytest.mark.parametrize("columns", ["1", "20"])
def test_a_narrow_terminal_will_do(columns):
    words = [line.split() for line in ("plugins", "recipes wan", "describe cfg", "env")]
    done = process(script=RUN.format(words=words), COLUMNS=columns, TERM="dumb")
    assert done.stderr.decode().split() == ["status", "0"] * len(words)
    assert process("check", "--help", COLUMNS=columns).returncode == 0


@pytest.mark.parametrize("words", ["plugins", "plugins --json"])
def test_a_closed_pipe_ends_a_command_silently(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "guidance_core", *words.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "words", ["plugins", "env", "recipes", "recipes wan", "recipes show sd", "describe cfg", "check --list"]
)
def test_json_is_json_and_quiet_is_quiet(words):
    assert json.loads(call(*words.split(), "--json").stdout)
    assert json.loads(call(*words.split(), "--json", "--quiet").stdout)
    quiet = call(*words.split(), "-q")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_completion_is_offered():
    assert "--install-completion" in call("--help").output
    command = Path(sys.executable).parent / "guidance-core"  # its name is that of the variable
    asked = {"_GUIDANCE_CORE_COMPLETE": "complete_bash", "COMP_WORDS": "guidance-core des", "COMP_CWORD": "1"}
    done = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["describe"], done.stderr


def test_recipes_are_found_by_a_text():
    def found(*words):
        return [row["name"] for row in json.loads(call("recipes", *words, "--json").stdout)]

    assert found("WAN 2.2")[:3] == ["wan2.2-i2v-a14b", "wan2.2-t2v-a14b", "wan2.2-ti2v-5b"]
    assert found("--filter", "FluxPipeline") == ["flux.1-dev"]
    assert set(found("Stable Diffusion")) >= {"sd", "sdxl", "sd3"}
    assert isinstance(call("recipes", "zzzz").exception, UnknownNameError)


def test_env_lists_every_variable_that_the_library_reads():
    package = Path(guidance_core.__file__).parent
    read = set()
    for path in (*package.rglob("*.py"), ROOT / "_guidance_core_pytest.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                is_name = re.fullmatch(r"GUIDANCE_CORE_[A-Z_]+", node.value)
                near = re.search(rf"environ[^\n]*{re.escape(repr(node.value)[1:-1])}\b", text)
                if is_name or (near and re.fullmatch(r"[A-Z][A-Z_]+", node.value)):
                    read.add(node.value)
    assert "WORLD_SIZE" in read
    handed_on = {"PYTHONPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS", "OMP_NUM_THREADS"}
    handed_on |= {"TQDM_DISABLE", "TRANSFORMERS_VERBOSITY"}
    assert read - handed_on <= set(VARIABLES)
    rows = json.loads(call("env", "--json").stdout)["variables"]
    assert [row["name"] for row in rows] == list(VARIABLES)
    assert all(row["meaning"] for row in rows)


def test_env_shows_values_and_versions(monkeypatch):
    monkeypatch.setenv("GUIDANCE_CORE_PLUGINS", "cfg, rescale")
    shown = call("env").output
    assert "GUIDANCE_CORE_PLUGINS ('cfg, rescale'): names of the plugins to load" in shown
    assert f"guidance-core    {guidance_core.__version__}" in shown
    assert "plugins          2 of guidance-core" in shown
    facts = json.loads(call("env", "--json").stdout)
    assert {"versions", "installed_from", "devices", "hosts", "packages", "plugins", "problems"} <= facts.keys()
