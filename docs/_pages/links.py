"""Links from the tables that people write to the pages that are generated, which exist on the site only."""

from __future__ import annotations

import re

from _pages.markdown import linked
from _pages.methods import shipped
from _pages.recipes import families

TABLES = ("methods", "oracles", "recipes")


def with_links(page: str, text: str) -> str:
    """Return the text of a page whose tables lead from each name in the first column to its page."""
    if page not in TABLES:
        return text
    places = {info.name: f"methods/{info.name}.md" for info in shipped()}
    for family, recipes in families().items():
        places |= {f"@{each.name}": f"recipes/{family}.md#{anchor(each.name)}" for each in recipes}

    def cell(found: re.Match[str]) -> str:
        name = found[1]
        return f"| [`{name}`]({places[name]}) |" if name in places else found[0]

    return linked(re.sub(r"^\| `([^`]+)` \|", cell, text, flags=re.MULTILINE))


def anchor(name: str) -> str:
    """Return the anchor of a heading that is a recipe's name."""
    return re.sub(r"[^\w-]", "", name.lower())
