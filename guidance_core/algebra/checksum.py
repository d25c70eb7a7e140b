"""Checksums of tensors' bits: computed where the tensors are, at the speed of memory, and read when they are wanted.

The words of 32 bits of a tensor, in the order of its elements, make `Σ wᵢ·xᵢ mod 2⁶⁴` with fixed odd weights, in blocks
whose sums are added up in the same way. Equal bits of equal shape have equal sums on every device, however they
lie in memory. A change of one word always changes the sum; other changes go unseen with a chance of about 2⁻³².
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from hashlib import shake_256

import torch
from torch import Tensor

WORDS = 2**15
"Of one block: its products, 256 KiB, stay in a processor's cache."
PIECE = 2**24
"Bytes that are copied at once of a tensor that is not contiguous, and multiplied at once on a device."


def checksum(tensor: Tensor) -> Tensor:
    """Return what stands for a tensor's bits: `[]` int64, on its device; nothing is waited for.

    Takes every dtype and layout of plain tensors. Copies at most `PIECE` bytes at a time.
    """
    with torch.no_grad():
        plain = tensor.detach().as_subclass(Tensor)
        if plain.is_quantized:
            plain = plain.int_repr()
        plain = plain.resolve_conj().resolve_neg()
        return _folded([_of_words(_words(piece)) for piece in _pieces(plain)])


def parts_of(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that hold what a tensor is: itself, unless it is sparse, nested, quantized or wrapped.

    Of a DTensor that is this rank's part; of a tensor on the meta device, nothing.
    """
    if tensor.device.type == "meta":
        return []
    if tensor.is_nested:
        return [part for each in tensor.unbind() for part in parts_of(each)]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in parts_of(getattr(tensor, name))]
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.detach().coalesce()
        return [tensor.indices(), tensor.values()]
    return [tensor if tensor.layout is torch.strided else tensor.detach().to_dense()]


@functools.lru_cache(maxsize=16)
def _weights(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        made = torch.frombuffer(bytearray(shake_256(b"guidance_core").digest(8 * WORDS)), dtype=torch.int64)
        return (made | 1).to(device)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield parts of a tensor, chosen by its shape alone."""
    size = tensor.numel() * tensor.element_size()
    if size <= PIECE:
        yield tensor
        return
    row = size // tensor.shape[0]
    if row > PIECE:
        for each in tensor:
            yield from _pieces(each)
        return
    rows = PIECE // row
    for first in range(0, tensor.shape[0], rows):
        yield tensor[first : first + rows]


def _words(piece: Tensor) -> Tensor:
    flat = piece.contiguous().view(-1)
    if flat.stride(0) != 1:  # one element counts as contiguous, whatever its stride
        flat = flat.new_empty(flat.shape).copy_(flat)
    flat = flat.view(torch.uint8)
    rest = -flat.numel() % 4
    if rest:
        flat = torch.cat([flat, flat.new_zeros(rest)])
    elif flat.storage_offset() % 4:
        flat = flat.clone()
    return flat.view(torch.int32)


def _of_words(words: Tensor) -> Tensor:
    count, weights = words.numel(), _weights(words.device)
    if count <= WORDS:
        return (words * weights[:count]).sum()
    whole = count - count % WORDS
    blocks = words[:whole].view(-1, WORDS)
    if words.device.type == "cpu":  # one block after another, in the cache
        sums = [(block * weights).sum() for block in blocks]
    else:
        sums = list((blocks * weights).sum(dim=1).unbind())
    if whole < count:
        sums.append((words[whole:] * weights[: count - whole]).sum())
    return _folded(sums)


def _folded(sums: list[Tensor]) -> Tensor:
    return sums[0] if len(sums) == 1 else _of_words(torch.stack(sums).view(torch.int32))
