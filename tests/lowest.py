"""Print the lowest versions that pyproject.toml allows, except torch, as constraints for pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

EXTRAS = ("cli", "demo", "testing")


def lowest() -> list[str]:
    """Return a line for each dependency of the library and of the extras that its tests need."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    lines = []
    for requirement in wanted:
        found = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        assert found is not None, f"{requirement!r} does not name a lowest version"
        if found[1] != "torch":
            lines.append(f"{found[1]}=={found[2]}")
    return lines


if __name__ == "__main__":
    print("\n".join(lowest()))
