"""The process group that guidance is spread over, and the group that its control messages go over."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from guidance_core.errors import ConfigurationError, ExecutorError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

_control_groups: dict[ProcessGroup, Any] = {}
"The CPU group of each group's control messages."


def resolve_group(group: ProcessGroup | DeviceMesh | None, mesh_dim: str | int | None) -> ProcessGroup:
    """Return the process group that the caller means.

    Args:
        group: a process group, a `DeviceMesh`, or None for the default group.
        mesh_dim: which dimension of a mesh of several to use.

    Raises:
        ConfigurationError: torch.distributed is not initialised, the mesh has several dimensions and
            none is named, or this process is not in the group.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ConfigurationError(
            "spreading branches over processes needs torch.distributed: start the program with torchrun and call "
            "torch.distributed.init_process_group() first, or use executor='serial'."
        )
    from torch.distributed.device_mesh import DeviceMesh  # not there where torch was built without distributed

    if isinstance(group, DeviceMesh):
        return _of_mesh(group, mesh_dim)
    if mesh_dim is not None:
        raise ConfigurationError(f"mesh_dim={mesh_dim!r} is the dimension of a DeviceMesh; no mesh was given.")
    found: Any = dist.group.WORLD if group is None else group
    is_group = isinstance(found, dist.ProcessGroup)
    if found is dist.GroupMember.NON_GROUP_MEMBER or (is_group and dist.get_rank(found) < 0):
        raise ConfigurationError(
            "this process is not in the process group given to the executor; create the executor only on the "
            f"group's own ranks. This is rank {dist.get_rank()} of {dist.get_world_size()}."
        )
    if not is_group:
        raise ConfigurationError(
            f"group must be a process group, a DeviceMesh or None for the default group; got {found!r}."
        )
    resolved: ProcessGroup = found
    return resolved


def _of_mesh(mesh: DeviceMesh, mesh_dim: str | int | None) -> ProcessGroup:
    names = mesh.mesh_dim_names
    if mesh.ndim > 1 and mesh_dim is None:
        shown = ", ".join(names) if names else f"0 to {mesh.ndim - 1}"
        raise ConfigurationError(
            f"the DeviceMesh has {mesh.ndim} dimensions ({shown}); say which one guidance is spread over: "
            "AllGatherExecutor(mesh, mesh_dim=...)."
        )
    known = (*(names or ()), *range(mesh.ndim))
    if mesh_dim is not None and (isinstance(mesh_dim, bool) or mesh_dim not in known):
        raise ConfigurationError(
            f"the DeviceMesh has no dimension {mesh_dim!r}; it has {', '.join(map(str, names or range(mesh.ndim)))}."
        )
    if mesh.get_coordinate() is None:
        raise ConfigurationError("this process is not in the DeviceMesh given to the executor.")
    return mesh.get_group(mesh_dim)


def positions_in(group: ProcessGroup, given: Any, mesh_dim: str | int | None) -> tuple[int, ...]:
    """Return the position of each rank of `group` along the dimension of the mesh it was resolved from.

    A group counts its ranks in rising order, a mesh in any. Processes at one position share a model, so
    they must be given the same branches. Without a mesh a position is the rank.
    """
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(given, DeviceMesh):
        return tuple(range(group.size()))
    names = given.mesh_dim_names or ()
    number = names.index(mesh_dim) if isinstance(mesh_dim, str) else mesh_dim or 0
    line = given.mesh.movedim(number, -1).reshape(-1, group.size())
    mine = next(ranks for ranks in line.tolist() if dist.get_rank() in ranks)
    return tuple(mine.index(rank) for rank in dist.get_process_group_ranks(group))


def control_group(group: ProcessGroup) -> Any:
    """Return a group of the same ranks whose messages stay on the CPU: itself where it is Gloo.

    Otherwise Gloo is set up between its ranks, once, with its timeout; every rank must call this. They
    meet in the group's own store: `new_group` would have all ranks of the program agree on a name first.
    """
    if "cpu:gloo" in dist.get_backend_config(group).lower().split(","):
        return group
    for known in [known for known in _control_groups if not is_alive(known)]:
        del _control_groups[known]
    if group not in _control_groups:
        store = dist.distributed_c10d.PrefixStore(
            "guidance_core/control", dist.distributed_c10d._world.pg_map[group][1]
        )
        timeout = datetime.timedelta(seconds=timeout_of(group))
        _control_groups[group] = dist.ProcessGroupGloo(store, group.rank(), group.size(), timeout)
    return _control_groups[group]


def is_alive(group: ProcessGroup) -> bool:
    """Whether the group still exists in this process."""
    try:
        dist.get_process_group_ranks(group)
    except (KeyError, ValueError, AssertionError, RuntimeError):
        return False
    return True


def check_alive(group: ProcessGroup) -> None:
    """Raise `ExecutorError` if the group was destroyed since the executor was made."""
    if not is_alive(group):
        raise ExecutorError(
            "the process group of this executor is gone (destroy_process_group was called); make a new executor."
        )


def stages_through_cpu(group: ProcessGroup, device: torch.device) -> bool:
    """Whether tensors of this device must travel by way of the CPU: Gloo moves nothing else by itself."""
    if device.type == "cpu":
        return False
    backends = dict(pair.split(":") for pair in dist.get_backend_config(group).lower().split(",") if ":" in pair)
    return backends.get(device.type, "gloo") == "gloo"


def timeout_of(group: Any) -> float:
    """Return after how many seconds a group's operations give up; torch's default where it does not say."""
    options = [getattr(group, "options", None)]
    if isinstance(group, dist.ProcessGroup) and not isinstance(group, dist.Backend):
        devices = (pair.partition(":")[0] for pair in dist.get_backend_config(group).split(","))
        options = [_options(group, device) for device in devices]
    for each in options:
        if each is not None:
            return float(each._timeout.total_seconds())
    return float(dist.constants.default_pg_timeout.total_seconds())


def _options(group: ProcessGroup, device: str) -> Any:
    try:
        return group._get_backend(torch.device(device)).options
    except (AttributeError, RuntimeError):
        return None
