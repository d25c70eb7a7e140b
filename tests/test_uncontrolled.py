"""Without control exchanges nothing mixes; a rank that hangs is named, and no other; and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uncontrolled_jobs

from guidance_core.ranks import Ranks

NAMES = ("all_gather", "all_reduce")


@pytest.mark.parametrize("odd", [0, 2])
@pytest.mark.parametrize("kind", ["another step", "another run", "another evaluation"])
@pytest.mark.parametrize("name", NAMES)
def test_payloads_of_different_steps_are_an_error_on_all_ranks(ranks, name, kind, odd):
    for error, seconds, next_is_right in ranks.run(uncontrolled_jobs.apart, name, kind, odd, ranks=3):
        assert error.startswith("PlanMismatchError: the ranks sent payloads of different steps"), error
        assert f"rank {odd}: step " in error
        assert seconds < 1
        assert next_is_right


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_travels_with_the_payload(ranks, name):
    found = ranks.run(uncontrolled_jobs.apart, name, "a failure", 1, ranks=3)
    for rank, (error, seconds, next_is_right) in enumerate(found):
        own = "OSError: broken on purpose"
        assert error.startswith(own if rank == 1 else "RankFailedError: rank 1 failed in this step, step 2, "), error
        assert seconds < 1
        assert next_is_right


@pytest.mark.parametrize("kind", ["another dtype", "another dtype on one rank"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_not_read_as_another_dtype(ranks, name, kind):
    for rank, (error, _, next_is_right) in enumerate(ranks.run(uncontrolled_jobs.apart, name, kind, 1, ranks=3)):
        if rank == 1 or kind == "another dtype":
            assert "are float16, those of the run's first step were float32" in error
        else:
            assert error.startswith("RankFailedError: rank 1 failed in this step")
        assert next_is_right


def test_a_rank_that_gets_another_steps_broadcast_raises(ranks):
    found = ranks.run(uncontrolled_jobs.broadcast, 1, ranks=2)
    assert found[0] == [("", False)] * 2, "the rank that sends gets nothing to compare"
    assert found[1] == [("PlanMismatchError", True)] * 2


@pytest.mark.parametrize("name", NAMES)
def test_payloads_of_different_sizes_do_not_meet(name):
    with Ranks(3, timeout=8, outlives_failures=True, patience=60) as pool:
        for error, seconds in pool.run(uncontrolled_jobs.smaller, name, 1):
            assert error.startswith("RankLostError"), error
            assert seconds < 8


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_that_hangs_in_the_payload_is_named_and_no_other(name, tmp_path):
    with Ranks(3, timeout=5, outlives_failures=True, patience=60) as pool:
        pool.start(uncontrolled_jobs.hung, name, 1, str(tmp_path / "hangs"))
        found = pool.results(seconds=30, without=(1,))
        pool.kill(1)
    for errors, seconds in (found[0], found[2]):
        assert [named for named, _ in errors] == [(1,), (1,)], errors
        assert seconds < 5 + 1


def test_a_denoiser_that_lost_a_rank_of_its_own_group_is_told_like_any_other(ranks):
    found = ranks.run(uncontrolled_jobs.loses_another_group, 1, ranks=3)
    assert set(found) == {found[0]}
    error, next_is_right = found[0]
    assert error.startswith(
        "RankFailedError: rank 1 (raised by the denoiser for branch 'uncond' of step 0): RankLostErr"
    )
    assert next_is_right


SCRIPT = """
import sys
import uncontrolled_jobs
from guidance_core.ranks import Ranks

if __name__ == "__main__":
    with Ranks(2, timeout=600) as ranks:
        ranks.run(uncontrolled_jobs.waits_for_ever, sys.argv[1])
"""


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_ranks_end_with_the_process_that_started_them(tmp_path, how):
    script = tmp_path / "starts_ranks.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it, for its children too
    )
    try:
        written = [tmp_path / "0", tmp_path / "1"]
        _wait_until(lambda: all(each.exists() and each.read_text() for each in written), 180)
        parent.send_signal(getattr(signal, how))
        parent.wait(timeout=60)
        _wait_until(lambda: not _members(parent.pid), 60)
        assert not list(tmp_path.glob("guidance-core-ranks-*"))
    finally:
        for process in _members(parent.pid):
            os.kill(process, signal.SIGKILL)


def _wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


def _members(session):
    """Return the processes of a session that still run."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,sid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, sid, state in rows if int(sid) == session and not state.startswith("Z")]
