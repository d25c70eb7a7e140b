"""What the models of a pipeline can do, so that a stack that asks for more is refused before any forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers.patterns import Pattern
from guidance_core.hosts.diffusers.perturbed import capabilities_of
from guidance_core.methods.requests import Branch


@attrs.frozen(eq=False)
class Supported:
    """Says why a pipeline's models cannot run a pass, as `guidance.start(supports=...)` asks it."""

    pipeline: str
    models: Sequence[Any]
    "Each makes every pass in some of the steps."
    pattern: Pattern
    blocks: Mapping[str, int] | None = attrs.field(init=False)
    "How many blocks the first model has, by list."

    @blocks.default
    def _default_blocks(self) -> Mapping[str, int] | None:
        try:
            return capabilities_of(self.models[0]).blocks
        except ConfigurationError:
            return None

    def __call__(self, branch: Branch) -> str | None:
        """Return why a model cannot run a pass; None if all can."""
        if branch.model is not None:
            return f"it runs another model, {branch.model!r}, and {self.pipeline} has none of that name"
        for model in self.models:
            if branch.also:
                kind = type(model).__name__
                return f"it is given the condition {branch.also[0]!r} beside its own, which {kind} does not take"
            reason = self._reason(branch, model) if branch.perturbations else None
            if reason is not None:
                return reason
        return None

    def _reason(self, branch: Branch, model: Any) -> str | None:
        try:
            if self.pattern.flags is None:
                return capabilities_of(model)(branch)
            self.pattern.flags(branch.perturbations, model)
        except ConfigurationError as error:
            return str(error).rstrip(".")
        return None
