"""What stands beneath a plugin that asks for no branch: something to correct, limit, reuse or wrap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.reference import Reference
from guidance_core.methods.requests import Branch


@attrs.frozen
class Mover:
    """Moves away from `uncond`, so that there is something to correct, limit or reuse.

    guided = c + k·(c − u)
    """

    strength: float = 2.0

    @hookimpl
    def build_branches(self, step: Any) -> list[Branch]:
        """Ask for `uncond`."""
        return [Branch("uncond", condition="negative", strength=self.strength)]


@attrs.frozen
class Shaper:
    """Moves away from `uncond` by a delta of its own and corrects the result, for what wraps such hooks.

    guided = 0.75·(c + k·(c − u))
    """

    strength: float = 2.0

    @hookimpl
    def build_branches(self, step: Any) -> list[Branch]:
        """Ask for `uncond`."""
        return [Branch("uncond", condition="negative", required=True)]

    @hookimpl
    def combine(self, step: Any, predictions: Mapping[str, Tensor]) -> Tensor:
        """Return the delta."""
        return self.strength * (predictions["cond"] - predictions["uncond"])

    @hookimpl
    def postprocess(self, step: Any, guided: Tensor, reference: Reference) -> Tensor:
        """Correct the result."""
        return 0.75 * guided
