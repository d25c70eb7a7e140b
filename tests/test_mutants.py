"""The command that tests the tests: what counts as killed, and that the list of mutations fits the code."""

from __future__ import annotations

import subprocess

import mutants
import pytest

LISTING = mutants.Listing.read(mutants.LIST)
CODE = "LIMIT = 3\n\n\ndef is_small(number):\n    return number < LIMIT\n"
TESTS = "from code_under_test import is_small\n\n\ndef test_it():\n    assert is_small(1)\n    assert not is_small(4)\n"


@pytest.mark.parametrize("mutation", LISTING.mutations, ids=lambda mutation: mutation.name)
def test_a_listed_mutation_changes_code_that_is_there(mutation):
    """If this fails, the line was rewritten: rewrite the mutation in tests/mutations.toml too."""
    text = (mutants.ROOT / mutation.file).read_text()
    changed = mutation.applied(text)
    assert changed is not None, f"`before` does not stand exactly once in {mutation.file}"
    assert changed != text
    compile(changed, mutation.file, "exec")
    assert all((mutants.ROOT / test).is_file() for test in mutation.tests)


def test_every_searched_module_has_tests():
    for name in mutants.files_of(mutants.ROOT):
        if name.endswith(".py") and any(mutants.is_in(name, each) for each in mutants.SEARCHED):
            assert all((mutants.ROOT / test).is_file() for test in LISTING.tests_of(name))


@pytest.fixture
def copy(tmp_path):
    """A copy of a tree of one module and one test."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "code_under_test.py").write_text(CODE)
    (source / "test_code.py").write_text(TESTS)
    (source / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef _limit():\n"
        "    import code_under_test\n    assert code_under_test.LIMIT < 100\n"
    )
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    made = mutants.Copy(source, tmp_path / "copy", ["code_under_test"])
    made.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # ours would import torch every time
    return made


@pytest.mark.parametrize(
    ("before", "after", "outcome", "says"),
    [
        ("number < LIMIT", "number > LIMIT", mutants.KILLED, "test_code::test_it: "),
        ("number < LIMIT", "number <= LIMIT", mutants.SURVIVED, "all 1 tests passed"),
        ("number > LIMIT", "number < LIMIT", mutants.STALE, "does not stand once in code_under_test.py"),
        ("LIMIT", "LIMITS", mutants.STALE, "does not stand once"),
        ("return number", "return (number", mutants.BROKEN, "cannot be imported: SyntaxError"),
        ("LIMIT = 3", "LIMIT = nothing", mutants.BROKEN, "cannot be imported: NameError"),
        ("LIMIT = 3", "LIMIT = 300", mutants.BROKEN, "no test failed, but pytest ended with 1"),
        ("return number", "import time; time.sleep(60); return number", mutants.LATE, "no test had failed after"),
    ],
    ids=["killed", "survived", "gone", "several", "syntax", "import", "fixture", "hangs"],
)
def test_only_a_test_that_fails_kills(copy, before, after, outcome, says):
    mutation = mutants.Mutation("it", "code_under_test.py", before, after, ["test_code.py"])
    limit = 5.0 if outcome == mutants.LATE else 120.0
    verdict = mutants.judged(copy, mutation, mutants.passing(copy, mutation.tests), limit)
    assert (verdict.outcome, says in verdict.why) == (outcome, True), verdict
    assert (copy.root / "code_under_test.py").read_text() == CODE, "the next mutation begins with unchanged code"


def test_the_list_is_judged_as_a_whole(copy, capsys):
    killed = mutants.Mutation("one", "code_under_test.py", "number <", "number >", ["test_code.py"])
    survivor = mutants.Mutation("another", "code_under_test.py", "number <", "number <=", ["test_code.py"])
    assert mutants.check_listed(copy, [killed])
    assert not mutants.check_listed(copy, [killed, survivor])
    printed = capsys.readouterr().out
    assert "one      killed" in printed
    assert "another  SURVIVED" in printed
    assert "1 killed, 1 survived, 0 could not be judged" in printed


def test_nothing_is_judged_where_the_tests_fail_beforehand(copy):
    (copy.root / "test_code.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(SystemExit, match="do not pass before anything is changed"):
        mutants.passing(copy, ["test_code.py"])


def test_code_from_elsewhere_is_not_taken_for_the_copy(copy):
    assert copy.why_not_imported(["code_under_test.py"]) == ""
    (copy.root / "os.py").touch()  # which Python has imported by then
    assert "os is imported from" in copy.why_not_imported(["os.py"])
