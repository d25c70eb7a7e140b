"""Change the code on purpose, one place at a time, and see which test notices.

    python tests/mutants.py [NAME ...]                     # the listed mutations, then a search by cosmic-ray
    python tests/mutants.py --only listed                  # those of mutations.toml; names of some select them
    python tests/mutants.py --only search --module guidance_core/algebra/spaces.py

Everything happens in a temporary copy of the tree. The tests must pass there before anything is changed. A mutation
counts as killed only if the changed code can be imported and a test that passed before fails.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import attrs
import tomli_w

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutations.toml")
SEARCHED = ("guidance_core/algebra", "guidance_core/steps", "guidance_core/executors")
SESSIONS = ROOT / "out" / "mutants"
"Where a search that was interrupted goes on from."
SUPERFLUOUS = (
    # one exchange for each operator; all others say little more, and `|` is mostly that of annotations
    r"core/ReplaceBinaryOperator_(?!(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_FloorDiv|Pow_Mul)$)",
    r"core/ReplaceComparisonOperator_(?!(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)$)",
    r"core/ReplaceUnaryOperator_(?!USub_UAdd$)",
    r"core/(ExceptionReplacer|RemoveDecorator|VariableReplacer|VariableInserter)",
)
"Operators of cosmic-ray that are left out."

KILLED, SURVIVED, BROKEN, STALE, LATE = "killed", "SURVIVED", "BROKEN", "STALE", "TIMED OUT"


@attrs.frozen
class Mutation:
    """One replacement in one file, and the tests that must notice."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = attrs.field(converter=tuple)

    def applied(self, text: str) -> str | None:
        """Return the changed text of the file; None where `before` does not stand in it exactly once."""
        return text.replace(self.before, self.after) if text.count(self.before) == 1 else None


@attrs.frozen
class Listing:
    """What `mutations.toml` says."""

    mutations: tuple[Mutation, ...]
    imports: tuple[str, ...]
    "Modules that the changed tree must still be able to import."
    search: dict[str, list[str]]
    "The tests of a search, by module or folder."

    @classmethod
    def read(cls, path: Path) -> Listing:
        data = tomllib.loads(path.read_text())
        mutations = tuple(Mutation(**table) for table in data.get("mutation", ()))
        names = [mutation.name for mutation in mutations]
        if len(set(names)) < len(names):
            raise SystemExit(f"{path.name} has a name twice: {', '.join(sorted(names))}")
        return cls(mutations, tuple(data.get("imports", ())), data.get("search", {}))

    def tests_of(self, module: str) -> tuple[str, ...]:
        """Return the tests for a searched module: those of the longest entry that it lies in."""
        fitting = [each for each in self.search if is_in(module, each)]
        if not fitting:
            raise SystemExit(f"[search] in {LIST.name} names no tests for {module}.")
        return tuple(self.search[max(fitting, key=len)])


def is_in(file: str, part: str) -> bool:
    return file == part or file.startswith(part.rstrip("/") + "/")


@attrs.frozen
class Ran:
    """What a run of tests came to."""

    passed: frozenset[str]
    failed: tuple[tuple[str, str], ...]
    "Tests whose own code failed, with the first line of why."
    code: int | None
    "pytest's exit code; None where it did not end in time."
    seconds: float
    output: str


@attrs.frozen
class Verdict:
    name: str
    outcome: str
    why: str
    seconds: float = 0.0


class Copy:
    """A temporary copy of the tree, in which code is changed and tests run."""

    def __init__(self, source: Path, folder: Path, imports: Sequence[str]) -> None:
        self.root = folder
        self.imports = imports
        for name in files_of(source):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target)
        paths = [str(folder), str(folder / "plugins")]
        # A file that is changed and changed back within a second would leave a cache that looks up to date.
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

    def why_not_imported(self, files: Iterable[str]) -> str:
        """Return why the modules of these files are not imported from this copy; empty where they are."""
        wanted = {module_name(file): str(self.root / file) for file in files}
        script = (
            "import importlib, json, sys\n"
            "imports, wanted = json.loads(sys.argv[1])\n"
            "for name in imports: importlib.import_module(name)\n"
            "for name, path in wanted.items():\n"
            "    found = importlib.import_module(name).__file__\n"
            "    assert found == path, f'{name} is imported from {found}'\n"
        )
        arguments = json.dumps([[*self.imports], wanted])
        done = self.run([sys.executable, "-c", script, arguments])
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]

    def tests(self, files: Sequence[str], *, first: bool = True, limit: float | None = None) -> Ran:
        """Run test files; with `first` up to the first failure."""
        report = self.root / "report.xml"
        report.unlink(missing_ok=True)
        command = pytest_command(*files) + [f"--junitxml={report}"] + (["-x"] if first else [])
        begun = time.monotonic()
        try:
            done = self.run(command, limit)
        except subprocess.TimeoutExpired:
            return Ran(frozenset(), (), None, time.monotonic() - begun, "")
        passed, failed = read_report(report) if report.exists() else (frozenset(), ())
        return Ran(passed, failed, done.returncode, time.monotonic() - begun, done.stdout + done.stderr)

    @contextlib.contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """Have other text in a file, inside the block."""
        path = self.root / file
        kept = path.read_text()
        path.write_text(text)
        try:
            yield
        finally:
            path.write_text(kept)

    def digest(self) -> str:
        """Return a few letters that stand for the contents of the tree."""
        found = hashlib.sha256()
        for path in sorted(each for each in self.root.rglob("*") if each.is_file()):
            found.update(str(path.relative_to(self.root)).encode() + b"\0" + path.read_bytes())
        return found.hexdigest()[:12]

    def run(self, command: Sequence[str], limit: float | None = None) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with the ranks that it started
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def pytest_command(*files: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]


