"""`bench hosts` runs every contender of a host in turn, and says what is not installed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from guidance_core.bench import hosts
from guidance_core.bench.hosts import measuring
from guidance_core.bench.hosts.on_ranks import ALL, OURS, OWN, RANKS, Seen, SeenHost
from guidance_core.bench.hosts.report import HostRow, HostsReport
from guidance_core.commands.app import app
from guidance_core.errors import ConfigurationError, RankFailedError

pytest.importorskip("diffusers")
FIELDS = {
    "host", "version", "missing", "steps", "ms", "fastest_ms", "passes", "ratios", "speedup", "difference", "specs",
}  # fmt: skip


def test_the_command_prints_every_contender_as_json():
    arguments = ["bench", "hosts", "ltx2", "wan", "--tiny", "--rounds", "1", "--json"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert set(report) == {"benchmark", "cores", "torch", "load", "load_after", "rounds", "rows"}
    assert (report["benchmark"], report["rounds"]) == ("hosts", 1)
    ltx2, wan = report["rows"]
    saving = ["interval", "gate"]
    assert list(ltx2["ms"]) == [OWN, OURS, f"{OURS}, serial", RANKS, *saving, "skip_step"], "what is usual stacks"
    assert list(wan["ms"]) == [OWN, OURS, RANKS, *saving], "Wan calls its model for one condition after the other"
    for row in report["rows"]:
        assert set(row) == FIELDS
        assert row["missing"] == ""
        assert row["difference"] < 1e-5
        assert set(row["ratios"]) == set(row["ms"]) - {OWN}
        assert all(taken > 0 for taken in row["ms"].values())
        equal = {row["passes"][name] for name in (OWN, OURS, RANKS)}
        assert len(equal) == 1
        assert all(row["passes"][name] < min(equal) for name in (*saving, "skip_step") if name in row["passes"])


def test_a_host_that_is_not_measured_is_told():
    with pytest.raises(ConfigurationError, match="no host 'wann' is measured; there is stable-diffusion, wan"):
        hosts.measure(1, ["wann"])


def test_a_host_that_is_not_installed_or_fails_has_a_row_that_says_so(monkeypatch):
    class Answers:
        def __init__(self, size):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, job, name, *given):
            if name == "comfyui":
                raise RankFailedError("rank 0 of 2 failed:\nTraceback\nValueError: on purpose\n")
            return [SeenHost(name, missing="sglang 0.5.23 is not here; `make engines` fetches it")] * 2

    monkeypatch.setattr(measuring, "Ranks", Answers)
    report = hosts.measure(1, ["sglang", "comfyui"])
    assert [row.missing for row in report.rows] == [
        "sglang 0.5.23 is not here; `make engines` fetches it",
        "fails: ValueError: on purpose",
    ]
    assert "comfyui: fails: ValueError: on purpose" in str(report)


def test_a_run_takes_as_long_as_on_its_slowest_rank_and_ratios_are_of_the_same_round():
    def seen(*seconds, rows=10):
        return Seen(seconds, rows, 1e-7)

    here = {
        OWN: seen(1.0, 2.0, 4.0),
        OURS: seen(1.0, 2.0, 2.0),
        RANKS: seen(0.5, 1.0, 1.0, rows=5),
        OWN + ALL: seen(0.5, 0.5, 0.5),
        OURS + ALL: seen(0.25, 0.25, 0.25),
    }
    there = {name: seen(rows=0) for name in here} | {RANKS: seen(0.25, 2.0, 1.0, rows=5)}
    row = HostRow.of([SeenHost("host", "1.0", 2, {}, each) for each in (here, there)])
    assert row.ms == {OWN: 1000, OURS: 1000, RANKS: 500, OWN + ALL: 250, OURS + ALL: 125}
    assert row.ratios == {OURS: 1.0, RANKS: 2.0, OURS + ALL: 2.0}
    assert row.speedup == 2.0
    assert row.passes[RANKS] == 10
    text = str(HostsReport("2.13", 0.5, 1.0, 3, (row,)))
    assert "2 ranks over one process with one thread: 2.00" in text
