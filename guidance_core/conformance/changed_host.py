"""A host whose predictions a check changes."""

from __future__ import annotations

from typing import Any

from guidance_core.conformance.case import Case, Host


class ChangedHost(Host):
    """A host whose predictions are changed by a function of the case, the step and the output."""

    def __init__(self, case: Case, step: int, change: Any) -> None:
        super().__init__(case, step)
        self.change = change

    def __call__(self, branch: Any) -> Any:
        """Return the changed prediction of a branch."""
        named = self.case.named(super().__call__(branch))
        return self.case.structured(
            {output: self.change(self.step, output, tensor) for output, tensor in named.items()}
        )
