"""Write the list of checks into a page: `python -m guidance_core.conformance docs/conformance.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from guidance_core.conformance import all_checks
from guidance_core.conformance.report import with_checks


def main() -> None:
    """Rewrite the part of the page between its two markers."""
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(with_checks(page.read_text(encoding="utf-8"), all_checks()), encoding="utf-8")


if __name__ == "__main__":
    main()
