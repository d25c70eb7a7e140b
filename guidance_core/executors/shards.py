"""Sequence parallelism: what a host says of outputs that it split over the ranks of another group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.executors.groups import resolve_group, stages_through_cpu
from guidance_core.methods.split import Split

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class Shards(Split):
    """The pieces of a sequence, for `guidance.start(shards=...)`: statistics are computed over all of them.

    run = guidance.start(..., executor="all_gather", shards=Shards(mesh["sequence"], dims={"video": 1}))

    Rank r of the group holds piece r. Every rank of the group makes the same steps. All pieces have the same length;
    the last ones may be padded. If a rank does not join a collective, the collective ends with the group's own timeout.
    """

    def __init__(
        self,
        group: ProcessGroup | DeviceMesh,
        dims: Mapping[str, int],
        valid: Mapping[str, int] | None = None,
        *,
        mesh_dim: str | int | None = None,
    ) -> None:
        """Say what is split.

        Args:
            group: the ranks that hold the pieces: a process group, or a mesh of one dimension.
            dims: by output, the dimension of the sample along which it is split, not the batch. An output that is not
                named is whole on every rank; the output of a single tensor is called `output`.
            valid: by output, how many elements along that dimension count, over all pieces; the rest is padding.
            mesh_dim: which dimension of a mesh of several.

        Raises:
            ConfigurationError: an argument cannot be used.
        """
        self.group = resolve_group(group, mesh_dim)
        for what, given, least in (("dims", dims, None), ("valid", valid or {}, 1)):
            if not isinstance(given, Mapping):
                raise ConfigurationError(
                    f"Shards: {what} maps outputs to numbers, as {{'video': 1}}; got {brief(given)}."
                )
            for name, number in given.items():
                is_whole = isinstance(number, int) and not isinstance(number, bool)
                if not is_whole or number == 0 or (least is not None and number < least):
                    raise ConfigurationError(
                        f"Shards: {what} of {name!r} must be a whole number other than 0; got {brief(number)}."
                    )
        unknown = sorted(set(valid or {}) - set(dims))
        if unknown:
            raise ConfigurationError(f"Shards: valid names {', '.join(map(repr, unknown))}, which dims do not.")
        super().__init__(dict(dims), dict(valid or {}), dist.get_rank(self.group), self.group.size())

    def exchange(self, parts: Tensor) -> Tensor:
        """Return what every rank contributes."""
        sent = parts.detach().contiguous()
        device = sent.device
        if stages_through_cpu(self.group, device):
            sent = sent.cpu()
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent, group=self.group)
        return torch.stack(received).to(device)

    def __repr__(self) -> str:
        """Return what is split."""
        valid: dict[str, Any] = {"valid": self.valid} if self.valid else {}
        return f"Shards(dims={self.dims}{''.join(f', {name}={value}' for name, value in valid.items())})"
