"""Each extra alone, in an environment of its own: what it promises runs, and what another brings is named.

    python tests/extras.py              all extras
    python tests/extras.py cli demo     some

torch and what it requires are linked from the environment that runs this; all else is installed afresh.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = "guidance-core needs the extra 'cli'"
STEP = """
import torch
from guidance_core import Guidance
run = Guidance.from_spec("@qwen-image,gate:lo=0.5").start(
    conditions={"positive": {}, "negative": {}}, sigmas=[1.0, 0.5, 0.0], prediction_type="flow")
assert run.step(0, torch.zeros(1, 2, 3), lambda branch: torch.ones(1, 2, 3)).shape == (1, 2, 3)
assert Guidance.from_toml(Guidance.from_spec("cfg:scale=3").to_toml())
"""
DRAW = """
import contextlib
from pathlib import Path
from guidance_core.models.demo import LettersDemo
from guidance_core.models.grid import save_grid
demo = LettersDemo(("", "cfg:scale=3"), 2, 0, 1, "", 1, False)
demo.check()
save_grid(demo.draw(lambda: contextlib.nullcontext(lambda spec, steps: lambda: None)), demo.specs, Path("drawn.png"))
assert Path("drawn.png").read_bytes().startswith(b"\\x89PNG")
"""
GUIDE = "from guidance_core.hosts.diffusers import guide, guided; import transformers, diffusers"
TESTS = "-m pytest -q --guidance-plugin cfg --guidance-ranks 0 --guidance-max-examples 2 --guidance-seed 0"

SCRIPTS = {"step": STEP, "draw": DRAW, "guide": GUIDE}

# For each extra: commands with the status that they end with, and a text that they print.
TRIED = {
    "": [("python step.py", 0, ""), ("guidance-core plugins", 2, COMMANDS)],
    "cli": [
        ("python step.py", 0, ""),
        ("guidance-core plugins", 0, "cfg"),
        ("guidance-core describe @ltx-2.3 --ranks 4", 0, "total"),
        ("guidance-core recipes show wan2.1", 0, "@wan2.1"),
        ("guidance-core new my-method --library '>=0.2'", 0, "next:"),
        ("guidance-core env", 0, "torch"),
        ("guidance-core sample", 2, "guidance-core[demo]"),
        ("guidance-core check cfg", 2, "guidance-core[testing]"),
        ("guidance-core bench parallel", 2, "guidance-core[hosts]"),
    ],
    "demo": [("python draw.py", 0, ""), ("guidance-core sample", 2, COMMANDS)],
    "testing": [(f"python {TESTS}", 0, "passed"), ("guidance-core check cfg", 2, COMMANDS)],
    "hosts": [("python step.py", 0, ""), ("python guide.py", 0, "")],
    "docs": [(f"python -m sphinx -q -E -W -b html {ROOT / 'docs'} site", 0, "")],
}


def linked(folder: Path) -> Path:
    """Make a folder of links to torch and all that it requires, as they are installed here."""
    folder.mkdir()
    left, done = ["torch"], set()
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in done:
            continue
        done.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform, or an extra
            continue
        wanted = [each for each in distribution.requires or () if "extra ==" not in each]
        left += [re.match(r"[\w.-]+", each)[0] for each in wanted]
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            here = Path(distribution.locate_file(top))
            if here.exists() and not (folder / top).exists():
                (folder / top).symlink_to(here)
    return folder


def tried(extra: str, wheel: Path, links: Path, folder: Path) -> list[str]:
    """Install one extra; return what went wrong."""
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "torch.pth").write_text(f"{links}\n")
    python = folder / "venv/bin/python"
    named = f"guidance-core[{extra}]" if extra else "guidance-core"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-c", ROOT / "constraints.txt"]
    run([*pip, f"{named} @ {wheel.as_uri()}"], folder)
    for name, script in SCRIPTS.items():
        (folder / f"{name}.py").write_text(script)
    wrong = []
    for command, status, text in TRIED[extra]:
        done = run(["bash", "-c", command], folder, check=False)
        printed = done.stdout + done.stderr
        if done.returncode != status or text not in printed or "Traceback" in printed:
            wrong.append(f"{command}: status {done.returncode} instead of {status}\n{printed[-2000:]}")
    return wrong


def run(command: list[object], folder: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the environment's own commands first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GUIDANCE", "PYTEST"))}
    variables = {**kept, "PATH": f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise SystemExit(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def main(extras: list[str]) -> int:
    """Try extras, all if none is named, and print a table."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="guidance-extras-") as made:
        folder = Path(made).resolve()
        links = linked(folder / "torch")
        run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "wheel", ROOT], folder)
        (wheel,) = (folder / "wheel").glob("*.whl")
        for extra in extras or TRIED:
            extra = "" if extra == "none" else extra
            place = folder / f"extra-{extra or 'none'}"
            place.mkdir()
            start = time.monotonic()
            wrong = tried(extra, wheel, links, place)
            failed += bool(wrong)
            verdict = "failed" if wrong else f"{len(TRIED[extra])} commands as promised"
            print(f"{extra or 'none':<10}{verdict:<28}{time.monotonic() - start:>5.0f} s", flush=True)
            print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
