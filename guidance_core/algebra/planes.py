"""Predictions as planes of rows and columns, `[N, M, H, W]`, for methods that look at frequencies."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from guidance_core.errors import ConfigurationError


def planes(x: Tensor, grid: Sequence[int] | None = None) -> Tensor:
    """Return a prediction as planes `[N, M, H, W]`: a view, if its memory layout allows it.

    N is B, or a multiple of B if tokens hold several frames. The planes of one sample are then next to each other.

    Args:
        x: `[B, C, H, W]` or `[B, C, F, H, W]`, whose last two dimensions are rows and columns. With a grid it may also
            be tokens, `[B, S, C]` or `[B, ..., S, C]`, in order of rows, and of frames if S is a multiple of H·W.
        grid: H and W of the tokens.

    Raises:
        ConfigurationError: the grid is missing, or does not fit.
    """
    if _shows_planes(x, grid):
        return x.reshape(x.shape[0], -1, *x.shape[-2:])
    shape = list(x.shape)
    if grid is None:
        raise ConfigurationError(
            f"a prediction of shape {shape} has no dimensions for rows and columns. Give the grid of its tokens, such "
            "as grid=[64, 96] for [B, S, C] with 64 rows of 96 tokens."
        )
    height, width = grid
    if x.ndim < 3 or x.shape[-2] % (height * width):
        raise ConfigurationError(
            f"grid=[{height}, {width}] does not fit a prediction of shape {shape}: of [B, S, C], S must be {height} * "
            f"{width} = {height * width}, or that for each frame."
        )
    return x.reshape(-1, height, width, x.shape[-1]).permute(0, 3, 1, 2)


def from_planes(given: Tensor, like: Tensor, grid: Sequence[int] | None = None) -> Tensor:
    """Return planes in the shape of `like`: the inverse of `planes(like, grid)`."""
    if not _shows_planes(like, grid):
        given = given.permute(0, 2, 3, 1)
    return given.reshape(like.shape)


def _shows_planes(x: Tensor, grid: Sequence[int] | None) -> bool:
    return x.ndim >= 4 and (grid is None or tuple(x.shape[-2:]) == tuple(grid))
