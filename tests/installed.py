"""Distributions as an installer leaves them, in a folder on `sys.path`."""

from __future__ import annotations

import sys
import textwrap

PLUGINS, EXECUTORS = "[guidance_core.plugins]\n", "[guidance_core.executors]\n"
SOUND = '''
import attrs
from guidance_core import Branch, Executor, hookimpl, run_branch

@attrs.frozen
class M:
    """A method."""

    scale: float = 1.0

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", strength=self.scale)]

class E(Executor):
    """An executor."""

    name = "theirs"

    def execute(self, plan, denoise):
        return {branch.name: run_branch(branch, denoise) for branch in plan.own_branches}
'''


def install(folder, name, entry_points, code=None, metadata="Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"):
    """Write a distribution with a module of its name; `entry_points` may be bytes, `metadata` None."""
    module = name.replace("-", "_")
    about = folder / f"{module}-1.5.dist-info"
    about.mkdir(parents=True)
    if metadata is not None:
        text = metadata if isinstance(metadata, bytes) else metadata.format(name=name).encode()
        (about / "METADATA").write_bytes(text)
    text = entry_points if isinstance(entry_points, bytes) else entry_points.format(module=module).encode()
    (about / "entry_points.txt").write_bytes(text)
    if code is not None:
        (folder / f"{module}.py").write_text(textwrap.dedent(code))


def on_path(monkeypatch, folder, *, last=False):
    """Have Python find what is installed in a folder, before or after all else."""
    path = [each for each in sys.path if each != str(folder)]
    monkeypatch.setattr(sys, "path", [*path, str(folder)] if last else [str(folder), *path])
