"""Print the matrix of mistakes and checks, or write it into the documentation: `python -m zoo [--write]`."""

from __future__ import annotations

import sys

from zoo.everything import ZOO
from zoo.matrix import PAGE, matrix, page

if __name__ == "__main__":
    found = matrix()
    text = page(found)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text)
    else:
        print(text)
    missed = [entry for entry, names in zip(ZOO, found, strict=True) if entry.caught_by not in names]
    for entry in missed:
        print(f"{entry.cls.__name__}: {entry.caught_by} does not find it", file=sys.stderr)
    sys.exit(bool(missed))
