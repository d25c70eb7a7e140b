"""README.md shows what ships."""

import readme


def test_the_parts_of_the_readme_are_what_ships():
    page = readme.FILE.read_text(encoding="utf-8")
    assert readme.renewed(page) == page, "run: python tests/readme.py --write"
