"""FDG: a Laplacian pyramid written out with a table of weights for each side, after kornia's construction."""

import itertools

import torch
from hypothesis import strategies as st

from guidance_plugins import FDG
from oracles import Oracle, inner

BINOMIAL = (1, 4, 6, 4, 1)


def mirrored(place, size):
    return size - 1 - abs(size - 1 - abs(place))


def blur(size):
    """The matrix that blurs a line of that length."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for offset, weight in enumerate(BINOMIAL):
            matrix[row, mirrored(row + offset - 2, size)] += weight / 16
    return matrix


def halving(size):
    """The matrix that averages pairs."""
    return torch.eye(size // 2, dtype=torch.float64).repeat_interleave(2, dim=1) / 2


def doubling(size):
    """The matrix that interpolates a line of that length to twice as many, whose centres lie between its own."""
    matrix = torch.zeros(2 * size, size, dtype=torch.float64)
    for row in range(2 * size):
        centre = (row + 0.5) / 2 - 0.5
        low = int(centre // 1)
        for place, weight in ((low, 1 - (centre - low)), (low + 1, centre - low)):
            matrix[row, min(max(place, 0), size - 1)] += weight
    return matrix


def down(x):
    rows, columns = (halving(size) @ blur(size) for size in x.shape[-2:])
    return rows @ x @ columns.mT


def up(x):
    rows, columns = (blur(2 * size) @ doubling(size) for size in x.shape[-2:])
    return rows @ x @ columns.mT


def padded(x, count):
    sides = x.shape[-2:]
    halves = 2 ** (count - 1)
    powers = [2 ** (side - 1).bit_length() for side in sides]
    if not any(side == power for side, power in zip(sides, powers, strict=True)) or any(s % halves for s in sides):
        rows, columns = ([mirrored(at, s) for at in range(p)] for s, p in zip(sides, powers, strict=True))
        x = x[..., rows, :][..., columns]
    return x


def pyramid(x, count):
    levels = [padded(x, count)]
    for _ in range(count - 1):
        levels.append(down(levels[-1]))
    return [level - up(after) for level, after in itertools.pairwise(levels)] + levels[-1:]


def formula(facts, predictions, scales, parallel, zero_star, form):
    c, u = predictions["cond"], predictions["uncond"]
    if zero_star:
        u = inner(c, u) / (inner(u, u) + 1e-8) * u
    shape = c.shape
    c, u = (x.reshape(shape[0], -1, *shape[-2:]) for x in (c, u))
    sides = c.shape[-2:]
    parts = []
    for s, w, c_k, u_k in zip(scales, parallel, pyramid(c, len(scales)), pyramid(u, len(scales)), strict=True):
        d = c_k - u_k
        along = inner(d, c_k) / inner(c_k, c_k) * c_k
        d = d - along + w * along
        parts.append(c_k + (s - 1) * d if form == "paper" or s == 1 else u_k + s * d)
    total = parts.pop()
    while parts:
        total = up(total) + parts.pop()
    return total[..., : sides[0], : sides[1]].reshape(shape)


def parameters(bands):
    return st.fixed_dictionaries(
        {
            "scales": st.lists(st.sampled_from([0.0, 1.0, 2.5, 10.0]), min_size=bands, max_size=bands),
            "parallel": st.lists(st.sampled_from([1.0, 0.5, 0.0]), min_size=bands, max_size=bands)
            | st.just([1.0] * bands),
            "zero_star": st.booleans(),
            "form": st.sampled_from(["paper", "diffusers"]),
        }
    )


ORACLE = Oracle(
    stack=lambda **given: [FDG(**given)],
    formula=formula,
    parameters=st.integers(1, 2).flatmap(parameters),
    shapes=((2, 4, 8, 8), (1, 2, 5, 7), (3, 2, 3, 4, 6)),
    units=512,
)
