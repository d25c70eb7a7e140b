"""Which checks find which mistake, as a page, or whether each is found under many seeds.

    python -m zoo [--write]                                  the page, printed or written into the documentation
    python -m zoo --seeds 20 [--first N] [--only NAME,NAME]  each mistake with the check meant for it, seed by seed

The exit status is 1 if a mistake is missed.
"""

from __future__ import annotations

import argparse
import sys

from zoo.everything import ZOO
from zoo.matrix import PAGE, matrix, page
from zoo.seeds import missed


def main() -> bool:
    """Do what is asked; return whether a mistake was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--seeds", type=int, default=0, help="how many seeds to try each mistake with")
    parser.add_argument("--first", type=int, default=0, help="the first of these seeds")
    parser.add_argument("--only", default="", help="names of mistakes, with commas")
    given = parser.parse_args()
    if given.seeds:
        return under_seeds(
            [name for name in given.only.split(",") if name], range(given.first, given.first + given.seeds)
        )
    found = matrix()
    text = page(found)
    if given.write:
        PAGE.write_text(text)
    else:
        print(text)
    overlooked = [entry for entry, names in zip(ZOO, found, strict=True) if entry.caught_by not in names]
    for entry in overlooked:
        print(f"{entry.cls.__name__}: {entry.caught_by} does not find it", file=sys.stderr)
    return bool(overlooked)


def under_seeds(names: list[str], seeds: range) -> bool:
    """Print under how many seeds each mistake is found; return whether one was missed."""
    unknown = set(names) - {entry.cls.__name__ for entry in ZOO}
    if unknown:
        sys.exit(f"the zoo has no {', '.join(sorted(unknown))}")
    any_missed, count = False, 0
    for name, check, lost in missed(names, seeds):
        any_missed, count = any_missed or bool(lost), count + 1
        where = f", missed under {', '.join(map(str, lost))}" if lost else ""
        print(f"{name}: {check} finds it under {len(seeds) - len(lost)} of {len(seeds)} seeds{where}", flush=True)
    verdict = "some were missed" if any_missed else "none missed"
    print(f"{count} mistakes, seeds {seeds.start} to {seeds.stop - 1}: {verdict}")
    return any_missed


if __name__ == "__main__":
    sys.exit(main())
