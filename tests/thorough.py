"""All methods and executors that ship against the conformance suite: many seeds, then ten times the examples.

    python tests/thorough.py [--seeds 20] [--seed N] [--times 10] [--ranks 4]

Prints a line for each, and the reports of failures; the exit status says whether there were any.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import torch

from guidance_core.conformance import Options, executor_subject_of, report_of, run_checks, subject_of
from guidance_core.discovery import executor_names, find_plugins

VARIANTS = ("all_gather:split_rows=true", "all_gather:batched=true", "all_reduce:batched=true", "batched:max_rows=3")
"Executors with parameters of their own."


def checked(subjects: list[Any], options: Options) -> tuple[int, list[str]]:
    """Run all checks of all subjects; return how many examples were tried, and the reports of failures."""
    examples, reports = 0, []
    for subject in subjects:
        for outcome in run_checks(subject, options=options):
            examples += outcome.examples
            if outcome.is_bad:
                reports.append(report_of(outcome))
    return examples, reports


def main() -> None:
    """Check, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, one after the other")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="the first; a new one by default")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    subjects: list[Any] = [subject_of(found.name) for found in find_plugins() if found.failure is None]
    subjects += [executor_subject_of(name) for name in (*executor_names(), *VARIANTS)]
    seeds = range(given.seed, given.seed + given.seeds)
    rounds = [(f"seed {seed}", Options(seed=seed, ranks=given.ranks, replay=False)) for seed in seeds]
    if given.times:
        many = 20 * given.times
        options = Options(max_examples=many, ranks=given.ranks, seed=given.seed, replay=False, time_limit=600)
        rounds.append((f"{given.times} times the examples, seed {given.seed}", options))
    print(f"seeds from {given.seed}; the same again: python tests/thorough.py --seed {given.seed}", flush=True)
    failures = 0
    for name, options in rounds:
        started = time.monotonic()
        examples, reports = checked(subjects, options)
        failures += len(reports)
        seconds = time.monotonic() - started
        print(
            f"{name}: {len(subjects)} subjects, {examples} examples in {seconds:.0f} s, {len(reports)} failed",
            flush=True,
        )
        for report in reports:
            print(report, flush=True)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
