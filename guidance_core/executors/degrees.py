"""How an engine's ranks are shared out between guidance, a split sequence and split weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import TYPE_CHECKING

import attrs

from guidance_core.errors import ConfigurationError, brief
from guidance_core.executors.placement import place_branches
from guidance_core.methods.requests import BASE, Branch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

DIMS = ("guidance", "sequence", "tensor")
"From the ranks that are farthest apart to those that are nearest: branches exchange least, split weights most."
EFFICIENCY = 0.85
"What each doubling of the ranks of one pass keeps of its speed, where nobody has measured it."
MOST = 1_000_000


def _check(degrees: Degrees, field: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ConfigurationError(f"the degree {field.name} must be a whole number from 1; got {brief(value)}.")


@attrs.frozen
class Degrees:
    """How many ranks divide the branches of a step, the sequence of one branch, and the model's weights.

        degrees = Degrees.of(world_size=8, guidance=2)        # the rest, 4, splits the sequence
        mesh = degrees.mesh("cuda")
        executor = AllGatherExecutor(mesh, mesh_dim="guidance")

    Ranks of one tensor group are neighbours, then those of one sequence group. Ranks that divide the branches are
    farthest apart, since they exchange least.
    """

    guidance: int = attrs.field(default=1, validator=_check)
    sequence: int = attrs.field(default=1, validator=_check)
    tensor: int = attrs.field(default=1, validator=_check)

    @classmethod
    def of(
        cls, world_size: int, *, guidance: int | None = None, sequence: int | None = None, tensor: int = 1
    ) -> Degrees:
        """Return degrees whose product is the number of ranks. If only one is not given, it takes the rest.

        Args:
            world_size: number of ranks.
            guidance: how many groups of ranks divide the branches; the rest if `sequence` is given, else 1.
            sequence: how many ranks split the sequence of one branch; the rest if not given.
            tensor: how many ranks split the weights.

        Raises:
            ConfigurationError: the ranks cannot be divided in this way.
        """
        if isinstance(world_size, bool) or not isinstance(world_size, int) or not 1 <= world_size <= MOST:
            raise ConfigurationError(f"world_size must be a whole number from 1; got {brief(world_size)}.")
        given = {"guidance": guidance, "sequence": sequence, "tensor": tensor}
        if guidance is None and sequence is None:
            given["guidance"] = 1
        known = cls(**{name: value for name, value in given.items() if value is not None})
        rest, left = divmod(world_size, known.world_size)
        missing = next((name for name, value in given.items() if value is None), None)
        if left or (missing is None and rest != 1):
            said = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
            possible = [each for each in range(1, world_size + 1) if world_size % each == 0]
            raise ConfigurationError(
                f"{world_size} ranks cannot be shared out with {said}: the product of the degrees is the number of "
                f"ranks. Each of them divides it: {', '.join(map(str, possible[:20]))}."
            )
        return known if missing is None else attrs.evolve(known, **{missing: rest})

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.guidance * self.sequence * self.tensor

    @property
    def of_one_pass(self) -> int:
        """Number of ranks that run one forward pass together."""
        return self.sequence * self.tensor

    def mesh(self, device_type: str = "cpu") -> DeviceMesh:
        """Return a mesh of all ranks with the dimensions `guidance`, `sequence` and `tensor`.

        Every rank calls it after `torch.distributed.init_process_group`. Give the model the dimension that it splits,
        such as `mesh["sequence"]`, and give the executor the mesh with `mesh_dim="guidance"`.

        Raises:
            ConfigurationError: torch.distributed is not initialised, or has a different number of ranks.
        """
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise ConfigurationError("a mesh needs torch.distributed: call init_process_group() first.")
        if dist.get_world_size() != self.world_size:
            raise ConfigurationError(f"{self} is for {self.world_size} ranks; there are {dist.get_world_size()}.")
        from torch.distributed.device_mesh import init_device_mesh

        sizes = (self.guidance, self.sequence, self.tensor)
        return init_device_mesh(device_type, sizes, mesh_dim_names=DIMS)

    def coordinates(self, rank: int) -> dict[str, int]:
        """Return the position of a rank in each dimension."""
        place, tensor = divmod(rank, self.tensor)
        guidance, sequence = divmod(place, self.sequence)
        return {"guidance": guidance, "sequence": sequence, "tensor": tensor}

    def groups(self, dim: str) -> list[list[int]]:
        """Return the groups of ranks along a dimension, for an engine that makes its own process groups.

        Raises:
            ConfigurationError: the dimension does not exist.
        """
        if dim not in DIMS:
            raise ConfigurationError(f"a dimension is one of {', '.join(DIMS)}; got {brief(dim)}.")
        found: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.world_size):
            others = tuple(at for name, at in self.coordinates(rank).items() if name != dim)
            found.setdefault(others, []).append(rank)
        return list(found.values())


@attrs.frozen
class Choice:
    """One way to share out ranks, and what it is expected to bring."""

    degrees: Degrees
    passes: int
    "Passes of the rank that has most, one after another."
    idle: int
    "Ranks without a pass."
    speedup: float
    "Expected over one device: one pass takes the time of its ranks, less what each doubling of them loses."


def choices(
    world_size: int, branches: int | Sequence[Branch], *, tensor: int = 1, efficiency: float = EFFICIENCY
) -> list[Choice]:
    """Return every way to share out ranks between guidance and a split sequence, the fastest first.

    Args:
        world_size: number of ranks.
        branches: the branches of a step, or how many there are.
        tensor: how many ranks split the weights.
        efficiency: what each doubling of the ranks of one pass keeps of its speed, from 0 to 1; measure it.

    Raises:
        ConfigurationError: the ranks cannot be shared out so, or an argument is out of range.
    """
    if not isinstance(efficiency, int | float) or not 0 < efficiency <= 1:
        raise ConfigurationError(f"efficiency must be more than 0 and at most 1; got {brief(efficiency)}.")
    if isinstance(branches, int):
        if isinstance(branches, bool) or branches < 1:
            raise ConfigurationError(f"a step has at least one branch; got {brief(branches)}.")
        branches = [Branch(BASE), *(Branch(f"branch {number}") for number in range(1, branches))]
    per_tensor = Degrees.of(world_size, guidance=1, tensor=tensor).sequence
    found = []
    for guidance in range(1, per_tensor + 1):
        if per_tensor % guidance:
            continue
        degrees = Degrees(guidance, per_tensor // guidance, tensor)
        placement = place_branches(branches, guidance)
        one = degrees.of_one_pass * efficiency ** log2(degrees.of_one_pass)
        idle = (guidance - len(placement.busy)) * degrees.of_one_pass
        found.append(Choice(degrees, placement.most, idle, placement.speedup * one))
    return sorted(found, key=lambda each: (-each.speedup, each.idle))


def shown(found: Sequence[Choice]) -> str:
    """Return ways to share out ranks as a table."""
    lines = ["guidance  sequence  tensor  passes  idle  expected speedup"]
    lines += [
        f"{each.degrees.guidance:>8}  {each.degrees.sequence:>8}  {each.degrees.tensor:>6}  {each.passes:>6}  "
        f"{each.idle:>4}  {each.speedup:>16.2f}"
        for each in found
    ]
    return "\n".join(lines)
