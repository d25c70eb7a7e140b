"""`bench parallel` counts exactly, says what it measured, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pytest
from bench_jobs import cannot_travel, dies, fails, ids, waits
from typer.testing import CliRunner

from guidance_core.bench import parallel, scaling
from guidance_core.commands.app import app
from guidance_core.errors import ConfigurationError, RankFailedError, RankLostError
from guidance_core.ranks import Ranks

pytest.importorskip("diffusers")
PASS = 4 * sum(tokens * parallel.TINY.channels for tokens in parallel.TINY.grid.tokens)
"Bytes of one pass of one sample, both outputs."
STATISTICS = 2 * 16
"Bytes of the base branch's std beside the sums, one of each output, aligned."


@pytest.fixture(scope="module")
def report():
    return parallel.measure(2, sizes=parallel.TINY, warmup=2, overhead_rounds=3)


def outcomes(report):
    return [*report.timed, *report.counted]


def four(report):
    return [outcome for outcome in outcomes(report) if outcome.job == parallel.FOUR.title]


def three(report):
    return [outcome for outcome in outcomes(report) if outcome.job == parallel.THREE.title]


def test_each_job_is_counted_on_two_to_six_ranks(report):
    for job in (four(report), three(report)):
        assert [outcome.of("all_gather").ranks for outcome in job] == [2, 3, 4, 5, 6]
    assert [line.ranks for outcome in report.timed for line in outcome.lines] == [1, *[2] * 6] * 2


def test_a_branch_is_one_forward_on_one_rank_and_an_idle_rank_makes_none(report):
    expected = [(2, 2), (2, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 0), (1, 1, 1, 1, 0, 0)]
    for name in ("all_gather", "all_reduce"):
        assert [outcome.of(name).forwards for outcome in four(report)] == expected
    assert report.timed[0].of("serial").forwards == (4,)
    assert report.timed[1].of("serial").forwards == (3,)


def test_the_baseline_pads_with_forwards_and_zeros(report):
    assert [outcome.of("baseline").forwards for outcome in four(report)] == [
        (2, 2),
        (2, 1, 1),
        (1, 1, 1, 1),
        (1, 1, 1, 1, 1),
        (1, 1, 1, 1, 1, 1),
    ]
    assert [outcome.of("baseline").payload_collectives for outcome in four(report)] == [4, 4, 2, 2, 2]
    assert [outcome.of("baseline").payload_bytes for outcome in four(report)] == [2 * PASS] * 2 + [PASS] * 3


def test_the_engines_paths_for_ltx2_batch_and_send_as_they_do(report):
    assert [outcome.of("packed").rows for outcome in four(report)] == [
        (2, 2),
        (2, 1, 1),
        (1, 1, 1, 1),
        (1, 1, 1, 1, 0),
        (1, 1, 1, 1, 0, 0),
    ]
    assert {outcome.of("packed").payload_collectives for outcome in four(report)} == {4}
    assert {outcome.of("packed").payload_bytes for outcome in four(report)} == {4 * PASS}
    assert [outcome.of("padded").rows for outcome in four(report)] == [
        (2, 2),
        (2, 2, 2),
        *[(1,) * n for n in (4, 5, 6)],
    ]
    assert [outcome.of("padded").payload_collectives for outcome in four(report)] == [4, 4, 2, 2, 2]


def test_one_payload_collective_and_no_more_bytes_than_the_plan_needs(report):
    for outcome in outcomes(report):
        for name in ("all_gather", "all_reduce"):
            assert outcome.of(name).payload_collectives == 1
            # a run's first two steps need two; later ones, which the step before announced, one
            assert outcome.of(name).control_exchanges == (1 if outcome.rounds else 2)
    assert [outcome.of("all_gather").payload_bytes for outcome in four(report)] == [2 * PASS] * 2 + [PASS] * 3
    assert {outcome.of("all_reduce").payload_bytes for outcome in four(report)} == {PASS + STATISTICS}
    assert [outcome.of("all_gather").payload_bytes for outcome in three(report)] == [
        most * PASS for most in (3, 2, 2, 2, 1)
    ]
    assert {outcome.of("all_reduce").payload_bytes for outcome in three(report)} == {2 * PASS + STATISTICS}


def test_rows_are_shared_out_where_the_baseline_moves_whole_branches(report):
    for name in ("all_gather", "all_reduce"):
        lines = [outcome.of(name) for outcome in three(report)]
        assert [sum(line.rows) for line in lines] == [6] * 5
        assert [max(line.rows) for line in lines] == [3, 2, 2, 2, 1]
        assert lines[0].forwards == (1, 1), "a rank's units, weakened and not, are one forward"
    assert report.timed[1].of("baseline").rows == (4, 2)


def test_methods_save_the_same_passes_on_ranks_as_in_one_process(report):
    assert [(each.method, each.steps, each.passes) for each in report.savings] == [
        ("plain", 8, 32),
        ("gate", 8, 20),
        ("interval", 8, 20),
        ("skip_step", 8, 16),
    ]
    assert [each.forwards for each in report.savings] == [(16, 16), (12, 8), (12, 8), (8, 8)]
    assert all(each.equal_to_serial for each in report.savings)
    assert all(each.serial_ms > 0 and each.all_gather_ms > 0 for each in report.savings)


def test_all_contenders_compute_the_same(report):
    for outcome in outcomes(report):
        for line in outcome.lines:
            assert line.same_on_all_ranks or line.dispatch == "forwards"
            assert line.largest_difference_to_serial < 1e-3
    assert all(outcome.of("all_gather").equal_to_serial for outcome in four(report))


def test_the_command_prints_all_of_it(report, monkeypatch):
    asked = []
    monkeypatch.setattr(parallel, "measure", lambda rounds: asked.append(rounds) or report)
    text = CliRunner().invoke(app, ["bench", "parallel"])
    assert text.exit_code == 0
    assert "targets" in text.output
    printed = CliRunner().invoke(app, ["bench", "parallel", "--rounds", "3", "--json"])
    assert asked == [15, 3]
    data = json.loads(printed.output)
    assert set(data) == {
        "benchmark", "torch", "threads", "cores", "load", "tokens", "timed", "overhead", "savings", "counted",
        "targets",
    }  # fmt: skip
    assert set(data["overhead"]) == {"medians_ms", "control_cost_ms", "control_share"}
    assert set(data["overhead"]["medians_ms"]) == {
        "serial", "baseline", "packed", "padded",
        "all_gather", "all_gather without control", "all_reduce", "all_reduce without control",
    }  # fmt: skip
    counts = {
        "dispatch", "ranks", "forwards", "rows", "payload_collectives", "payload_bytes", "control_exchanges",
        "equal_to_serial", "same_on_all_ranks", "largest_difference_to_serial",
    }  # fmt: skip
    times = {
        "median_ms", "quartiles_ms", "fastest_ms", "speedup", "efficiency", "control_ms", "control_share",
        "cpu_ms", "times_ms",
    }  # fmt: skip
    assert all(set(line) == counts for outcome in data["counted"] for line in outcome["lines"])
    for outcome in data["timed"]:
        assert outcome["rounds"] == 2
        assert [line["dispatch"] for line in outcome["lines"]] == [
            "serial",
            "forwards",
            "baseline",
            "packed",
            "padded",
            "all_gather",
            "all_reduce",
        ]
        for line in outcome["lines"]:
            assert set(line) == counts | times
            assert len(line["times_ms"]) == 2
    assert all(set(target) == {"what", "wanted", "measured", "reached"} for target in data["targets"])
    assert [target["wanted"] for target in data["targets"][:7]] == [">= 1.9"] * 2 + [">= 1"] * 2 + [">= 1.25"] * 2 + [
        ">= 1"
    ]
    assert [target["wanted"] for target in data["targets"][7:10]] == [">= 1"] * 3
    assert all(target["reached"] for target in data["targets"][10:]), "those that are counted"


def test_the_formula_of_a_step_is_the_documented_one():
    given = scaling.Constants(
        branches=4, forward=0.1, dispatch=0.003, latency=0.002, bandwidth=1e6, prediction=1000, sum=2000
    )
    for executor in ("all_gather", "all_reduce"):
        assert scaling.step_seconds(executor, 1, given) == pytest.approx(0.4)
    assert scaling.step_seconds("all_gather", 2, given) == pytest.approx(0.2 + 0.003 + 0.002 + 2 * 0.001)
    assert scaling.step_seconds("all_gather", 3, given) == pytest.approx(0.2 + 0.003 + 2 * (0.002 + 2 * 0.001))
    assert scaling.step_seconds("all_gather", 6, given) == pytest.approx(0.1 + 0.003 + 5 * (0.002 + 0.001))
    assert scaling.step_seconds("all_reduce", 4, given) == pytest.approx(0.1 + 0.003 + 3 * (0.002 + 0.001))


def test_scaling_prints_the_formula_beside_what_ranks_measure():
    arguments = ["bench", "scaling", "--ranks", "3", "--rounds", "2", "--forward-ms", "20", "--branches", "3"]
    text = CliRunner().invoke(app, arguments)
    assert text.exit_code == 0, text.output
    assert len(text.output.splitlines()) == 9
    supplied = ["--latency-ms", "1", "--bandwidth-gbs", "2", "--dispatch-ms", "3"]
    data = json.loads(CliRunner().invoke(app, [*arguments, *supplied, "--json"]).output)
    assert set(data) == {
        "benchmark", "torch", "threads", "cores", "load", "rounds", "constants", "given", "lines",
    }  # fmt: skip
    assert data["given"] == ["dispatch", "latency", "bandwidth"]
    assert (data["constants"]["latency"], data["constants"]["dispatch"]) == (0.001, 0.003)
    assert [(line["ranks"], line["most"]) for line in data["lines"]] == [(1, 3), (2, 2), (3, 1)]
    for line in data["lines"]:
        assert set(line["measured_ms"]) == ({"serial"} if line["ranks"] == 1 else {"all_gather", "all_reduce"})
        assert all(taken >= 20 * line["most"] for taken in line["measured_ms"].values())


@pytest.mark.parametrize("arguments", [["--ranks", "2"], ["--branches", "1"], ["--forward-ms", "-1"]])
def test_scaling_refuses_what_it_cannot_measure(arguments):
    result = CliRunner().invoke(app, ["bench", "scaling", *arguments])
    assert isinstance(result.exception, ConfigurationError) or result.exit_code == 2


def test_without_diffusers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'guidance-core\[hosts\]'") as caught:
        parallel.measure(2)
    assert "\n" not in str(caught.value)


def gone(pid):
    """Whether no such process is left."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(("job", "error"), [(fails, RankFailedError), (dies, RankLostError)])
