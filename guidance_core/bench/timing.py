"""Timing several contenders in turn, so that a drift of the machine's speed meets all of them."""

from __future__ import annotations

import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@attrs.frozen
class Comparison:
    """The median times of several contenders for one job."""

    job: str
    rounds: int
    unit: str
    "`us` or `ms`."
    medians: dict[str, float]
    ours: str
    extra: dict[str, Any] = attrs.field(factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long as ours each of the others took."""
        mine = self.medians[self.ours]
        return {name: median / mine for name, median in self.medians.items() if name != self.ours}


@attrs.frozen
class Report:
    """All comparisons of one benchmark. `str()` gives text, `to_dict()` plain data."""

    name: str
    torch: str
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        comparisons = [
            {**attrs.asdict(each), "ratios": {name: round(ratio, 3) for name, ratio in each.ratios.items()}}
            for each in self.comparisons
        ]
        return {"benchmark": self.name, "torch": self.torch, "threads": 1, "comparisons": comparisons}

    def __str__(self) -> str:
        """Return the report as text."""
        lines = [f"{self.name}: medians, one thread, torch {self.torch}"]
        for each in self.comparisons:
            lines.append(f"\n{each.job} ({each.rounds} rounds, interleaved)")
            for name, median in sorted(each.medians.items(), key=lambda item: item[1]):
                against = "" if name == each.ours else f"   {each.ratios[name]:6.2f} x {each.ours}"
                lines.append(f"  {name:<44} {median:9.1f} {each.unit}{against}")
            lines += [f"  {name}: {value}" for name, value in each.extra.items()]
        return "\n".join(lines)


def compare(
    job: str,
    contenders: Mapping[str, Callable[[], object]],
    *,
    ours: str,
    rounds: int,
    unit: str,
    warmup: int,
    renew: Callable[[int], object],
    extra: Mapping[str, Any] | None = None,
) -> Comparison:
    """Time the contenders in turn, `rounds` times each, after `warmup` uncounted rounds.

    Before each round `renew` gets its number and makes new inputs, so that no contender meets what it has seen.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmup + rounds):
        renew(number)
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if number >= warmup:
                times[name].append(time.perf_counter() - start)
            else:
                times[name].clear()
    return Comparison(job, rounds, unit, medians_of(times, unit), ours, dict(extra or {}))


def medians_of(times: Mapping[str, Sequence[float]], unit: str) -> dict[str, float]:
    """Return the median of each contender's times, which are in seconds, in a unit."""
    factor = {"us": 1e6, "ms": 1e3}[unit]
    return {name: round(statistics.median(each) * factor, 3) for name, each in times.items()}


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block: `with PeakMemory() as memory: ...; memory.peak`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note storages that were not there before."""
        given = {_storage(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (_storage(tensor) not in given or self._holders[_storage(tensor)]):
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage, size = _storage(tensor), tensor.untyped_storage().nbytes()
        if not self._holders[storage]:
            self._live += size
            self.peak = max(self.peak, self._live)
        self._holders[storage] += 1
        weakref.finalize(tensor, self._release, storage, size)

    def _release(self, storage: int, size: int) -> None:
        self._holders[storage] -= 1
        if not self._holders[storage]:
            self._live -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def one_thread() -> str:
    """Set torch to one thread and return its version."""
    torch.set_num_threads(1)
    return str(torch.__version__)