def files_of(source: Path) -> list[str]:
    """Return the files of a checkout that git does not ignore; of another tree, all that were not made there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0")
    if listed.returncode:
        paths = [path.relative_to(source) for path in source.rglob("*")]
        names = [str(path) for path in paths if path.parts[0][0] != "." and path.parts[0] not in ("out", "site")]
    return [name for name in names if name and (source / name).is_file()]


def module_name(file: str) -> str:
    return file.removeprefix("plugins/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def read_report(path: Path) -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    """Return the tests that passed, and those that failed, with why. Errors of fixtures are neither."""
    passed, failed = set(), []
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        failure = case.find("failure")
        if failure is not None:
            failed.append((name, (failure.get("message") or "").strip().partition("\n")[0]))
        elif len([each for each in case if each.tag in ("error", "skipped")]) == 0:
            passed.add(name)
    return frozenset(passed), tuple(failed)


def judged(copy: Copy, mutation: Mutation, before: Ran, limit: float) -> Verdict:
    """Make one mutation, run its tests, and say what became of it."""
    changed = mutation.applied((copy.root / mutation.file).read_text())
    if changed is None:
        return Verdict(mutation.name, STALE, f"its text does not stand once in {mutation.file}")
    with copy.changed(mutation.file, changed):
        ran = copy.tests(mutation.tests, limit=limit)
        if ran.code == 0:
            return Verdict(mutation.name, SURVIVED, f"all {len(ran.passed)} tests passed", ran.seconds)
        why = copy.why_not_imported([mutation.file])
    if ran.code is None:
        return Verdict(mutation.name, LATE, f"no test had failed after {limit:.0f} s", ran.seconds)
    if why:
        return Verdict(mutation.name, BROKEN, f"the changed code cannot be imported: {why}", ran.seconds)
    killers = [(test, message) for test, message in ran.failed if test in before.passed]
    if ran.code != 1 or not killers:
        said = (ran.output.strip().splitlines() or ["nothing"])[-1]
        return Verdict(mutation.name, BROKEN, f"no test failed, but pytest ended with {ran.code}: {said}", ran.seconds)
    test, message = killers[0]
    return Verdict(mutation.name, KILLED, f"{test}: {message[:100]}", ran.seconds)


def passing(copy: Copy, tests: Sequence[str]) -> Ran:
    """Run tests of the unchanged code, all of which must pass."""
    ran = copy.tests(tests, first=False)
    if ran.code != 0 or not ran.passed:
        print(ran.output[-4000:])
        raise SystemExit(f"the tests do not pass before anything is changed: pytest {' '.join(tests)} gave {ran.code}")
    return ran


def check_listed(copy: Copy, mutations: Sequence[Mutation]) -> bool:
    """Try the mutations, print a table, and return whether every one was killed."""
    tests = tuple(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
    before = passing(copy, tests)
    limit = 3 * before.seconds + 120
    print(f"{len(before.passed)} tests of {', '.join(tests)} pass in {before.seconds:.0f} s\n")
    width = max(len(mutation.name) for mutation in mutations)
    verdicts = []
    for mutation in mutations:
        verdict = judged(copy, mutation, before, limit)
        verdicts.append(verdict)
        print(f"{verdict.name:{width}}  {verdict.outcome:9}  {verdict.seconds:4.0f} s  {verdict.why}", flush=True)
    counts = {each: sum(verdict.outcome == each for verdict in verdicts) for each in (KILLED, SURVIVED)}
    others = len(verdicts) - sum(counts.values())
    print(f"\n{counts[KILLED]} killed, {counts[SURVIVED]} survived, {others} could not be judged")
    return counts[KILLED] == len(verdicts)


def search(copy: Copy, listing: Listing, modules: Sequence[str]) -> None:
    """Have cosmic-ray mutate modules; print what survived."""
    SESSIONS.mkdir(parents=True, exist_ok=True)
    digest = copy.digest()
    seconds: dict[tuple[str, ...], float] = {}
    for module in modules:
        tests = listing.tests_of(module)
        if tests not in seconds:
            seconds[tests] = passing(copy, tests).seconds
        stem = module.replace("/", ".")
        session = SESSIONS / f"{stem}-{digest}.sqlite"
        for old in set(SESSIONS.glob(f"{stem}-*.sqlite")) - {session}:
            old.unlink()  # of a tree that has changed
        config = copy.root / "cosmic-ray.toml"
        command = shlex.join(pytest_command("-x", *tests))
        settings = {
            "module-path": module,
            "timeout": 2 * seconds[tests] + 60,
            "excluded-modules": [],
            "test-command": command,
            "distributor": {"name": "local"},
            "filters": {"operators-filter": {"exclude-operators": list(SUPERFLUOUS)}},
        }
        config.write_text(tomli_w.dumps({"cosmic-ray": settings}))
        if not session.exists():
            begun = str(copy.root / "session.sqlite")
            tool(copy, "cosmic-ray", "init", str(config), begun)
            tool(copy, "cr-filter-operators", begun, str(config))
            shutil.move(begun, session)  # whole, or not at all
        tool(copy, "cosmic-ray", "exec", str(config), str(session))
        report(module, tool(copy, "cosmic-ray", "dump", str(session)))


def tool(copy: Copy, name: str, *arguments: str) -> str:
    """Run one of cosmic-ray's commands and return what it prints."""
    done = copy.run([str(Path(sys.executable).with_name(name)), *arguments])
    if done.returncode:
        raise SystemExit(f"{name} {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def report(module: str, dumped: str) -> None:
    """Print what became of the mutations of a module, and the diff of each that survived."""
    counts = dict.fromkeys((KILLED, SURVIVED, BROKEN, LATE), 0)
    survivors = []
    for item, result in map(json.loads, dumped.splitlines()):
        if result is None or result["worker_outcome"] == "skipped":
            continue
        output = result["output"] or ""
        if result["test_outcome"] == "survived":
            counts[SURVIVED] += 1
            survivors.append((item, result["diff"]))
        elif re.search(r"^FAILED ", output, re.MULTILINE):
            counts[KILLED] += 1
        elif output == "timeout":
            counts[LATE] += 1
        else:
            counts[BROKEN] += 1  # it could not be imported: no test had to see it
    print(f"\n{module}: " + ", ".join(f"{count} {name.lower()}" for name, count in counts.items()))
    for item, diff in survivors:
        lines = [line for line in diff.splitlines() if re.match(r"[-+](?![-+]{2})", line)]
        mutation = item["mutations"][0]
        print(f"  survived: line {mutation['start_pos'][0]}, {mutation['operator_name']}")
        print("\n".join(f"    {line}" for line in lines), flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="listed mutations to try; nothing is searched for then")
    parser.add_argument("--only", choices=["listed", "search"])
    parser.add_argument("--module", action="append", default=[], help="a module or folder to limit both parts to")
    given = parser.parse_args()
    listing = Listing.read(LIST)
    unknown = set(given.names) - {mutation.name for mutation in listing.mutations}
    if unknown:
        parser.error(f"{LIST.name} has no {', '.join(sorted(unknown))}")
    mutations = [
        mutation
        for mutation in listing.mutations
        if (mutation.name in given.names or not given.names)
        and (not given.module or any(is_in(mutation.file, each) for each in given.module))
    ]
    modules = [
        name
        for name in sorted(files_of(ROOT))
        if name.endswith(".py") and any(is_in(name, each) for each in given.module or SEARCHED)
    ]
    with tempfile.TemporaryDirectory(prefix="guidance-core-mutants-") as folder:
        copy = Copy(ROOT, Path(folder).resolve(), listing.imports)
        why = copy.why_not_imported({mutation.file for mutation in mutations} | set(modules))
        if why:
            raise SystemExit(f"the copy of the tree is not what is imported: {why}")
        are_killed = given.only == "search" or not mutations or check_listed(copy, mutations)
        if given.only != "listed" and not given.names:
            search(copy, listing, modules)
    return 0 if are_killed else 1


if __name__ == "__main__":
    sys.exit(main())
