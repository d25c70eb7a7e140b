"""Classifier-free guidance."""

from __future__ import annotations

import attrs

from guidance_core import Branch, Scale, Step, documented, hookimpl, number


@documented
@attrs.frozen
class CFG:
    """Classifier-free guidance: move away from the prediction without the condition.

        guided = c + (s − 1)·(c − u)

    `u` is the pass with the condition `negative` (branch `uncond`). At s = 1 it is not run.

    Source: Ho & Salimans, arXiv:2207.12598, eq. 6 (with s = 1 + w).
    """

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch]:
        """Ask for `uncond` with strength s − 1."""
        return [Branch("uncond", condition="negative", strength=step.value(self.scale) - 1)]
