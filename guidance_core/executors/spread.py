"""What is spread over the ranks of a process group, and how: settings, placement, counts, description."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import attrs
import torch

from guidance_core.algebra.comparable import fingerprint_of
from guidance_core.algebra.digest import digest, in_words, name_of
from guidance_core.errors import ConfigurationError
from guidance_core.executors.agreement import agreement_of
from guidance_core.executors.base import Executor
from guidance_core.executors.groups import positions_in, resolve_group
from guidance_core.executors.header import Unread
from guidance_core.executors.payload import Payload
from guidance_core.executors.placement import Placement, Unit, checked_speeds, place_branches, place_rows
from guidance_core.methods.requests import Branch
from guidance_core.steps.plan import Plan
from guidance_core.steps.settings import RunIdentity

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


@attrs.define
class Counts:
    """What an executor did so far on this rank."""

    forwards: int = 0
    "Forward passes, padding included."
    payload_collectives: int = 0
    payload_bytes: int = 0
    "Bytes this rank handed to payload collectives."
    control_exchanges: int = 0
    control_seconds: float = 0.0
    "Time in control exchanges, waiting for slower ranks included."


_NO_SETTINGS = ("group", "rank", "size", "chosen_because")
"Attributes of an executor that ranks need not share, or whose equality is known."


class SpreadExecutor(Executor):
    """What the executors on several ranks are set to, and which rank runs what."""

    def __init__(
        self,
        group: ProcessGroup | DeviceMesh | None = None,
        *,
        mesh_dim: str | int | None = None,
        control: bool = True,
        lockstep: bool = False,
        split_rows: bool = False,
        batched: bool = False,
        speeds: Sequence[float] = (),
        repeat_single: bool = False,
    ) -> None:
        """Spread branches over a group. Every rank of it must do the same with equal arguments.

        Args:
            group: a process group, a `DeviceMesh`, or None for the default group. Of a mesh whose ranks
                are not in rising order give the mesh, or `mesh["guidance"]`: its group has them sorted.
            mesh_dim: the dimension of the mesh, by name or number, where it has several.
            control: exchange a small record before and after each step's payload, so that every
                disagreement and failure is one named error on all ranks. Without it only the start and
                the first step of each run are agreed upon, and a later failure on one rank leaves the
                others waiting for the group's timeout.
            lockstep: have every rank call the denoiser equally often, with forwards whose result is
                thrown away; for models whose ranks must call together, such as FSDP across this group.
            split_rows: share out rows of the batch instead of whole branches. The denoiser must have
                `takes_rows = True` and run the rows `branch.rows`. Changes the batch the model sees.
            batched: run a rank's branches in one `denoise.batch(branches)`. Changes the batch the
                model sees.
            speeds: how fast each rank's forwards are, such as (1.0, 0.5), by rank in the group; a slower rank is
                given less. Equally fast if not given.
            repeat_single: run the only branch of a step on every rank, so that nothing is sent in it. The ranks'
                forwards must give the same bits, as those of equal devices do.

        Raises:
            ConfigurationError: this process is in no such group, the mesh's dimension is not clear, the speeds are
                not one for each rank, or `lockstep` is asked for together with `batched`, whose forwards cannot be
                counted.
        """
        if lockstep and batched:
            raise ConfigurationError(
                "lockstep=True cannot be combined with batched=True: how many forwards denoise.batch makes is unknown."
            )
        self.group = resolve_group(group, mesh_dim)
        self.rank = self.group.rank()
        self.size = self.group.size()
        self._positions = positions_in(self.group, group, mesh_dim)
        self.control = bool(control)
        self.lockstep = bool(lockstep)
        self.split_rows = bool(split_rows)
        self.batched = bool(batched)
        self.repeat_single = bool(repeat_single)
        self.speeds = checked_speeds(speeds, self.size)
        self._placed_speeds = tuple(speed for _, speed in sorted(zip(self._positions, self.speeds, strict=False)))
        self._agreement = agreement_of(self.group)
        self._shared = self._agreement.shared
        self.chosen_because = ""
        "Why it was chosen, where `auto` did."
        self._counts = Counts()
        self._last_rows: int | None = None
        "The batch size of the last step whose rows were shared out."
        self._own_part = digest([name_of(type(self)), self._positions, control, lockstep, split_rows, batched])
        self._agreed: WeakKeyDictionary[RunIdentity, tuple[torch.dtype, ...]] = WeakKeyDictionary()
        "The dtypes of predictions that the first step of each run showed."
        self._last: tuple[Hashable, Payload | None] = None, None
        "Form and payload of the last step without control: laying out another takes longer than making it again."
        self._unread: list[Unread] = []
        "Headers of payloads that were not looked at yet."

    @property
    def counts(self) -> Counts:
        """What was run and sent so far on this rank."""
        self._counts.control_exchanges = self._agreement.exchanges
        self._counts.control_seconds = self._agreement.seconds
        return self._counts

    def _settings(self) -> list[tuple[str, object]]:
        """Return the settings that are attributes with a public name."""
        return [
            (name, value)
            for name, value in vars(self).items()
            if name[0] != "_" and name not in _NO_SETTINGS and not callable(getattr(type(self), name, None))
        ]

    def _in_words(self) -> dict[str, str]:
        """Return the settings in words."""
        return {name: in_words(value) for name, value in self._settings()} | {"positions": str(self._positions)}

    def _compared(self) -> int:
        """Return what stands for the executor's class and for all settings that are attributes with a public name."""
        settings = ((f"attribute {name!r}", value) for name, value in self._settings())
        own = [name_of(type(self)), self._positions]
        advice = "the name of an attribute that ranks need not share begins with an underscore"
        parts = fingerprint_of(f"executor {self.name!r}", settings, advice)
        self._own_part = digest([*own, parts])
        return self._own_part

    def _placement(self, plan: Plan) -> Placement:
        branches = plan.layout.branches
        if self.repeat_single and len(branches) == 1:
            return self._repeated(branches)
        if self.split_rows and plan.can_split_rows(needs_tensor_statistics=not self.gathers_predictions):
            self._last_rows = plan.rows
            return place_rows(branches, plan.rows, self.size, self._placed_speeds).at(self._positions)
        return place_branches(branches, self.size, self._placed_speeds).at(self._positions)

    def local_passes(self, branches: Sequence[Branch]) -> int:
        """Return how many forwards this rank makes for these branches; in lockstep as many as every other."""
        placement = self.placed(branches)
        if placement is None:
            return 0 if not branches else 1
        return placement.most if self.lockstep else len(placement.units[self.rank])

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """Return which rank runs which of these branches; with `split_rows`, as of the last step's batch."""
        if self.repeat_single and len(branches) == 1:
            return self._repeated(branches)
        if not self.split_rows:
            return place_branches(branches, self.size, self._placed_speeds).at(self._positions)
        if self._last_rows is None:
            return None
        return place_rows(branches, self._last_rows, self.size, self._placed_speeds).at(self._positions)

    def _repeated(self, branches: Sequence[Branch]) -> Placement:
        """Return the placement that gives every rank all of these branches."""
        units = tuple(Unit(index) for index in range(len(branches)))
        return Placement((units,) * self.size, tuple(branch.cost for branch in branches))

    def _options(self) -> str:
        """Describe what differs from the default, and what it costs."""
        parts = []
        if self.chosen_because:
            parts.append(f"chosen by auto: {self.chosen_because}")
        if self.split_rows:
            parts.append(
                "rows of the batch are shared out (where all outputs have as many and no correction needs a statistic "
                "over them), so equal to serial to the model's precision only"
            )
        if self.batched:
            parts.append("each rank's branches in one forward, so equal to serial to the model's precision only")
        if self.repeat_single:
            parts.append("the only pass of a step runs on every rank, and nothing is sent")
        if self.speeds:
            parts.append(f"placed for ranks of the speeds {', '.join(f'{speed:g}' for speed in self.speeds)}")
        if self.lockstep:
            parts.append("lockstep: ranks with fewer branches make extra forwards that are thrown away")
        if not self.control:
            parts.append("control exchange off after the first step: a failure on one rank leaves the others waiting")
        return "".join(f"; {part}" for part in parts)
