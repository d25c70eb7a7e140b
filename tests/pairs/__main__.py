"""python -m pairs [--write]: the table of pairs, printed or written into docs/composition.md."""

from __future__ import annotations

import sys

import torch

from pairs.page import PAGE, table, with_table

if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_table(PAGE.read_text()))
    else:
        print(table())