def test_a_failure_on_one_rank_ends_all(job, error):
    with Ranks(2) as ranks:
        processes = ranks.run(ids)
        with pytest.raises(error):
            ranks.run(job, 1)
        assert all(map(gone, processes))


@pytest.fixture
def _interrupts():
    """Python's own handling of Ctrl-C, which a shell switches off for what it starts in the background."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, kept)


@pytest.mark.usefixtures("_interrupts")
def test_an_interrupt_ends_all():
    processes = []

    def interrupted():
        with Ranks(2) as ranks:
            processes.extend(ranks.run(ids))
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            ranks.run(waits)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begun < 30
    assert len(processes) == 2
    assert all(map(gone, processes))


def test_an_answer_that_cannot_travel_is_an_error_of_that_rank():
    with Ranks(2, outlives_failures=True) as ranks:
        with pytest.raises(RankFailedError, match="pickle"):
            ranks.run(cannot_travel)
        assert len(ranks.run(ids)) == 2, "the processes go on"


def test_ranks_that_are_not_there_are_named():
    with Ranks(2) as ranks:
        with pytest.raises(ConfigurationError, match="3 ranks are more than the 2"):
            ranks.run(ids, ranks=3)
        with pytest.raises(RankFailedError):
            ranks.run(fails, 1)
        with pytest.raises(RankLostError, match="have ended"):
            ranks.run(ids)


def test_the_end_of_the_block_ends_all():
    with Ranks(2) as ranks:
        processes = ranks.run(ids)
    assert len(set(processes)) == 2
    assert all(map(gone, processes))
