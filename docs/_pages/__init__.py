"""The pages of the site that are made from the library, so that they cannot differ from it.

`write` puts them into folders that git ignores. `docs/conf.py` calls it before Sphinx reads the pages, and the tests
read what `pages` returns.
"""

from __future__ import annotations

from pathlib import Path

from _pages import commands, methods, recipes, reference

FOLDERS = {"methods": methods, "recipes": recipes, "commands": commands, "reference": reference}


def pages(docs: Path) -> dict[str, str]:
    """Return every generated page by its path in `docs`."""
    return {f"{folder}/{name}.md": text for folder, made in FOLDERS.items() for name, text in made.pages(docs).items()}


def write(docs: Path) -> None:
    """Write the pages that changed, and remove those whose subject is gone."""
    made = pages(docs)
    for folder in FOLDERS:
        (docs / folder).mkdir(exist_ok=True)
        for path in (docs / folder).glob("*.md"):
            if f"{folder}/{path.name}" not in made:
                path.unlink()
    for name, text in made.items():
        path = docs / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
