"""A short form of `make soak`, and what shows that it would notice a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from soak.examples import drawn
from soak.failing import Event, Found
from soak.plants import PLANTS
from soak.search import MOST, Search, WrongError, check_flat
from soak.table import Table
from soak.usage import TOLERANCE, Usage

from guidance_core.ranks import Ranks


def test_ranks_give_what_one_process_gives_and_fail_together():
    with Ranks(MOST, timeout=60, patience=300, outlives_failures=True) as pool:
        search = Search(pool, seed=1)
        search.executors(60)
        assert search.examples == 60
        check_flat(search.failing(steps=400, faults=40))
    assert 0 < search.units <= 1, "all-reduce was played, and stays within its bound"
    assert search.faults >= 40
    assert set(search.table.of("phase")) == {"start", "plan", "forward", "between", "before", "payload", "after"}
    assert all(search.table.of("method").values())


@pytest.mark.parametrize(
    ("plant", "searches", "seed", "says"),
    [
        ("ulp", "executors", 1, "differs from serial"),
        # What a failed step left in memory is kept, and is not the same each time; it may be too large for float16.
        ("state", "faults", 2, "differs from serial|raised NonFiniteError"),
        ("confirm", "executors", 1, "the ranks are not at the same point|does not answer"),
        ("confirm", "faults", 1, "not one of .* on all ranks|the ranks are not at the same point|does not answer"),
    ],
)
def test_a_planted_mistake_is_found_and_its_example_finds_it_again(plant, searches, seed, says):
    with Ranks(MOST, timeout=6, patience=60, outlives_failures=True) as pool:
        search = Search(pool, seed=seed, plant=plant)
        with pytest.raises(WrongError, match=says) as found:
            search.executors(30) if searches == "executors" else search.failing(steps=800, faults=80)
    command, _, number = str(found.value).partition(f"make soak SEED={seed} ONLY=")[2].partition(" ")[0].partition(":")
    assert command == searches
    with Ranks(MOST, timeout=6, patience=60, outlives_failures=True) as pool:
        with pytest.raises(WrongError, match=says):
            Search(pool, seed=seed, plant=plant).only(searches, int(number))
        if plant != "confirm":  # which leaves messages behind
            Search(pool, seed=seed).only(searches, int(number))


def test_every_mistake_that_can_be_planted_is_tried():
    assert set(PLANTS) == {"ulp", "state", "confirm"}


def test_one_seed_draws_the_same_examples_and_another_others():
    once, again, other = (str(drawn(seed, 7, "executors")) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_the_command_plays_one_example():
    command = [sys.executable, "-m", "soak", "--seed", "1", "--only", "faults:3"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert "make soak SEED=1" in done.stdout
    assert "Nothing wrong" in done.stdout


def seen(**changed):
    """Return what two ranks saw of a forward that raised on rank 1, one of them differently."""
    event = Event("a forward raises", 1, True, "RankFailedError", "rank 1: boom", forward=5.0, raised=5.1)
    return [Found(3, steps=1, events=[each]) for each in (event, attrs.evolve(event, **changed))]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"text": "rank 1: bang"}, "not one of RankFailedError on all ranks"),
        ({"error": "DenoiserError"}, "not one of RankFailedError on all ranks"),
        ({"error": ""}, "not one of RankFailedError on all ranks"),
        ({"raised": 6.5}, "1.50 s passed from the last forward"),
    ],
)
def test_an_error_that_is_not_the_same_or_comes_late_is_seen(changed, says, monkeypatch):
    monkeypatch.setattr(Search, "_played", lambda *given: seen(**changed))
    with pytest.raises(WrongError, match=says):
        Search(None, seed=1).only("faults", 3)


def test_results_that_differ_between_ranks_are_seen(monkeypatch):
    monkeypatch.setattr(Search, "_played", lambda *given: [Found(3, outcomes=[each]) for each in "ab"])
    with pytest.raises(WrongError, match="the ranks have different results"):
        Search(None, seed=1).only("faults", 3)


@pytest.mark.parametrize("what", ["mib", "tensors", "threads", "descriptors"])
def test_what_a_rank_keeps_is_seen(what):
    flat = Usage(200.0, 100, 5, 20)
    grown = attrs.evolve(flat, **{what: getattr(flat, what) + getattr(TOLERANCE, what) + 1})
    check_flat([[flat, flat], [flat, flat], [flat, flat]])
    with pytest.raises(WrongError, match="rank 1 grew"):
        check_flat([[flat, flat], [flat, flat], [flat, grown]])


def test_what_occurs_too_rarely_is_seen():
    table = Table([("fault", "common"), ("fault", "rare"), ("fault", "never")])
    table.add([("fault", "common")] * 980 + [("fault", "rare")] * 9)
    assert table.rare == ["fault 'rare': 9 of 989", "fault 'never': 0 of 989"]
