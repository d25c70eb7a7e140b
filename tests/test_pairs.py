"""Every two shipped methods compose or are refused with a reason, and so do three, on the embedded model."""

from __future__ import annotations

import pytest
from pairs.judged import ORDER, judged, on_ranks, pairs, triples, whole_stack
from pairs.page import PAGE, with_table
from pairs.usual import BENEATH, NAMES, POINTLESS, USUAL, made

from guidance_core.ranks import Ranks

ALL = pairs()


@pytest.fixture(scope="module")
def pool():
    """Three ranks for all stacks."""
    with Ranks(3, imports=["pairs.host"], patience=300) as ranks:
        yield ranks


def together(names):
    return " + ".join(names)


def test_every_shipped_method_says_how_it_is_tried():
    missing = set(NAMES) - set(USUAL)
    assert not missing, f"tests/pairs/usual.py has no line for {', '.join(sorted(missing))}: add usual parameters"


@pytest.mark.parametrize("name", NAMES)
def test_each_method_acts(name):
    verdict = judged((name,) if len(whole_stack([name])) == 1 else (BENEATH, name))
    assert verdict.refused is None, verdict
    assert verdict.finite, verdict
    assert not verdict.idle, verdict


@pytest.mark.parametrize("names", ALL, ids=together)
def test_two_compose_or_are_refused_with_a_reason_that_names_both(names):
    verdict = judged(names)
    if verdict.refused:
        assert all(f"'{name}" in verdict.refused for name in names), verdict.refused
        return
    assert verdict.finite
    if names in POINTLESS:
        assert verdict.idle, "both act: it is not pointless"
        return
    assert not verdict.idle, f"beside the others {', '.join(verdict.idle)} changes nothing"
    assert not verdict.adds_only or verdict.order <= ORDER, "methods that only add up depend on their order"


def test_three_compose_where_any_two_do():
    for names in triples():
        verdict = judged(names)
        assert verdict.refused is None, verdict
        assert verdict.finite, verdict
        assert not verdict.idle, verdict
        assert not verdict.adds_only or verdict.order <= ORDER, verdict


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_gather_equals_serial_bitwise_for_every_pair_and_some_triples(pool, ranks):
    stacks = [whole_stack(names) for names in (*ALL, *triples())]
    assert on_ranks(pool, stacks, ranks) == []


def test_forms_of_one_guidance_are_refused_at_construction():
    for one, other in ALL:
        forms = [getattr(type(made(name)), "form_of", name) for name in (one, other)]
        if one != other and forms[0] == forms[1]:
            assert judged((one, other)).refused_at == "construction", (one, other)


def test_the_page_shows_the_table_of_pairs():
    assert PAGE.read_text() == with_table(PAGE.read_text()), "write it anew: cd tests && python -m pairs --write"
