"""Statistics of a prediction: what is computed, what one of them covers, and how it is formed from pieces.

    Std(), Norm("token"), Mean(over=(-1, -2)), Inner(first=128), Quantile(0.995)

`over` names what one statistic covers, or lists the dimensions that it covers:

    sample        all but the batch dimension (default)
    channel       each channel of each sample, channels first: `[B, C, ...]` over the dots
    channel_last  each channel of each sample, channels last: `[B, ..., C]` over the dots
    token         each token: the last dimension
    tensor        everything, batch included; results then depend on batch mates

`first` limits it to the first tokens of `[B, ..., S, C]`, where others were appended that must not count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import accumulation_dtype
from guidance_core.algebra.reductions import (
    SHORT,
    Read,
    distance_of,
    norm_of,
    norms,
    product_of,
    products,
    std_of,
    stds,
    sums,
)
from guidance_core.errors import ConfigurationError, brief, suggest

Range: TypeAlias = Literal["sample", "channel", "channel_last", "token", "tensor"]
RANGES: tuple[Range, ...] = get_args(Range)

Over: TypeAlias = Range | int | Sequence[int]
"What one statistic covers: a name, or dimensions."

Covered: TypeAlias = Range | tuple[int, ...]
"What one statistic covers, as it is kept."

_INNER = tuple(tuple(range(1, ndim)) for ndim in range(65))
"By number of dimensions: all but the batch."

_ONES = tuple((1,) * max(ndim - 1, 0) for ndim in range(65))
"By number of dimensions: their sizes in statistics of samples."


def as_over(given: Over) -> Covered:
    """Return what a statistic covers: a name of `RANGES`, or dimensions, such as (-1, -2).

    Raises:
        ConfigurationError: it is something else.
    """
    allowed = f"over must be one of {', '.join(RANGES)}, or a list of dimensions"
    if isinstance(given, str):
        if given not in RANGES:
            raise ConfigurationError(f"{allowed}; got {brief(given)}.{suggest(given, RANGES)}")
        return given
    is_list = isinstance(given, Sequence) and not isinstance(given, bytes | bytearray)
    dims: Any = given if is_list else (given,)
    if not dims or not all(isinstance(dim, int) and not isinstance(dim, bool) and abs(dim) < 100 for dim in dims):
        raise ConfigurationError(f"{allowed}; got {brief(given)}.")
    return tuple(sorted(set(dims)))


def _check_first(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"{type(owner).__name__}: first must be a number of tokens; got {brief(value)}.")
    if value is not None and owner.over == "token":
        raise ConfigurationError(f"{type(owner).__name__}: a statistic of each token cannot be limited to the first.")


@attrs.frozen
class Statistic:
    """Base class: a number, or several, computed from the elements that one statistic covers; dimensions are kept.

    Plugins ask for statistics of the base prediction with `Needs(statistics=...)`, and compute others with
    `step.measure`. Both are also correct if the host's tensors are pieces of longer ones.
    """

    over: Covered = attrs.field(default="sample", converter=as_over)
    "What one statistic covers: a name, or dimensions."
    first: int | None = attrs.field(default=None, validator=_check_first)
    "The number of first tokens of `[B, ..., S, C]` that count; None for all."

    is_of_samples: bool = attrs.field(init=False, repr=False, eq=False)
    "Whether one statistic covers a whole sample."

    @is_of_samples.default
    def _default_is_of_samples(self) -> bool:
        return self.over == "sample" and self.first is None

    takes: ClassVar[int] = 1
    "Number of tensors that it is computed from."
    joins: ClassVar[bool] = True
    "Whether it can be computed from parts, each of a piece of the tensors."

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return it for tensors `[B, ...]` of one shape, floating point, with the dimensions kept.

        Raises:
            ConfigurationError: a dimension does not exist, or there are fewer tokens than `first`.
        """
        self.check_count(tensors)
        return self._of(*[self.rows(each) for each in tensors]).view(self.shape(tensors[0].shape))

    def check_count(self, tensors: tuple[Tensor, ...]) -> None:
        """Raise `ConfigurationError` unless it is computed from that many tensors."""
        if len(tensors) != self.takes:
            raise ConfigurationError(
                f"{type(self).__name__} is computed from {self.takes} tensor{'s' if self.takes > 1 else ''}; "
                f"got {len(tensors)}."
            )

    def _of(self, *rows: Tensor) -> Tensor:
        """Return it for contiguous rows `[R, N]`, as `[R]`."""
        raise NotImplementedError(f"{type(self).__name__} must implement _of(rows).")

    def parts(self, *tensors: Tensor) -> Tensor:
        """Return the part of a piece, `[R, K]`, in the accumulation dtype or float64.

        Raises:
            ConfigurationError: this statistic needs the whole tensor.
        """
        raise ConfigurationError(f"{self} cannot be computed from pieces; it needs the whole tensor.")

    def joined(self, parts: Tensor) -> Tensor:
        """Return the statistic, `[R]`, from the parts `[pieces, R, K]` of all pieces in order.

        Raises:
            ConfigurationError: this statistic needs the whole tensor.
        """
        raise ConfigurationError(f"{self} cannot be computed from pieces; it needs the whole tensor.")

    def of_long_row(self, read: Read, n: int) -> Tensor | None:
        """Return it for `n` elements that are read a block at a time; None if this is not possible."""
        return None

    def of_long_rows(self, reads: Sequence[Read], n: int) -> Tensor | None:
        """Return it for as many rows as it takes, each read a block at a time; None if this is not possible."""
        return self.of_long_row(reads[0], n) if self.takes == 1 else None

    @property
    def covers_batch(self) -> bool:
        """Whether one statistic covers several samples, for any number of dimensions."""
        return self.over == "tensor" or (not isinstance(self.over, str) and 0 in self.over)

    def covered(self, ndim: int) -> tuple[int, ...]:
        """Return the dimensions that one statistic covers, for tensors with `ndim` dimensions.

        Raises:
            ConfigurationError: a dimension does not exist, or is that of the batch but counted from the end.
        """
        over = self.over
        if not isinstance(over, str):
            outside = [dim for dim in over if not -ndim <= dim < ndim]
            if outside:
                raise ConfigurationError(f"{self} covers dimension {outside[0]} of a tensor that has {ndim}.")
            if any(dim + ndim == 0 for dim in over):
                raise ConfigurationError(
                    f"{self} covers the batch of a tensor that has {ndim} dimensions; say 0 if that is meant."
                )
            return tuple(sorted({dim % ndim for dim in over}))
        if over == "tensor":
            return tuple(range(ndim))
        if over == "sample" or ndim == 1:  # a row of one number has nothing else
            return tuple(range(1, ndim))
        if over == "token":
            return (ndim - 1,)
        return tuple(range(1, ndim - 1)) if over == "channel_last" else tuple(range(2, ndim))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the statistics for tensors of `shape`."""
        if self.is_of_samples:
            return (*shape[:1], *_ONES[len(shape)])
        covered = self.covered(len(shape))
        return tuple(1 if dim in covered else size for dim, size in enumerate(shape))

    def rows(self, x: Tensor) -> Tensor:
        """Return `x` as contiguous rows `[R, N]`, one for each statistic."""
        if self.is_of_samples and x.ndim > 1:
            return x.flatten(1).contiguous()
        x = self.limited(x)
        covered = self.covered(x.ndim)
        kept = [dim for dim in range(x.ndim) if dim not in covered]
        if not covered:
            return x.reshape(-1, 1)
        if kept != list(range(len(kept))):
            x = x.permute(*kept, *covered)
        rows, each = x.shape[: len(kept)].numel(), x.shape[len(kept) :].numel()
        return x.reshape(rows, each).contiguous()

    def limited(self, x: Tensor) -> Tensor:
        """Return the first tokens of `x`, if the statistic is limited to them.

        Raises:
            ConfigurationError: `x` is not `[B, ..., S, C]`, or has fewer tokens.
        """
        if self.first is None:
            return x
        if x.ndim < 3 or x.ndim - 2 not in self.covered(x.ndim):
            raise ConfigurationError(f"{self} counts tokens of [B, ..., S, C], which {tuple(x.shape)} does not have.")
        if x.shape[-2] < self.first:
            raise ConfigurationError(f"{self} needs the first {self.first} tokens of {tuple(x.shape)}.")
        return x.narrow(-2, 0, self.first)


def _wide(x: Tensor) -> Tensor:
    """Return a small tensor in float64, where the device has it."""
    return x if x.device.type == "mps" else x.to(torch.float64)


@attrs.frozen(cache_hash=True)
class Std(Statistic):
    """The standard deviation (of the population)."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return it for a tensor `[B, ...]`."""
        x = tensors[0]
        if self.is_of_samples and x.numel() <= SHORT and (within := _INNER[x.ndim]):
            short: Tensor = torch.std_mean(x.contiguous(), within, False, True)[0]  # as for rows, one call less
            return short
        return Statistic.__call__(self, *tensors)

    def _of(self, *rows: Tensor) -> Tensor:
        return stds(rows[0])

    def parts(self, *tensors: Tensor) -> Tensor:
        """Return the number, the mean and the sum of squared distances from it, relative to the first element."""
        rows = self.rows(tensors[0])
        n = rows.shape[1]
        if n == 0:
            return _wide(rows.new_zeros(rows.shape[0], 3))
        origin = rows[:, :1]
        mean = _wide(origin[:, 0]) + _wide(sums(rows - origin)) / n
        return torch.stack([torch.full_like(mean, n), mean, _wide(stds(rows)).square() * n], dim=1)

    def joined(self, parts: Tensor) -> Tensor:
        """Join the parts by Chan's formula `M₂ = Σ M₂ⱼ + Σ nⱼ(mⱼ − m)²` (Chan, Golub & LeVeque 1979)."""
        counts, means, squares = parts.unbind(dim=2)
        n = counts.sum(dim=0)
        apart = means - (means * counts).sum(dim=0) / n
        return ((squares + counts * apart.square()).sum(dim=0) / n).sqrt()

    def of_long_row(self, read: Read, n: int) -> Tensor | None:
        """Return it for elements that are read a block at a time."""
        return std_of(read, n)


