"""What ranks must be given equally, in numbers: the sample, the conditions, and what else the host names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.algebra.checksum import checksum, parts_of
from guidance_core.algebra.digest import Writer, digest
from guidance_core.algebra.outputs import SINGLE
from guidance_core.steps.settings import RunSettings

SAMPLE, GIVEN = "sample", "given"

Groups = Mapping[str, Mapping[str, int]]
"Numbers by what was given (the sample, a condition, ...), then by output or key."


class Inputs:
    """Numbers that stand for values; those of tensors on devices are on their way until they are asked for."""

    def __init__(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        writer = _Summing()
        self._texts = {
            group: {key: writer.written(value) for key, value in values.items()} for group, values in groups.items()
        }
        self._sums = {device: _Coming(sums) for device, sums in writer.sums.items()}

    def numbers(self) -> Groups:
        """Return a number for each value; waits for those on devices."""
        sums = {device: coming.read() for device, coming in self._sums.items()}
        return {
            group: {
                key: digest([text, *(sums[device][place] for device, place in places)])
                for key, (text, places) in texts.items()
            }
            for group, texts in self._texts.items()
        }


def inputs_of(settings: RunSettings, samples: Mapping[str, Tensor], *, is_first: bool) -> Inputs:
    """Begin to compute what stands for what this rank was given for a step."""
    groups: dict[str, Mapping[str, Any]] = {}
    if settings.check_inputs != "never":
        groups[SAMPLE] = {"" if name == SINGLE else name: each for name, each in samples.items()}
        for name, inputs in (settings.conditions or {}).items():
            if inputs:  # one without inputs is looked up by the host, or another rank's
                groups[f"condition {name!r}"] = _keyed(inputs)
    if is_first and settings.given is not None:
        for name, value in settings.given().items():
            groups[f"{GIVEN} {name!r}"] = _keyed(value) if isinstance(value, Mapping) and value else {"": value}
    return Inputs(groups)


def _keyed(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in values.items()}


def differences(told: Sequence[Groups]) -> list[str]:
    """Return what differs among those ranks that hold it, in words."""
    said = []
    for group in dict.fromkeys(group for each in told for group in each):
        holders = {rank: each[group] for rank, each in enumerate(told) if group in each}
        for key in dict.fromkeys(key for each in holders.values() for key in each):
            by_number: dict[int | None, list[int]] = {}
            for rank, numbers in holders.items():
                by_number.setdefault(numbers.get(key), []).append(rank)
            if len(by_number) > 1:
                said.append(_said(group, key, by_number))
    return said


def _said(group: str, key: str, by_number: dict[int | None, list[int]]) -> str:
    if group == SAMPLE:
        what = f"output {key!r} of the sample" if key else "the sample"
    elif group.startswith(GIVEN):
        name = group.removeprefix(f"{GIVEN} ")
        what = f"{key!r} of {name}" if key else name
    else:
        what = f"{key!r} of {group}"
    missing = by_number.pop(None, [])
    if missing:
        having = sorted(rank for ranks in by_number.values() for rank in ranks)
        return f"{what} is given on {_ranks(having)} and not on {_ranks(missing)}"
    usual = max(by_number.values(), key=len)  # the first of the longest
    odd = sorted(rank for ranks in by_number.values() if ranks is not usual for rank in ranks)
    return f"{what} on {_ranks(odd)} is not the one on {_ranks(usual)}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def packed(groups: Groups) -> str:
    """Return numbers as text."""
    return json.dumps(groups)


def unpacked(text: str) -> Groups:
    """Return the numbers that a text stands for."""
    groups: Groups = json.loads(text)
    return groups


class _Summing(Writer):
    """Writes values with their tensors left out, and collects checksums of these by device."""

    def __init__(self) -> None:
        self.sums: dict[torch.device, list[Tensor]] = {}
        self._places: list[tuple[torch.device, int]] = []

    def written(self, value: Any) -> tuple[str, list[tuple[torch.device, int]]]:
        """Return a value's text, and where the checksums of its tensors are."""
        self._places = []
        return self.text(value), self._places

    def bits_of(self, tensor: Tensor) -> str:
        parts = parts_of(tensor)
        for part in parts:
            sums = self.sums.setdefault(part.device, [])
            self._places.append((part.device, len(sums)))
            sums.append(checksum(part))
        return f"#{len(parts)}"


class _Coming:
    """Numbers that are computed on a device and copied from it."""

    def __init__(self, sums: Sequence[Tensor]) -> None:
        self._held = torch.stack(list(sums))
        self._arrived: Any = None
        if self._held.device.type == "cuda":  # so that to read them is not to wait for forwards that begin meanwhile
            there = self._held
            self._held = torch.empty(there.shape, dtype=there.dtype, device="cpu", pin_memory=True)
            self._held.copy_(there, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(there.device))

    def read(self) -> list[int]:
        """Return the numbers, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(map(int, self._held.tolist()))
