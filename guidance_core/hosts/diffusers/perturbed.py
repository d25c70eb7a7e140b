"""A branch's perturbations in a model of diffusers: by the model's own arguments where it has them, else by hooks.

with perturbed(transformer, branch) as arguments:
    made = transformer(**inputs, **arguments)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch.nn import Module

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers.anatomy import anatomy_of, unwrapped
from guidance_core.hosts.diffusers.changes import Placed, actions_of, by_block, kinds_of
from guidance_core.hosts.diffusers.switches import Action, switched
from guidance_core.hosts.ltx2_flags import flags_of
from guidance_core.methods.capabilities import Capabilities
from guidance_core.methods.perturbations import (
    IsolateOutputs,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
)
from guidance_core.methods.requests import Branch
from guidance_core.steps.bound_branch import BoundBranch


@attrs.frozen
class Plan:
    """What a branch's perturbations are in a model."""

    arguments: Mapping[str, Any]
    "Of the model's own."
    actions: Mapping[Module, Action]
    "Of its modules."


@contextlib.contextmanager
def perturbed(model: Any, branch: Branch | BoundBranch) -> Iterator[Mapping[str, Any]]:
    """Make a model of diffusers apply a branch's perturbations inside the block, in this thread only.

        with perturbed(transformer, branch) as arguments:
            made = transformer(**inputs, **arguments)

    After the block the model is as it was, even if the block fails. Give the model the inputs of one branch: branches
    with different perturbations need a block, and a call of the model, for each.

    Args:
        model: a transformer or a U-Net, with or without LoRA.
        branch: a branch that a denoiser gets, or that a plugin makes.

    Returns:
        Additional arguments for the model; most models need none.

    Raises:
        ConfigurationError: the model cannot make one of the perturbations, or is already perturbed.
        DenoiserError: when the model is called, if torch does not compute the attention to change.
    """
    with changed(model, branch.perturbations) as arguments:
        yield arguments


@contextlib.contextmanager
def changed(model: Any, perturbations: Sequence[Perturbation]) -> Iterator[Mapping[str, Any]]:
    """Have a model make perturbations inside the block, as `perturbed` says; without any, nothing is looked at."""
    if not perturbations:
        yield {}
        return
    plan = plan_of(model, perturbations)
    with switched(plan.actions) if plan.actions else contextlib.nullcontext():
        yield plan.arguments


def capabilities_of(model: Any) -> Capabilities:
    """Return what a model of diffusers can do inside `perturbed`, for `guidance.start(supports=...)`.

    Raises:
        ConfigurationError: the library does not know its blocks.
    """
    anatomy = anatomy_of(model)
    return _ModelCapabilities(kinds_of(anatomy), blocks=anatomy.counts, models=(), also=(), model=model)


@attrs.frozen(eq=False)
class _ModelCapabilities(Capabilities):
    """What the model at hand can do, its processors and wrappers considered."""

    model: Any = attrs.field(kw_only=True)

    def __call__(self, branch: Branch) -> str | None:
        """Return why the model cannot run a pass; None if it can."""
        reason = super().__call__(branch)
        if reason is None and branch.perturbations:
            try:
                plan_of(self.model, branch.perturbations)
            except ConfigurationError as error:
                return str(error).rstrip(".")
        return reason


def plan_of(model: Any, perturbations: Iterable[Perturbation]) -> Plan:
    """Return what perturbations are in a model.

    Raises:
        ConfigurationError: it cannot make one of them.
    """
    anatomy = anatomy_of(model)
    placed = [(each, anatomy.places(each)) for each in perturbations]
    by_block(placed, anatomy)  # raises where two cannot be made together
    kinds = {type(each).__name__: each for each in unwrapped(model)}
    arguments: Mapping[str, Any] = {}
    for kind, own in OWN_ARGUMENTS.items():
        if kind in kinds:
            arguments, placed = own(kinds[kind].config, placed)
    acting = actions_of(placed, anatomy)
    if acting:
        _check_hooks_are_seen(model, acting)
    return Plan(arguments, acting)


def _check_hooks_are_seen(model: Any, acting: Iterable[Module]) -> None:
    """Refuse a model that may run a module without its hooks, or more often than once."""
    kind = type(model).__name__
    own = list(unwrapped(model))
    if any(hasattr(each, "_orig_mod") for each in own) or any(
        getattr(each, "_compiled_call_impl", None) is not None for each in (*own, *acting)
    ):
        raise ConfigurationError(
            f"{kind} is compiled, so that the hooks which perturb it might not be seen; give the model as it was "
            "before torch.compile, or a stack that perturbs nothing."
        )
    if any(getattr(each, "is_cache_enabled", False) is True for each in own):
        raise ConfigurationError(
            f"{kind} has a cache, which may leave out the blocks to perturb; call disable_cache() first."
        )
    if torch.is_grad_enabled() and any(getattr(each, "gradient_checkpointing", False) is True for each in own):
        raise ConfigurationError(
            f"{kind} runs its blocks again in the backward pass, when it is not perturbed any more; call "
            "disable_gradient_checkpointing(), or run it without gradients."
        )


# By the model's own arguments.


def _of_sd3(config: Any, placed: Placed) -> tuple[Mapping[str, Any], Placed]:
    skipped = {block.number for change, blocks in placed if type(change) is SkipBlocks for block in blocks}
    rest = [each for each in placed if type(each[0]) is not SkipBlocks]
    return ({"skip_layers": sorted(skipped)} if skipped else {}), rest


def _of_ltx2(config: Any, placed: Placed) -> tuple[Mapping[str, Any], Placed]:
    isolated = [each for each in placed if each[0] == IsolateOutputs()]
    arguments: dict[str, Any] = {"isolate_modalities": True} if isolated else {}
    skipping = [each for each in placed if type(each[0]) is SkipSelfAttention]
    try:
        blocks = flags_of([change for change, _ in skipping], config).blocks
    except ConfigurationError:  # in some of the streams only, for example
        skipping = []
    else:
        arguments |= {"spatio_temporal_guidance_blocks": list(blocks)} if blocks else {}
    taken = [*isolated, *skipping]
    return arguments, [each for each in placed if each not in taken]


OWN_ARGUMENTS: Mapping[str, Callable[[Any, Placed], tuple[Mapping[str, Any], Placed]]] = {
    "LTX2VideoTransformer3DModel": _of_ltx2,
    "SD3Transformer2DModel": _of_sd3,
}
"Get the configuration and the changes; return the arguments and the changes that need hooks. By the model's class."
