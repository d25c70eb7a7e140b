"""Whether the ranks of a group hold one model: every weight compared, once, on request."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch

from guidance_core.algebra.digest import digest
from guidance_core.errors import ConfigurationError, PlanMismatchError
from guidance_core.executors.agreement import agreement_of
from guidance_core.executors.groups import check_alive, resolve_group
from guidance_core.executors.records import START, Record, check_all_well
from guidance_core.executors.together import set_aside, shared_error
from guidance_core.steps.inputs import Inputs

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

SHOWN = 5
"Weights that an error names."


@attrs.frozen
class ComparedWeights:
    """The weights that `compare_weights` compared."""

    compared: int
    "Parameters and buffers that are equal on all ranks that hold them."
    left_out: Mapping[str, str]
    "Those that could not be compared, with the reason by name: they are sharded over these ranks, or have no values."


def compare_weights(
    model: Any, group: ProcessGroup | DeviceMesh | None = None, *, mesh_dim: str | int | None = None
) -> ComparedWeights:
    """Compare every parameter and buffer of a model, bit for bit, with those of the other ranks of a group.

    Every rank must call it, between steps. It reads all weights once, at the speed of memory, and sends a few bytes for
    each. Weights that are sharded over ranks of this group differ by design, and weights on the meta device have no
    values: the result names both. If a weight is sharded over other ranks, this rank's part is compared.

    Args:
        model: a `torch.nn.Module`, or a mapping of names to tensors such as a state dict.
        group: the ranks that run branches, as for an executor.
        mesh_dim: the dimension of a mesh, as for an executor.

    Raises:
        PlanMismatchError: weights differ, or exist on some ranks only. The error names the first of them, on all ranks.
        ConfigurationError: the group does not exist, or the model of a rank is neither of the above.
        RankLostError: a rank does not answer.
    """
    found = resolve_group(group, mesh_dim)
    check_alive(found)
    agreement = agreement_of(found)
    with agreement.shared.turns.taken():
        set_aside(agreement, "comparing weights")
        try:
            held, left_out = _sorted_out(_named(model), set(torch.distributed.get_process_group_ranks(found)))
            numbers = Inputs({"": held}).numbers()[""]
        except BaseException as error:
            told = shared_error(agreement, error, "comparing weights", START)
            if told is error:
                raise
            raise told from error
        mine = {"numbers": numbers, "left out": left_out}
        records = agreement.exchange(Record(text="comparing weights", inputs=digest([mine])), START)
        check_all_well(records)
        everyone = [mine]
        if len({record.inputs for record in records}) > 1:
            everyone = [json.loads(each) for each in agreement.told_in_full(json.dumps(mine))]
        agreement.raise_interrupt()
    reasons: dict[str, str] = {}
    for rank, each in enumerate(everyone):
        for name, reason in each["left out"].items():
            where = f" on rank {rank}" if len(everyone) > 1 else ""
            reasons[name] = f"{reasons[name]}; {reason}{where}" if name in reasons else f"{reason}{where}"
    _check_equal(everyone, reasons)
    return ComparedWeights(len(set(numbers) - set(reasons)), reasons)


def _named(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(model, torch.nn.Module):
        return itertools.chain(model.named_parameters(), model.named_buffers())
    if isinstance(model, Mapping) and all(isinstance(each, torch.Tensor) for each in model.values()):
        return iter((str(name), each) for name, each in model.items())
    raise ConfigurationError(
        f"compare_weights takes a torch.nn.Module or a dict of tensors by name; got {type(model).__name__}."
    )


def _sorted_out(
    named: Iterator[tuple[str, torch.Tensor]], ranks: set[int]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the weights that can be compared, and why others cannot."""
    held, left_out = {}, {}
    for name, weight in named:
        mesh = getattr(weight, "device_mesh", None)
        is_flat = getattr(type(weight), "__name__", "") == "FlatParameter"
        if is_flat or (mesh is not None and _is_spread(weight, mesh, ranks)):
            left_out[name] = "sharded over these ranks"
        elif weight.device.type == "meta":
            left_out[name] = "on the meta device"
        else:
            held[name] = weight
    return held, left_out


def _is_spread(weight: Any, mesh: Any, ranks: set[int]) -> bool:
    """Whether ranks of the group hold different parts of a DTensor."""
    for dimension, placement in enumerate(weight.placements):
        line = set(torch.distributed.get_process_group_ranks(mesh.get_group(dimension)))
        if not placement.is_replicate() and len(line & ranks) > 1:
            return True
    return False


def _check_equal(everyone: list[dict[str, Any]], reasons: Mapping[str, str]) -> None:
    numbers = [each["numbers"] for each in everyone]
    said = []
    for name in dict.fromkeys(name for each in numbers for name in each if name not in reasons):
        by_number: dict[int | None, list[int]] = {}
        for rank, each in enumerate(numbers):
            by_number.setdefault(each.get(name), []).append(rank)
        if len(by_number) > 1:
            usual = max(by_number.values(), key=len)
            odd = sorted(rank for ranks in by_number.values() if ranks is not usual for rank in ranks)
            verb = "is missing" if None in by_number else "differs"
            where = by_number.get(None, odd)
            said.append(f"{name!r} {verb} on rank {', '.join(map(str, where))}")
    if said:
        more = f", and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        raise PlanMismatchError(
            f"the ranks hold different weights: {'; '.join(said[:SHOWN])}{more}. Load the same checkpoint, with the "
            "same adapters and dtype, on every rank."
        )
