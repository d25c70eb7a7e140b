"""What an executor on several ranks notes of a step: who runs what, where others wait, and what moves."""

from __future__ import annotations

from collections.abc import Hashable

import attrs
from torch import Tensor

from guidance_core.executors.placement import Placement, Unit
from guidance_core.steps.inputs import Inputs

MOVE = -1
"Where other ranks wait: in the payload, and then in the agreement after it."


@attrs.define(eq=False)
class Placed:
    """What an executor notes of a step when it has chosen who runs what."""

    placement: Placement
    units: tuple[Unit, ...]
    "What this rank runs: the branches of `plan.own_branches`, in order."
    agrees: bool
    "Whether the ranks exchange records in this step."
    awaited: int | None
    "Where the other ranks wait for this one: an exchange, or `MOVE`; None where they do not."
    payload: Payload | None = None
    "What moves, once there is memory for it."
    inputs: Inputs | None = None
    "What this rank was given, in a step that compares it and has not yet."
    form: Hashable = None
    "What is equal for payloads that can be moved together, where ranks do not agree on every step."
    has_moved: bool = False
    "Whether this rank has taken part in the payload collective."


@attrs.frozen(eq=False)
class Unheld:
    """Stands for the plan of a step that this rank does not make."""

    placed: Placed


class Payload:
    """What one collective moves in a step, with the memory for it."""

    def __init__(self, placement: Placement, sent: Tensor) -> None:
        self.placement = placement
        self.sent = sent
        "What this rank sends; bytes."

    def again(self) -> Payload:
        """Return a payload of the same form with memory of its own, for another step."""
        raise NotImplementedError
