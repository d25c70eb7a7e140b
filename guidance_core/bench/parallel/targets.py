"""What is to be reached."""

from __future__ import annotations

from collections.abc import Sequence

from guidance_core.bench.parallel.jobs import BASELINE, FOUR, GATHER, RANKS, REDUCE
from guidance_core.bench.parallel.report import Outcome, Overhead, Saving, Target


def targets_of(
    timed: Sequence[Outcome], counted: Sequence[Outcome], overhead: Overhead, savings: Sequence[Saving]
) -> tuple[Target, ...]:
    """Return the targets with what was measured of the timed and the counted jobs."""
    four, three = timed
    targets: list[Target] = []

    def at_least(what: str, wanted: float, measured: float) -> None:
        targets.append(Target(what, f">= {wanted:g}", round(measured, 3), measured >= wanted))

    def exactly(what: str, wanted: int, measured: int) -> None:
        targets.append(Target(what, f"= {wanted}", measured, measured == wanted))

    for name in (GATHER, REDUCE):
        at_least(f"{name}: speedup on {RANKS} ranks over serial", 1.9, four.of(name).speedup)
    for name in (GATHER, REDUCE):
        ratio = four.of(BASELINE).median_ms / four.of(name).median_ms
        at_least(f"{name}: speedup over the baseline on {RANKS} ranks", 1.0, ratio)
    for name in (GATHER, REDUCE):
        ratio = three.of(BASELINE).median_ms / three.of(name).median_ms
        at_least(f"{name}: speedup over the baseline, 3 branches of 2 samples", 1.25, ratio)
    beside = overhead.medians_ms
    at_least(
        "all_gather: speedup over the baseline where forwards return at once", 1.0, beside[BASELINE] / beside[GATHER]
    )
    plain = savings[0]
    for each in savings[1:]:
        best = min(plain.all_gather_ms, each.serial_ms)
        at_least(f"{each.method}: speedup over ranks without it, or it without ranks", 1.0, best / each.all_gather_ms)
    for name, wanted in ((GATHER, 1), (REDUCE, 1), (BASELINE, 4)):
        exactly(f"{name}: payload collectives a step on {RANKS} ranks", wanted, four.of(name).payload_collectives)
    for outcome in counted:
        if outcome.job == FOUR.title and outcome.lines[0].ranks == 5:
            for name, wanted in ((GATHER, 0), (REDUCE, 0), (BASELINE, 1)):
                spare = sum(outcome.of(name).forwards) - 4
                exactly(f"{name}: forwards on 5 ranks whose result is thrown away", wanted, spare)
    return tuple(targets)
