"""The command on several ranks, started for real."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch.distributed.run

JOB = ["sample", "-g", "", "-g", "cfg:scale=3,stg:blocks=3,rescale:phi=0.7", "--steps", "5", "--per-class", "1"]


def command(*words, launcher=("-m", "guidance_core")):
    return subprocess.run([sys.executable, *launcher, *words], capture_output=True, text=True, timeout=120, check=False)


def test_the_picture_is_the_same_from_one_process_two_ranks_and_torchrun(tmp_path):
    names = ("one", "two", "torchrun")
    out = {name: tmp_path / f"{name}.png" for name in names}
    torchrun = ("-m", torch.distributed.run.__name__, "--standalone", "--nproc-per-node=2", "-m", "guidance_core")
    done = [
        command(*JOB, "--out", str(out["one"]), "--json"),
        command(*JOB, "--out", str(out["two"]), "--json", "--ranks", "2"),
        command(*JOB, "--out", str(out["torchrun"]), "--json", launcher=torchrun),
    ]
    for each in done:
        assert each.returncode == 0, each.stderr
    pictures = [out[name].read_bytes() for name in names]
    assert pictures[0] == pictures[1] == pictures[2]
    executors = [json.loads(each.stdout)["executor"] for each in done]
    assert executors == ["serial", "all_gather", "all_gather"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ranks", "0"], "--ranks must be at least 1"),
        (["--ranks", "1000"], "more than this machine can start"),
        (["--ranks", "2", "-g", "cfgg"], "Did you mean 'cfg'"),
        (["--ranks", "2", "-g", "apg", "--executor", "all_reduce"], "use 'serial', 'batched' or 'all_gather'"),
        (["--executor", "all_gather"], "torchrun"),
        (["--ranks", "2", "--executor", "serial"], "'serial' does all the work in one process, so 2 ranks"),
        (["--ranks", "2", "--executor", "batched"], "use all_gather, all_reduce or auto"),
    ],
)
def test_what_cannot_be_started_is_one_clear_line(words, says, tmp_path):
    done = command("sample", *words, "--steps", "2", "--per-class", "1", "--out", str(tmp_path / "a.png"))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.png").exists()
