"""What `import guidance_core` adds to `import torch`, and how much is installed."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError

_LINE = re.compile(r"import time:\s*\d+ \|\s*(\d+) \| (\S+)$")
"Of a module that nothing else imports: its name is not indented."


@attrs.frozen
class ImportReport:
    """Times of fresh processes, in milliseconds, and bytes of source. `str()` gives text, `to_dict()` plain data."""

    torch: tuple[float, ...]
    "Of `import torch`."
    added: tuple[float, ...]
    "Of `import guidance_core` after it."
    sizes: dict[str, int]
    "Bytes of the files of each package, without what Python compiles from them."

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "unit": "ms",
            "torch": {"median": statistics.median(self.torch), "fastest": min(self.torch)},
            "guidance_core": {"median": statistics.median(self.added), "fastest": min(self.added)},
            "bytes": self.sizes,
        }

    def __str__(self) -> str:
        rows = [f"{'import':<16}{'median':>10}{'fastest':>10}"]
        for name, times in (("torch", self.torch), ("guidance_core", self.added)):
            rows.append(f"{name:<16}{statistics.median(times):>7.0f} ms{min(times):>7.0f} ms")
        rows += ["", *(f"{package:<18}{size / 1e6:>6.2f} MB" for package, size in self.sizes.items())]
        return "\n".join(rows)


def measure(rounds: int) -> ImportReport:
    """Import torch, then this library, in as many fresh processes; the first is not counted, which may compile."""
    times = [_once() for _ in range(rounds + 1)][1:]
    sizes = {package: _size(package) for package in ("guidance_core", "guidance_plugins")}
    return ImportReport(tuple(time for time, _ in times), tuple(time for _, time in times), sizes)


def _once() -> tuple[float, float]:
    command = [sys.executable, "-X", "importtime", "-c", "import torch; import guidance_core"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    found = {name: int(time) / 1e3 for time, name in filter(None, map(_of_line, done.stderr.splitlines()))}
    if done.returncode or not {"torch", "guidance_core"} <= found.keys():
        raise ConfigurationError(f"torch and guidance_core cannot be imported in a new process: {done.stderr[-500:]}")
    return found["torch"], found["guidance_core"]


def _of_line(line: str) -> tuple[str, str] | None:
    found = _LINE.match(line)
    return None if found is None else (found[1], found[2])


def _size(package: str) -> int:
    folder = Path(str(resources.files(package)))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
