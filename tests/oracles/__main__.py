"""python -m oracles [--write]: the largest errors, printed or written into docs/oracles.md."""

from __future__ import annotations

import sys

import torch

from oracles._page import PAGE, table, with_table

if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_table(PAGE.read_text()))
    else:
        print(table())