@attrs.frozen(cache_hash=True)
class Norm(Statistic):
    """The Euclidean norm."""

    def _of(self, *rows: Tensor) -> Tensor:
        return norms(rows[0])

    def parts(self, *tensors: Tensor) -> Tensor:
        """Return the norm."""
        return _wide(norms(self.rows(tensors[0])))[:, None]

    def joined(self, parts: Tensor) -> Tensor:
        """Join the parts: the norm of the norms."""
        joined: Tensor = torch.linalg.vector_norm(parts[:, :, 0], dim=0)
        return joined

    def of_long_row(self, read: Read, n: int) -> Tensor | None:
        """Return it for elements that are read a block at a time."""
        return norm_of(read, n)


@attrs.frozen(cache_hash=True)
class Distance(Norm):
    """The Euclidean norm `‖x − y‖` of the difference of two tensors."""

    takes: ClassVar[int] = 2

    def _of(self, *rows: Tensor) -> Tensor:
        return norms(rows[0] - rows[1])

    def parts(self, *tensors: Tensor) -> Tensor:
        """Return the norm of the difference."""
        return Norm.parts(self, tensors[0] - tensors[1])

    def of_long_rows(self, reads: Sequence[Read], n: int) -> Tensor | None:
        """Return it for two rows that are read a block at a time."""
        return distance_of((reads[0], reads[1]), n)


