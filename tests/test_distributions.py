"""A broken or hostile distribution breaks no other; it is reported by name, and nothing that ships is displaced."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from installed import EXECUTORS, PLUGINS, SOUND, install, on_path

import guidance_core
from guidance_core import ConfigurationError, Guidance, UnknownNameError, discovery
from guidance_core.discovery.shipped import SHIPPED
from guidance_plugins import CFG, STG

STARTED = {"conditions": {"positive": {}, "negative": {}}, "sigmas": [1.0, 0.0], "prediction_type": "flow"}

HOSTILE_CLASS = """
import attrs
class Meta(type):
    def {method}:
        raise RuntimeError("no")
@attrs.frozen
class M(metaclass=Meta):
    scale: float = 1.0
"""
AT_IMPORT = {
    "raises": ("raise ValueError('x')", "ValueError: x"),
    "exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "skips": ("class Skipped(BaseException): pass\nraise Skipped('not here')", "Skipped: not here"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "unreadable error": (
        "class E(Exception):\n    def __str__(self): raise ValueError('n')\nraise E",
        "whose text cannot be read",
    ),
    "endless error": ("raise ValueError('x' * 10**7)", "characters left out"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "syntax": ("def", "SyntaxError"),
    "no class": ("M = 3", "is not a class"),
    "no attribute": ("", "has no attribute 'M'"),
    "module answers wrongly": ("def __getattr__(name): raise OSError(name)", "OSError: M"),
    "not attrs": ("class M: pass", "is not a frozen attrs class"),
    "not frozen": ("import attrs\n@attrs.define\nclass M: pass", "is not a frozen attrs class"),
    "metaclass raises": (
        "class X(type):\n    def __getattribute__(c, n): raise RuntimeError('no ' + n)\nclass M(metaclass=X): pass",
        "RuntimeError: no ",
    ),
    "metaclass hash": (HOSTILE_CLASS.format(method="__hash__(cls)"), "RuntimeError: no"),
    "metaclass getattr": (HOSTILE_CLASS.format(method="__getattr__(cls, name)"), "RuntimeError: no"),
    "metaclass eq": (HOSTILE_CLASS.format(method="__eq__(cls, other)"), "RuntimeError: no|TypeError"),
    "metaclass instancecheck": (HOSTILE_CLASS.format(method="__instancecheck__(cls, one)"), "RuntimeError: no"),
}


def everything_else_works():
    """Assert that what ships is what it was, by name and by class."""
    found = {each.name: each for each in discovery.find_plugins()}
    executors = {each.name: each for each in discovery.find_executors()}
    assert found.keys() >= SHIPPED[discovery.PLUGINS].keys()
    assert executors.keys() >= SHIPPED[discovery.EXECUTORS].keys()
    assert found["cfg"].loaded is CFG
    assert executors["serial"].loaded is guidance_core.SerialExecutor
    guidance = Guidance.from_spec("cfg:scale=3,rescale:phi=0.7")
    assert Guidance.from_spec(guidance.to_spec()) == guidance
    assert "cfg" in guidance.describe().plugins
    x = torch.ones(1, 2)
    assert torch.equal(Guidance.from_spec("cfg:scale=3").start(**STARTED).step(0, x, lambda branch: x.clone()), x)


def failures(find=discovery.find_plugins):
    return {each.distribution: str(each.failure) for each in find() if each.failure is not None}


@pytest.mark.parametrize("kind", AT_IMPORT)
def test_a_distribution_that_fails_at_import_is_reported_by_name(kind, tmp_path, monkeypatch):
    code, says = AT_IMPORT[kind]
    name = "bad-" + kind.replace(" ", "-")
    install(tmp_path, name, PLUGINS + "theirs = {module}:M\n", code)
    on_path(monkeypatch, tmp_path)
    assert any(each in failures()[name] for each in says.split("|"))
    assert len(failures()[name]) < 2000
    with pytest.raises(ConfigurationError, match=f"'theirs' of {name} could not be loaded"):
        Guidance.from_spec("theirs")
    everything_else_works()


@pytest.mark.parametrize(
    ("entry_points", "says"),
    [
        (PLUGINS + "nonsense\n", "line 2 of its entry_points.txt is not name = module:attribute: 'nonsense'"),
        (b"\xff\xfe\x00[guid\n", "its entry_points.txt cannot be read: UnicodeDecodeError"),
        (PLUGINS + "theirs = not a ref!!\n", "'not a ref!!' is not module:attribute"),
        (PLUGINS + "theirs = \n", "'' is not module:attribute"),
        (PLUGINS + "[red]x = os:M\n", r"publishes '\[red\]x', which cannot be a name"),
        (PLUGINS + "a:scale=3 = os:M\n", "'scale=3 = os:M' is not module:attribute|cannot be a name"),
        (PLUGINS + " = os:M\n", "publishes '', which cannot be a name"),
        (PLUGINS + "x" * 10**6 + " = os:M\n", "which cannot be a name"),
        (EXECUTORS + "mine = os:path\n", "os:path is not a class"),
        (EXECUTORS + "mine = fractions:Fraction\n", r"not an executor \(a subclass of guidance_core.Executor\)"),
    ],
)
def test_entry_points_that_do_not_parse_are_reported_by_name(entry_points, says, tmp_path, monkeypatch):
    install(tmp_path, "bad-points", entry_points)
    on_path(monkeypatch, tmp_path)
    told = failures() | failures(discovery.find_executors)
    assert len(told["bad-points"]) < 2000
    assert re.search(says, told["bad-points"])
    everything_else_works()


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "its metadata has no name and no version"),
        ("Metadata-Version: 2.1\nVersion: 1.5\n", "its metadata has no name"),
        ("Metadata-Version: 2.1\nName: {name}\n", "its metadata has no version"),
        (b"\xff\xfe", "its metadata cannot be read: UnicodeDecodeError"),
    ],
)
def test_a_distribution_without_metadata_works_and_is_reported(metadata, says, tmp_path, monkeypatch):
    install(tmp_path, "bad", PLUGINS + "no-metadata = {module}:M\ncfg = {module}:M\n", SOUND, metadata)
    (tmp_path / "bad-1.5.dist-info" / "RECORD").write_bytes(b"\xff,,,\n,")
    on_path(monkeypatch, tmp_path)
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    told = [each.failure for each in discovery.find_plugins() if each.distribution == "bad" and not each.name]
    assert len(told) == 1
    assert told[0].startswith(says)
    assert Guidance.from_spec("no-metadata:scale=2").plugins[0].scale == 2
    everything_else_works()


@pytest.mark.parametrize("last", [False, True], ids=["installed first", "installed last"])
@pytest.mark.parametrize("name", ["their-plugin", "guidance-core", "Guidance_Core", "aaa"])
def test_what_ships_keeps_its_names_in_any_install_order(name, last, tmp_path, monkeypatch):
    text = f"{PLUGINS}cfg = {{module}}:M\naaa = guidance_plugins.cfg:CFG\n{EXECUTORS}serial = {{module}}:E\n"
    install(tmp_path, name, text, SOUND)
    on_path(monkeypatch, tmp_path, last=last)
    everything_else_works()
    assert Guidance([CFG(2.0)]).to_spec() == "cfg:scale=2"
    hidden = last and name in ("guidance-core", "Guidance_Core")  # Python sees one distribution of a name
    for find, taken in ((discovery.find_plugins, "cfg"), (discovery.find_executors, "serial")):
        told = [each for each in find() if each.name == taken and each.failure]
        assert [each.distribution for each in told] == ([] if hidden else [name])
        assert hidden or f"the name '{taken}' belongs to what guidance-core ships" in told[0].failure


def test_two_distributions_with_one_name_are_not_chosen_between(tmp_path, monkeypatch):
    for name in ("one", "another"):
        install(tmp_path, name, PLUGINS + "theirs = {module}:M\n", SOUND)
    on_path(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError, match="several distributions provide it: another and one"):
        Guidance.from_spec("theirs")
    everything_else_works()


def test_a_hostile_default_is_shown_as_such_and_harms_no_other(tmp_path, monkeypatch):
    code = """
    import attrs
    from guidance_core import hookimpl
    class Value:
        def _no(self, *_): raise OSError("gone")
        __eq__ = __hash__ = __repr__ = __str__ = __bool__ = _no
    def make(): raise OSError("gone")
    @attrs.frozen
    class M:
        value: object = Value()
        metadata: int = attrs.field(default=1, metadata={"help": 3, "options": 5})
        nowhere: "Missing" = 2
        @hookimpl
        def build_branches(self, step): return []
    @attrs.frozen
    class Fails:
        value: object = attrs.field(factory=make)
        @hookimpl
        def build_branches(self, step): return []
    """
    install(tmp_path, "hostile-default", PLUGINS + "value = {module}:M\nfails = {module}:Fails\n", code)
    on_path(monkeypatch, tmp_path)
    guidance = Guidance.from_spec("cfg:scale=3,value:nowhere=5")
    assert "cannot be written (OSError)" in str(guidance.describe())
    x = torch.ones(1, 2)
    assert torch.equal(guidance.start(**STARTED).step(0, x, lambda branch: x.clone()), x)
    with pytest.raises(ConfigurationError, match=r"plugin 'fails' cannot be made from \{\}: OSError: gone"):
        Guidance.from_spec("fails")
    everything_else_works()


def test_an_executor_that_cannot_be_made_is_refused_by_name(tmp_path, monkeypatch):
    code = SOUND.replace('name = "theirs"', "def __init__(self): raise OSError('no device')")
    install(tmp_path, "bad-executor", EXECUTORS + "theirs = {module}:E\n", code)
    on_path(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError, match="the executor 'theirs' cannot be made: OSError: no device"):
        Guidance().start(**STARTED, executor="theirs")
    everything_else_works()


def test_ctrl_c_during_an_import_is_no_failure_of_the_module(tmp_path, monkeypatch):
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)"
    install(tmp_path, "slow", PLUGINS + "slow = {module}:M\n", code)
    on_path(monkeypatch, tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start tests with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            Guidance.from_spec("slow")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_time_limit_of_the_host_ends_a_hanging_import(tmp_path, monkeypatch):
    class TooLong(BaseException):
        pass

    def ring(*_):
        raise TooLong

    install(tmp_path, "hangs", PLUGINS + "hangs = {module}:M\n", "import time\ntime.sleep(60)")
    on_path(monkeypatch, tmp_path)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    started = time.monotonic()
    try:
        with pytest.raises(TooLong):
            discovery.find_plugins()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 30


def test_a_finder_or_a_path_that_fails_hides_only_its_own(monkeypatch):
    class Finder:
        def find_distributions(self, context):
            raise OSError("no index")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.setattr(sys, "path", [*sys.path, "a\0b", "/no/such/folder"])
    assert any(
        "cannot list its distributions: OSError: no index" in str(each.failure) for each in discovery.find_plugins()
    )
    everything_else_works()


def test_what_ships_is_what_the_project_publishes():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {group: dict(names) for group, names in SHIPPED.items()} == {
        group: project["entry-points"][group] for group in SHIPPED
    }


def command(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    ran = [sys.executable, "-m", "guidance_core", *arguments]
    return subprocess.run(ran, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_the_command_works_beside_everything_that_is_broken(tmp_path):
    for kind, (code, _) in AT_IMPORT.items():
        name = kind.replace(" ", "-")
        install(tmp_path, f"bad-{name}", f"{PLUGINS}{name} = {{module}}:M\n", code)
    install(
        tmp_path, "bad-names", f"{PLUGINS}cfg = {{module}}:M\n[red]x = a:b\n{EXECUTORS}serial = {{module}}:E\n", SOUND
    )
    install(tmp_path, "bad-line", PLUGINS + "nonsense\n")
    install(tmp_path, "bad-bytes", b"\xff\xfe\x00[guid\n")
    install(tmp_path, "bad-metadata", PLUGINS + "without = {module}:M\n", SOUND, None)
    install(tmp_path, "prints", PLUGINS + "prints = {module}:M\n", "print('HELLO')\n" + SOUND)

    listed = command(tmp_path, "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    told = json.loads(listed.stdout)
    broken = {each["distribution"] for each in told["plugins"] + told["executors"] if each["failure"]}
    broken |= {each["distribution"] for each in told["problems"]}
    expected = {f"bad-{kind.replace(' ', '-')}" for kind in AT_IMPORT} | {"bad-names", "bad-line", "bad-bytes"}
    assert broken == expected | {"bad_metadata"}
    assert {"prints", "without", "cfg"} <= {each["name"] for each in told["plugins"] if not each["failure"]}
    assert "the entry points of " in listed.stderr  # torch loads no extensions beside those that it cannot read

    for arguments in (("plugins",), ("describe", "cfg:scale=3,rescale"), ("check", "--list"), ("--version",)):
        done = command(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
    assert "bad-bytes" in command(tmp_path, "plugins").stdout
    checked = command(tmp_path, "check", "cfg", "--only", "works", "--ranks", "0", "--max-examples", "2")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_switches_of_the_environment(monkeypatch):
    monkeypatch.setenv(discovery.ONLY, "stg, cfg,nothere")
    found = discovery.find_plugins()
    assert [each.name for each in found] == ["stg", "cfg", "nothere"]
    assert found[2].failure == "GUIDANCE_CORE_PLUGINS names it, but it is not installed"
    with pytest.raises(UnknownNameError, match="GUIDANCE_CORE_PLUGINS allows only"):
        Guidance.from_spec("apg")
    monkeypatch.setenv(discovery.DISABLE, "1")
    assert discovery.find_plugins() == []
    with pytest.raises(UnknownNameError, match=discovery.DISABLE):
        Guidance.from_spec("cfg")
    assert Guidance([CFG()]).plugins == (CFG(),)


def test_executors_have_the_same_switches(tmp_path, monkeypatch):
    install(tmp_path, "their-executor", EXECUTORS + "theirs = {module}:E\n", SOUND)
    on_path(monkeypatch, tmp_path)
    x = torch.ones(1, 2)
    assert torch.equal(Guidance().start(**STARTED, executor="theirs").step(0, x, lambda branch: x.clone()), x)
    assert "theirs" in discovery.executor_names()

    monkeypatch.setenv(discovery.ONLY_EXECUTORS, "theirs,batched,nothere")
    found = discovery.find_executors()
    assert [each.name for each in found] == ["theirs", "batched", "nothere"]
    assert found[2].failure == "GUIDANCE_CORE_EXECUTORS names it, but it is not installed"
    with pytest.raises(UnknownNameError, match="GUIDANCE_CORE_EXECUTORS allows only"):
        Guidance().start(**STARTED)

    monkeypatch.delenv(discovery.ONLY_EXECUTORS)
    monkeypatch.setenv(discovery.DISABLE, "1")
    assert discovery.executor_names() == sorted(SHIPPED[discovery.EXECUTORS])
    with pytest.raises(UnknownNameError, match=f"{discovery.DISABLE} is set, so only those of guidance-core"):
        Guidance().start(**STARTED, executor="theirs")
    everything = Guidance([CFG(3.0)]).start(**STARTED)
    assert torch.equal(everything.step(0, x, lambda branch: x.clone()), x)


@pytest.mark.parametrize("limit", ["", "cfg", "off"])
def test_a_program_registers_and_removes_plugins_and_executors(limit, monkeypatch):
    if limit:
        monkeypatch.setenv(discovery.DISABLE if limit == "off" else discovery.ONLY, "1" if limit == "off" else limit)
    namespace = {"__name__": "programs"}
    exec(SOUND, namespace)
    method, executor = namespace["M"], namespace["E"]
    guidance_core.register_plugin("mine", method)
    guidance_core.register_executor("mine", executor)
    try:
        assert Guidance.from_spec("mine:scale=2").to_spec() == "mine:scale=2"
        assert Guidance([method(2.0)]).describe().plugins.keys() == {"mine"}
        Guidance().start(**STARTED, executor="mine")
        assert "mine" in {each.name for each in discovery.find_executors() if each.loaded is executor}
        with pytest.raises(
            ConfigurationError, match=r"there is already a plugin 'mine'; .*unregister_plugin\('mine'\)"
        ):
            guidance_core.register_plugin("mine", method)
    finally:
        guidance_core.unregister_plugin("mine")
        guidance_core.unregister_executor("mine")
    with pytest.raises(UnknownNameError):
        Guidance.from_spec("mine")
    with pytest.raises(UnknownNameError):
        Guidance().start(**STARTED, executor="mine")


def test_a_program_removes_what_is_installed_and_puts_it_back():
    guidance_core.unregister_plugin("stg")
    try:
        assert "stg" not in discovery.plugin_names()
        with pytest.raises(UnknownNameError):
            Guidance.from_spec("stg")
        with pytest.raises(ConfigurationError, match="there is already a plugin 'stg'; choose another name"):
            guidance_core.register_plugin("stg", CFG)
    finally:
        guidance_core.register_plugin("stg", STG)
    assert Guidance.from_spec("stg").plugins == (STG(),)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "cfg#2", 3, None, "x" * 1000, "serial", "cfg"])
def test_names_that_a_program_cannot_register(name):
    for register in (guidance_core.register_plugin, guidance_core.register_executor):
        if (register.__name__, name) in (("register_plugin", "serial"), ("register_executor", "cfg")):
            continue
        with pytest.raises(ConfigurationError, match=r"the name of a|already"):
            register(name, type("Mine", (), {}))
    with pytest.raises(ConfigurationError, match="registered as a class"):
        guidance_core.register_plugin("fine", 3)
