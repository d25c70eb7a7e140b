"""What goes wrong on one rank is the same named error on all of them, soon, and the group goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fault_jobs
import pytest
from fault_jobs import SLOW

from guidance_core.ranks import Ranks

RAISED = {
    "forward raises": ("RankFailedError", "RuntimeError: boom"),
    "hook at start": ("PluginError", "starting a run: plugin 'breaks' failed in build_branches"),
    "hook build_branches": ("PluginError", "plugin 'breaks' failed in build_branches: ValueError: broken on purpose"),
    "hook postprocess": ("PluginError", "plugin 'breaks' failed in postprocess"),
    "hook combine": ("PluginError", "plugin 'breaks-in-combine' failed in combine"),
    "other shape": ("DenoiserError", "output 'video' is (1, 6, 4) float32 on cpu"),
    "other dtype": ("DenoiserError", "bfloat16"),
    "other names": ("DenoiserError", "must be a dict with video, audio; got a dict with picture, audio"),
    "no prediction": ("DenoiserError", "got None"),
    "sparse": ("DenoiserError", "must be a dense tensor; got one with the layout sparse_coo"),
    "no memory": ("RankFailedError", "OutOfMemoryError: no memory for the payload"),
    "cannot be written": ("RankFailedError", "RuntimeError: a prediction that cannot be copied"),
    "nan": ("NonFiniteError", "output 'video' holds NaN or infinity"),
    "guidance off": ("PlanMismatchError", "differ in methods or their parameters. Rank 0: a run of 3 steps with"),
    "other scale adds a branch": ("PlanMismatchError", "), away#3(name="),
    "hook another branch": ("PlanMismatchError", "differ in branches, "),
    "hook other overrides": ("PlanMismatchError", "differ in branches. "),
    "hook other strength": ("PlanMismatchError", "differ in strengths or corrections. "),
    "other strength": ("PlanMismatchError", "differ in methods or their parameters. Rank 0: a run of 3 steps with"),
    "other sample shape": ("PlanMismatchError", "sample"),
}
BRANCHES = {0: "cond", 1: "b0", 2: "b1"}


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_fault_on_one_rank_is_one_error_on_all(ranks, name, kind, victim):
    if (name, kind) == ("all_reduce", "hook combine"):
        pytest.skip("refused when the run starts: all-reduce carries no method that looks at predictions")
    seen = ranks.run(fault_jobs.fault, name, kind, victim, 0, ranks=3)
    error, words = RAISED[kind]
    check_fault(seen, kind, victim, error, words)


AT_THE_FIRST_ONLY = {"hook at start", "no memory"}
"A later step starts no run, and the step before it allocated its memory."
ANNOUNCED = {
    **{kind: said for kind, said in RAISED.items() if said[0] != "PlanMismatchError" and kind not in AT_THE_FIRST_ONLY},
    "other sample shape": ("PlanMismatchError", "turns to step 2 of 3"),
    "other dtype": ("PlanMismatchError", "bfloat16, bfloat16 predictions"),
    "hook another branch": ("PlanMismatchError", "differ in branches, "),
}
"At a step that all ranks announced, which needs no agreement before its payload."


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("kind", ANNOUNCED)
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_fault_in_an_announced_step_is_one_error_on_all(ranks, name, kind, victim):
    if (name, kind) == ("all_reduce", "hook combine"):
        pytest.skip("refused when the run starts: all-reduce carries no method that looks at predictions")
    seen = ranks.run(fault_jobs.fault, name, kind, victim, 2, ranks=3)
    check_fault(seen, kind, victim, *ANNOUNCED[kind])


def check_fault(seen, kind, victim, error, words):
    assert {each.error for each in seen} == {error}
    assert len({each.message for each in seen}) == 1
    assert words in seen[0].message
    if error != "PlanMismatchError":
        assert f"rank {victim}" in seen[0].message
    if kind in ("forward raises", "other shape", "other names", "no prediction", "nan"):
        assert f"branch '{BRANCHES[victim]}'" in seen[0].message
    assert max(each.seconds for each in seen) < SLOW + 1.0
    assert all(each.next_is_right for each in seen)


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("kind", ["hook build_branches", "forward raises", "other shape", "hook another branch"])
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_fault_in_lockstep_is_one_error_on_all(ranks, name, kind, victim):
    seen = ranks.run(fault_jobs.fault, name, kind, victim, 0, True, ranks=3)
    error, words = RAISED[kind]
    assert {each.error for each in seen} == {error}
    assert len({each.message for each in seen}) == 1
    assert words in seen[0].message
    if error != "PlanMismatchError":
        assert f"rank {victim}" in seen[0].message
    assert all(each.next_is_right for each in seen)


def wait_for(*paths: Path) -> None:
    until = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < until, "the ranks did not get there"
        time.sleep(0.02)


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_killed_rank_is_named_by_the_survivors_within_the_timeout(name, victim, tmp_path):
    with Ranks(3, timeout=10, outlives_failures=True, patience=120) as pool:
        ready = tmp_path / "in its forward"
        pool.start(fault_jobs.killed, name, victim, str(ready))
        wait_for(ready)
        pool.kill(victim)
        seen = pool.results(seconds=15, without=(victim,))
        survivors = [each for rank, each in enumerate(seen) if rank != victim]
        assert {each.error for each in survivors} == {"RankLostError"}
        assert {each.ranks for each in survivors} == {(victim,)}
        assert all(f"rank {victim} of 3 does not answer" in each.message for each in survivors)
        assert all(each.seconds < 10 for each in survivors)
        assert all(each.next_is_right for each in survivors), "a second step must fail the same way"
        codes = pool.leave(seconds=10)
        assert [code for rank, code in enumerate(codes) if rank != victim] == [0, 0]


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_rank_that_never_sends_its_payload_is_named_before_the_group_breaks(name):
    with Ranks(3, timeout=8, outlives_failures=True, patience=120) as pool:
        pool.start(fault_jobs.stuck, name, 2)
        seen = pool.results(seconds=60, without=(2,))
        pool.kill(2)
        for each in seen[:2]:
            assert each.error == "RankLostError"
            assert each.ranks == (2,), each.message
            assert "rank 2 of 3 does not answer" in each.message


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by a virtual cable, or a skip that says why there are none."""
    names = [f"guidance-{os.getpid()}-{side}" for side in "ab"]
    cables = [f"gc{os.getpid() % 100000}{side}" for side in "ab"]

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1])
        for side, (name, cable) in enumerate(zip(names, cables, strict=True)):
            ip("-n", name, "addr", "add", f"10.77.0.{side + 1}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except OSError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        pytest.skip(f"no network namespaces here: {error}")
    yield names, cables, ip
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_cut_cable_between_two_hosts_is_a_lost_rank_within_the_timeout(two_hosts, tmp_path):
    (names, cables, ip), timeout = two_hosts, 4.0
    hosts = [0, 0, 1]  # ranks 0 and 1 on the first, rank 2 on the second
    logs = [tmp_path / f"{rank}.log" for rank in range(3)]
    script = Path(__file__).with_name("two_hosts.py")
    processes = []
    for rank, host in enumerate(hosts):
        command = ["ip", "netns", "exec", names[host], sys.executable, str(script)]
        arguments = [str(rank), "3", str(tmp_path / "store"), cables[host], str(timeout), str(logs[rank])]
        processes.append(subprocess.Popen([*command, *arguments]))
    try:
        wait_for(*logs)
        ip("-n", names[0], "link", "set", cables[0], "down")
        for process in processes:
            process.wait(timeout=timeout + 15)
    finally:
        for process in processes:
            process.kill()
    found = [log.read_text() for log in logs]
    for rank, words in enumerate(found):
        seen = json.loads(words)
        assert seen["seconds"] < timeout + 1, words
        # Each side names a rank of the other. A cut cable is silent, so a rank that was itself waiting for the
        # other side at that moment may be named as well.
        assert 1 - hosts[rank] in {hosts[lost] for lost in seen["lost"]}, words
