"""`python -m soak`: both searches, with what they found."""

from __future__ import annotations

import argparse
import random
import sys
import time

import torch

import soak
from guidance_core.ranks import Ranks
from soak.plants import PLANTS
from soak.search import MOST, Search, WrongError, check_flat


def main() -> int:
    """Search, and print what was seen; return 1 if a mistake was found, or a planted one was not."""
    summary, _, usage = (soak.__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m soak", description=summary, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="a new one each time by default")
    parser.add_argument("--examples", type=int, default=2000, help="of the first search")
    parser.add_argument("--steps", type=int, default=20_000, help="of the second search, at least")
    parser.add_argument("--faults", type=int, default=2000, help="of the second search, at least")
    parser.add_argument("--only", metavar="SEARCH:NUMBER", help="one example, such as faults:17")
    parser.add_argument("--plant", choices=list(PLANTS), help="a mistake to make in the library, and to find")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}; the same again: make soak SEED={options.seed}", flush=True)
    begun = time.monotonic()
    # Ranks that a planted mistake leaves waiting give up soon.
    timeout = 10 if options.plant else 60
    with Ranks(MOST, timeout=timeout, patience=5 * timeout, outlives_failures=True) as pool:
        search = Search(pool, options.seed, options.plant or "")
        try:
            _searched(search, options)
        except WrongError as error:
            print(error)
            print(f"Found after {time.monotonic() - begun:.0f} s.")
            return 0 if options.plant else 1
    if options.plant:
        print(f"The planted mistake {options.plant!r} was not found.")
        return 1
    print(f"Nothing wrong in {time.monotonic() - begun:.0f} s.")
    return 0


def _searched(search: Search, options: argparse.Namespace) -> None:
    """Make both searches, or one example, and print what was seen."""
    if options.only:
        name, _, number = options.only.partition(":")
        search.only(name, int(number))
        return
    search.executors(options.examples)
    print(
        f"{search.examples:,} examples, {search.steps:,} steps: every rank gives what one process gives, bit for bit;"
    )
    print(f"all-reduce is at most {search.units:.2f} of its bound away.", flush=True)
    before = search.steps
    usages = search.failing(options.steps, options.faults)
    print(f"{search.steps - before:,} steps with {search.faults:,} faults: one error on all ranks, and then the right")
    print(f"result. At most {search.latest:.2f} s passed from the last forward to the error on all ranks.")
    for when, usage in zip(("start", "middle", "end"), usages, strict=True):
        held = "; ".join(
            f"{r.mib:.0f} MiB, {r.tensors} tensors, {r.threads} threads, {r.descriptors} fds" for r in usage
        )
        print(f"Each rank at the {when}: {held}")
    print(search.table)
    check_flat(usages)
    if search.table.rare:
        raise WrongError(f"occurred too rarely: {'; '.join(search.table.rare)}")


if __name__ == "__main__":
    sys.exit(main())