@attrs.frozen(cache_hash=True)
class Mean(Statistic):
    """The mean."""

    def _of(self, *rows: Tensor) -> Tensor:
        return sums(rows[0]) / rows[0].shape[1]

    def parts(self, *tensors: Tensor) -> Tensor:
        """Return the number and the sum."""
        rows = self.rows(tensors[0])
        total = _wide(sums(rows))
        return torch.stack([torch.full_like(total, rows.shape[1]), total], dim=1)

    def joined(self, parts: Tensor) -> Tensor:
        """Join the parts: the sum over the number."""
        counts, totals = parts.unbind(dim=2)
        return totals.sum(dim=0) / counts.sum(dim=0)


@attrs.frozen(cache_hash=True)
class Inner(Statistic):
    """The inner product `Σ xᵢ·yᵢ` of two tensors."""

    takes: ClassVar[int] = 2

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return it for two tensors `[B, ...]` of one shape."""
        self.check_count(tensors)
        x, y = tensors
        return self._sums(x, y).view(self.shape(x.shape))

    def parts(self, *tensors: Tensor) -> Tensor:
        """Return the inner product."""
        x, y = tensors
        return _wide(self._sums(x, y))[:, None]

    def _sums(self, x: Tensor, y: Tensor) -> Tensor:
        """Return it as `[R]`."""
        if self.is_of_samples and x.shape == y.shape:
            return products(self.rows(x), self.rows(y))
        return sums(self.rows(x * y))

    def joined(self, parts: Tensor) -> Tensor:
        """Join the parts: their sum."""
        return parts[:, :, 0].sum(dim=0)

    def of_long_rows(self, reads: Sequence[Read], n: int) -> Tensor | None:
        """Return it for two rows that are read a block at a time."""
        return product_of((reads[0], reads[1]), n)


def _check_q(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigurationError(f"Quantile: q must lie in [0, 1]; got {brief(value)}.")


@attrs.frozen(cache_hash=True)
class Quantile(Statistic):
    """A quantile, interpolated linearly between the two nearest elements; optionally of absolute values.

    It cannot be computed from pieces.
    """

    q: float = attrs.field(default=0.5, validator=_check_q, kw_only=True)
    "The share of elements that lie below it."
    absolute: bool = attrs.field(default=False, kw_only=True)
    "Whether to use absolute values."

    joins: ClassVar[bool] = False

    def _of(self, *rows: Tensor) -> Tensor:
        # torch.quantile refuses more than 16 million elements, and sorts; two order statistics are enough.
        values = rows[0].abs() if self.absolute else rows[0]
        if self.q in (0, 1):
            return values.amax(dim=1) if self.q else values.amin(dim=1)
        place = self.q * (values.shape[1] - 1)
        low = int(place)
        found = values.kthvalue(low + 1, dim=1).values
        if place != low:
            found = torch.lerp(found, values.kthvalue(low + 2, dim=1).values, place - low)
        return torch.where(values.isnan().any(dim=1), torch.nan, found)


def kept_parts(statistic: Statistic, tensors: tuple[Tensor, ...], parts: Tensor) -> Tensor:
    """Return a statistic of which the parts of all pieces are known, shaped and typed as of one tensor."""
    like = tensors[0]
    joined = statistic.joined(parts).to(accumulation_dtype(like))
    return joined.view(statistic.shape(tuple(like.shape)))


def std(x: Tensor, over: Over = "sample") -> Tensor:
    """Return the standard deviation (of the population) of `x` `[B, ...]`, with the dimensions kept."""
    return _STD(x) if over == "sample" else Std(over)(x)


def norm(x: Tensor, over: Over = "sample") -> Tensor:
    """Return the Euclidean norm of `x` `[B, ...]`, with the dimensions kept."""
    return _NORM(x) if over == "sample" else Norm(over)(x)


def inner(x: Tensor, y: Tensor, over: Over = "sample") -> Tensor:
    """Return the inner product `Σ xᵢ·yᵢ` of two tensors `[B, ...]` of the same shape, with the dimensions kept."""
    return Inner(over)(x, y)


_STD, _NORM = Std(), Norm()


def ratio(numerator: Tensor, denominator: Tensor, share: float | Tensor = 1.0) -> Tensor:
    """Return `share·numerator/denominator + 1 − share` of two statistics, and 1 where the denominator is 0.

    A `share` below 1 applies only part of the ratio: at 0 the result is 1.
    """
    if type(share) is not float:
        quotient = (numerator / denominator) * share + (1 - share)
    elif share == 1.0:
        quotient = numerator / denominator
    else:
        rest = _rest(share, numerator)
        quotient = rest.addcdiv(numerator, denominator, value=share)
    return quotient.nan_to_num_(1.0, 1.0, 1.0)


def _rest(share: float, beside: Tensor) -> Tensor:
    """Return `1 − share` as a scalar tensor; kept as `arithmetic.scalar` keeps its own, by device."""
    if type(beside) is not Tensor:
        return torch.tensor(1.0 - share, dtype=beside.dtype, device=beside.device)
    kept = _kept_rest(share, beside.dtype, beside.device)
    if type(kept) is not Tensor:  # a mode is on all the same
        _kept_rest.cache_clear()
    return kept


@functools.lru_cache(maxsize=256)
def _kept_rest(share: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it outlives the mode it is made in
        return torch.tensor(1.0 - share, dtype=dtype, device=device)
