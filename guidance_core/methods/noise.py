"""A run's randomness: the same on every rank, device and executor, and for each sample its own.

Noise is a function of the sample's seed, the step, and what it is for. It is drawn on the CPU, row by row, and never
from torch's global generators, so that using it changes no other random number.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, PluginError, brief

_LIMIT = 2**63

drawn_together: ContextVar[int | None] = ContextVar("drawn_together", default=None)
"The seed that ranks start a run with if nobody gives one: they have drawn it together."


@attrs.frozen
class Seeds:
    """The seeds of a run: one for each sample, or one from which those of the samples follow."""

    one: int = attrs.field(factory=lambda: secrets.randbits(63))
    each: tuple[int, ...] | None = None
    "By sample, where they were given."
    is_drawn: bool = attrs.field(default=False, eq=False)
    "Whether nobody gave them."

    @classmethod
    def of(cls, given: Any) -> Seeds:
        """Return the seeds of `start(seeds=...)`: a whole number, one for each sample, or None to draw one.

        Raises:
            ConfigurationError: they are not whole numbers from 0 to 2⁶³ − 1.
        """
        if given is None:
            together = drawn_together.get()
            return cls(secrets.randbits(63) if together is None else together, is_drawn=True)
        if isinstance(given, Tensor):
            given = given.tolist()
        if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            if not given:
                raise ConfigurationError("seeds must be a whole number, or one for each sample; got none.")
            each = tuple(_checked(seed) for seed in given)
            return cls(each[0], each)
        return cls(_checked(given))

    @property
    def given(self) -> int | tuple[int, ...]:
        """What to hand to `start(seeds=...)` to draw the same noise."""
        return self.one if self.each is None else self.each

    def of_sample(self, number: int) -> int:
        """Return the seed of one sample."""
        if self.each is not None:
            return self.each[number]
        return _mixed(self.one, number) if number else self.one

    def derived(self, samples: int, *key: object) -> tuple[int, ...]:
        """Return a seed for each sample, for what `key` names."""
        return tuple(_mixed(self.of_sample(number), *key) for number in range(samples))

    def selected(self, indices: Sequence[int]) -> Seeds:
        """Return the seeds of some samples."""
        each = tuple(self.of_sample(number) for number in indices)
        return Seeds(self.one, each, self.is_drawn)

    def check_count(self, samples: int) -> None:
        """Raise `ConfigurationError` unless there is a seed for each sample."""
        if self.each is not None and len(self.each) != samples:
            raise ConfigurationError(
                f"the run was started with {len(self.each)} seeds, but the sample has a batch of {samples}; give one "
                "seed for each sample, or a single one."
            )


def _checked(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= (whole := seed.__index__()) < _LIMIT:
        raise ConfigurationError(f"a seed must be a whole number from 0 to 2**63 - 1; got {brief(seed)}.")
    return int(whole)


def noise_like(tensor: Any, seeds: Seeds, samples: int | None, key: tuple[object, ...], who: str) -> Tensor:
    """Return standard normal noise with the shape, dtype and device of `tensor`.

    Args:
        tensor: floating point. If its first dimension is the batch, each row's noise depends on that sample's
            seed; all of another tensor, which the samples share, on the first one's.
        seeds: of the run.
        samples: the batch size; None before there is a sample, when all share one noise.
        key: what the noise is for, and where the run stands.
        who: who asks, for errors.

    Raises:
        PluginError: `tensor` is not a floating-point tensor.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = f"{tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise PluginError(f"{who} asks for noise like a {got}; it must be a floating-point tensor.")
    working = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    made = torch.empty(tensor.shape, dtype=working, device="cpu")
    is_by_sample = samples is not None and tensor.ndim > 0 and tensor.shape[0] == samples
    for number, row in enumerate(made if is_by_sample else [made]):
        seed = seeds.of_sample(number) if is_by_sample else seeds.one
        row.normal_(generator=generator(seed, *key))
    return made.to(tensor.device, tensor.dtype, non_blocking=True)


def generator(seed: int, *key: object) -> torch.Generator:
    """Return a generator on the CPU, whose numbers follow from a seed and from what they are for."""
    return torch.Generator().manual_seed(_mixed(seed, *key))


def _mixed(*parts: object) -> int:
    """Return a seed for a generator that equal parts share, on every machine."""
    text = "\x1f".join(map(repr, parts))
    return int.from_bytes(blake2b(text.encode(errors="backslashreplace"), digest_size=8).digest(), "big") % _LIMIT
