"""Each command names the extra it needs, in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["guidance-core", *{arguments!r}]
from guidance_core.__main__ import main
main()
"""


def run_without(missing, arguments):
    script = WITHOUT.format(missing=missing, arguments=arguments)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ({"typer"}, ["plugins"], "cli"),
        ({"rich"}, ["plugins", "--json"], "cli"),
        ({"safetensors"}, ["sample"], "demo"),
        ({"PIL"}, ["sample", "--json"], "demo"),
        ({"numpy"}, ["sample", "--ranks", "2"], "demo"),
        ({"matplotlib"}, ["sample", "--model", "mixture"], "demo"),
        ({"hypothesis"}, ["check", "cfg"], "testing"),
        ({"hypothesis", "pytest"}, ["check", "--list", "--json"], "testing"),
        ({"diffusers"}, ["bench", "parallel", "--json"], "hosts"),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, (set, list)) else value,
)
def test_a_command_names_the_extra_it_needs(missing, arguments, extra):
    done = run_without(missing, arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"guidance-core[{extra}]" in line


def test_what_needs_no_extra_runs_without_any():
    missing = {"numpy", "PIL", "safetensors", "diffusers", "hypothesis"}
    done = run_without(missing, ["describe", "ltx2:preset=2.3", "--steps", "3"])
    assert done.returncode == 0, done.stderr
    assert "total      12 passes in 3 steps" in done.stdout
    assert done.stderr == "", "torch's warning that NumPy is missing is not about anything that was asked for"
