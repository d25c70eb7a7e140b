"""The summary of `guidance-core check`: equal failures once, the executors that were covered, and what comes next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BAD = """
import attrs
from guidance_core import Branch, documented, hookimpl, number


@documented
@attrs.frozen
class {name}:
    '''Raises, or not.'''

    scale: float = number(3.0, help="scale")

    @hookimpl
    def build_branches(self, step):
        {body}
"""
METHOD = 'return [Branch("uncond", condition="negative", strength=step.value(self.scale) - 1)]'


@pytest.fixture
def check(tmp_path):
    def run(name, body, *words):
        (tmp_path / "mine.py").write_text(BAD.format(name=name, body=body))
        command = [sys.executable, "-m", "guidance_core", "check", f"mine:{name}", "--max-examples", "2", *words]
        return subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)

    return run


def test_failures_that_are_alike_are_shown_once_with_their_number(check):
    done = check("Broken", 'raise RuntimeError(f"oops {step.index}")', "--ranks", "0")
    assert done.returncode == 1
    assert done.stdout.count("to paste and run") <= 3
    assert "Like works, " in done.stdout
    assert "  smallest examples: Case(" in done.stdout
    assert "failed alike" in done.stdout
    full = check(
        "Broken", 'raise RuntimeError("oops")', "--ranks", "0", "--full", "--only", "works", "--only", "threads"
    )
    assert full.stdout.count("to paste and run") == 2


def test_what_fails_like_a_check_that_is_expected_to_fail_is_shown(check):
    done = check(
        "Broken", 'raise RuntimeError("oops")', "--ranks", "0", "--only", "works", "--only", "threads",
        "--expect-failure", "works=is known",
    )  # fmt: skip
    assert done.returncode == 1
    assert "failed as expected: is known" in done.stdout
    assert "Like works" not in done.stdout
    assert "failed alike" not in done.stdout
    assert "oops" in done.stdout


def test_without_ranks_the_next_thing_is_to_check_on_some(check):
    done = check("Fine", METHOD, "--ranks", "0")
    assert "executors covered: serial; not: all_gather, all_reduce" in done.stdout
    assert "pytest, build, publish" not in done.stdout
    if done.returncode == 0:
        assert "next: check on several ranks too\n  guidance-core check mine:Fine  #" in done.stdout
