"""What each perturbation is in a block of a model of diffusers: which of its modules act otherwise, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.nn import Module

from guidance_core.algebra.arithmetic import accumulation_dtype
from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers import actions
from guidance_core.hosts.diffusers.actions import Attend, Seen
from guidance_core.hosts.diffusers.anatomy import Anatomy, Block
from guidance_core.hosts.diffusers.grids import GRIDS, SPATIAL, UNETS, fitted, patch_of
from guidance_core.hosts.diffusers.switches import Action
from guidance_core.methods.attention import BlurredAttention, SoftIdentityAttention
from guidance_core.methods.perturbations import (
    IdentityAttention,
    IsolateOutputs,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
)
from guidance_core.methods.randomized import DropOut, ShuffledTokens
from guidance_core.methods.sliding import SlidingWindows

Acting: TypeAlias = Iterator[tuple[Module, Action]]


def _skip(change: SkipBlocks, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    if change.output is not None:
        raise ConfigurationError(f"{block.name} is skipped for all outputs or for none; it cannot make {change}.")
    yield block.module, actions.skipping(block.module, block.form.returns)


def _identity(change: Perturbation, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    for _, attention in _attentions(change, block):
        yield attention, actions.attending(attention, actions.values, block.name)


def _soft_identity(change: SoftIdentityAttention, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    def mixed(query: Tensor, key: Tensor, value: Tensor, attend: Attend) -> Tensor:
        return change.mixed(attend(query, key, value), actions.values(query, key, value, attend))

    for _, attention in _attentions(change, block):
        heads = getattr(attention, "heads", None)
        if change.heads and isinstance(heads, int) and change.heads[-1] >= heads:
            raise ConfigurationError(
                f"{change} acts on head {change.heads[-1]}, but {block.name} has {heads} heads, counted from 0."
            )
        yield attention, actions.attending(attention, mixed, block.name)


def _blur(change: BlurredAttention, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    kind = type(anatomy.model).__name__

    def blurring(stream: str) -> Callable[[Tensor], Tensor]:
        def blurred(queries: Tensor) -> Tensor:
            whole = GRIDS[kind](anatomy.model.config, seen.inputs)[stream]
            grid = fitted(whole, queries.shape[-2], is_halved=kind in UNETS)
            if grid is None:
                raise ConfigurationError(
                    f"{change}: the {queries.shape[-2]} tokens of {block.name} do not form the grid {whole} of the "
                    "sample; blur other blocks."
                )
            text = queries.shape[-2] - torch.Size(grid).numel()  # comes first where both share a projection
            made = change.blurred(queries[..., text:, :], grid)
            return torch.cat([queries[..., :text, :], made], dim=-2) if text else made

        return blurred

    for stream, attention in _attentions(change, block):
        projection = getattr(attention, "to_q", None)
        if not isinstance(projection, Module) or getattr(attention, "fused_projections", False):
            raise ConfigurationError(
                f"{block.name} makes queries, keys and values at once, so that {change} cannot blur its queries; call "
                "unfuse_qkv_projections() of the model or the pipeline first."
            )
        yield projection, actions.after(blurring(stream))


def _shuffle(change: ShuffledTokens, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    if block.form.is_united:
        raise ConfigurationError(
            f"{block.name} gets the tokens of picture and text as one sequence, so that {change} would mix them; "
            "shuffle the tokens of other blocks."
        )
    for stream in block.self_attentions(change.output):
        name = "audio_hidden_states" if stream == "audio" else "hidden_states"

        def shuffled(x: Tensor) -> Tensor:
            return change.shuffled(x, block.place)

        yield block.module, actions.before(block.module, name, shuffled)


def _drop(change: DropOut, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    def dropping(part: str) -> Callable[[Any], Any]:
        def dropped(made: Any) -> Any:
            if isinstance(made, Tensor):
                return change.dropped(made, block.place, part)
            return tuple(
                change.dropped(x, block.place, f"{part} {place}") if isinstance(x, Tensor) else x
                for place, x in enumerate(made)
            )

        return dropped

    for part, module in block.added(change.output).items():
        yield module, actions.after(dropping(part))


def _isolate(change: IsolateOutputs, block: Block, anatomy: Anatomy, seen: Seen) -> Acting:
    for stream, name in block.form.between.items():
        if change.output in (None, stream):
            attention = getattr(block.module, name)
            yield attention, actions.blind(attention)


def _attentions(change: Perturbation, block: Block) -> list[tuple[str, Module]]:
    found = [(stream, each) for stream, given in block.self_attentions(change.output).items() for each in given]
    if not found:
        raise ConfigurationError(f"{block.name} has no self-attention, which {change} acts on.")
    return found


def windowed(change: SlidingWindows, anatomy: Anatomy) -> Action:
    """Return what a model does that sees its sample through windows."""
    name = SPATIAL[type(anatomy.model).__name__]

    def act(forward: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        inputs = actions.given(anatomy.model, arguments, named)
        if inputs.get("return_dict", True) is not False:
            raise ConfigurationError(f"{change}: call {type(anatomy.model).__name__} with return_dict=False.")
        sample: Tensor = inputs[name]
        patch = patch_of(anatomy.model.config, sample.ndim - 2)[-2:]
        sides = zip(sample.shape[-2:], patch, strict=True)
        rows, columns = ([(a * size, b * size) for a, b in change.along(side // size)] for side, size in sides)
        windows = [(..., slice(*row), slice(*column)) for row in rows for column in columns]
        total, counts = None, torch.zeros(sample.shape[-2:])
        for window in windows:
            made: Tensor = forward(**{**inputs, name: sample[window]})[0]  # the next one may overwrite it
            if total is None:
                total = made.new_zeros((*made.shape[:-2], *sample.shape[-2:]), dtype=accumulation_dtype(made))
            total[window] += made
            counts[window] += 1
        assert total is not None
        return ((total / counts.to(total, non_blocking=True)).to(made.dtype),)

    return act


@attrs.frozen
class Maker:
    """How a kind of perturbation is made."""

    acting: Callable[[Any, Block, Anatomy, Seen], Acting]
    "Yields the modules of a block that act otherwise."
    is_possible: Callable[[Anatomy], bool] = lambda anatomy: True
    "Whether a model has what it takes."
    sees_inputs: bool = False
    "Whether it depends on the inputs of the model."


def _has_grid(anatomy: Anatomy) -> bool:
    return type(anatomy.model).__name__ in GRIDS


def _has_streams(anatomy: Anatomy) -> bool:
    return bool(anatomy.outputs)


def _attends(anatomy: Anatomy) -> bool:
    return any(any(block.form.attention.values()) for blocks in anatomy.stacks.values() for block in blocks)


def _tells_apart(anatomy: Anatomy) -> bool:
    return any(not block.form.is_united for blocks in anatomy.stacks.values() for block in blocks)


def _is_spatial(anatomy: Anatomy) -> bool:
    return type(anatomy.model).__name__ in SPATIAL


BY_BLOCK: Mapping[type[Perturbation], Maker] = {
    SkipBlocks: Maker(_skip),
    SkipSelfAttention: Maker(_identity, _attends),
    IdentityAttention: Maker(_identity, _attends),
    SoftIdentityAttention: Maker(_soft_identity, _attends),
    BlurredAttention: Maker(_blur, _has_grid, sees_inputs=True),
    ShuffledTokens: Maker(_shuffle, _tells_apart),
    DropOut: Maker(_drop),
    IsolateOutputs: Maker(_isolate, _has_streams),
}
"By the class of the perturbation."


def kinds_of(anatomy: Anatomy) -> tuple[type[Perturbation], ...]:
    """Return the perturbations that a model can make by hooks."""
    kinds = [kind for kind, maker in BY_BLOCK.items() if maker.is_possible(anatomy)]
    return (*kinds, *((SlidingWindows,) if _is_spatial(anatomy) else ()))


def actions_of(changes: Placed, anatomy: Anatomy) -> dict[Module, Action]:
    """Return what the modules of a model do for perturbations in their blocks.

    Raises:
        ConfigurationError: the model cannot make one, or two of them change one part of a block differently.
    """
    seen = Seen()
    acting: dict[Module, Action] = {}
    able = kinds_of(anatomy)

    def add(module: Module, action: Action) -> None:
        acting[module] = actions.both(acting.get(module), action)

    for change, _ in changes:
        if type(change) not in able:
            raise ConfigurationError(
                f"{type(anatomy.model).__name__} cannot make the change {change}; it can make "
                f"{', '.join(kind.__name__ for kind in able)}."
            )
    if any(kind in BY_BLOCK and BY_BLOCK[kind].sees_inputs for kind in (type(change) for change, _ in changes)):
        add(anatomy.model, actions.noting(anatomy.model, seen))
    for window in dict.fromkeys(change for change, _ in changes if isinstance(change, SlidingWindows)):
        add(anatomy.model, windowed(window, anatomy))
    for block, own in by_block(changes, anatomy).items():
        for change in own:
            for module, action in BY_BLOCK[type(change)].acting(change, block, anatomy, seen):
                add(module, action)
    return acting


def by_block(changes: Placed, anatomy: Anatomy) -> dict[Block, list[Perturbation]]:
    """Return the changes of each block, each once, stream by stream.

    Raises:
        ConfigurationError: two of them change one part of a block differently.
    """
    found: dict[Block, list[Perturbation]] = {}
    for change, blocks in changes:
        for block in () if isinstance(change, SlidingWindows) else blocks:
            own = found.setdefault(block, [])
            streams = anatomy.outputs if change.output is None and not isinstance(change, SkipBlocks) else ()
            for stream in streams or (change.output,):
                _unite(attrs.evolve(change, blocks=None, stack=None, output=stream), own, block)
    return found


def _unite(change: Perturbation, own: list[Perturbation], block: Block) -> None:
    """Add a change to those of a block; a change that is there already is not added twice."""
    for number, other in enumerate(own):
        if change.collides(other) or other.collides(change):
            raise ConfigurationError(
                f"{change} and {other} change the same part of {block.name}; give them different blocks, or separate "
                "branches."
            )
        if isinstance(change, SoftIdentityAttention) and isinstance(other, SoftIdentityAttention):
            heads = None if change.heads is None or other.heads is None else (*change.heads, *other.heads)
            united = attrs.evolve(change, heads=heads)
            if united == attrs.evolve(other, heads=heads):
                own[number] = united
                return
    if change not in own:
        own.append(change)


Placed: TypeAlias = list[tuple[Perturbation, tuple[Block, ...]]]
"Perturbations with the blocks that they act on."
