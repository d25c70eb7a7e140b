"""A mixin that has sglang's `DenoisingStage` guided by a stack of methods.

The engine's own method still runs each pass: it is handed one branch at a time, as if that were all that a request
asks for. So whatever an engine's model does around a pass (forward context, slicing, its own overrides) stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors import Executor, Shards
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.levels import Levels, levels_of
from guidance_core.hosts.engine import NEGATIVE, POSITIVE, Request, check_order, over, tensors_of
from guidance_core.hosts.versions import tell_untested_host
from guidance_core.methods.capabilities import Capabilities
from guidance_core.methods.requests import Branch
from guidance_core.steps.bound_branch import BoundBranch

KEPT = "guidance_core"
"Where a request keeps its run, in `batch.extra`."

Stack = str | Guidance | Sequence[Any]


class GuidedDenoising:
    """Mixin for sglang's `DenoisingStage` and what derives from it without a guidance of its own.

        class Stage(GuidedDenoising, DenoisingStage):
            stack = "cfg:scale=4,interval:lo=0.2,hi=0.8"

    A request without classifier-free guidance is left to sglang. With `--enable-cfg-parallel` the branches are spread
    over the CFG ranks; a rank without a branch runs no forward. Pieces of a sequence are measured as one.
    """

    stack: ClassVar[Stack | None] = None
    "A spec, a `Guidance` or a list of plugins, for all requests."
    capabilities: ClassVar[Capabilities] = Capabilities()
    "What the model can do beside plain passes; by default nothing."
    outputs: ClassVar[tuple[str, ...]] = ()
    "Names of the model's outputs, where it has several."

    def __init_subclass__(cls, **given: Any) -> None:
        """Refuse a class in which the mixin has no effect."""
        super().__init_subclass__(**given)
        check_order(cls, GuidedDenoising, "DenoisingStage")

    # What a subclass may change.

    def stack_for(self, batch: Any) -> Stack | None:
        """Return what guides a request, or None to leave it to sglang.

        Override it to use what the request says: `return f"cfg:scale={batch.guidance_scale},gate"`.
        """
        return self.stack

    def supports(self, branch: Branch) -> str | None:
        """Return why the model cannot run a pass; None if it can."""
        return self.capabilities(branch)

    def guides(self, ctx: Any, batch: Any) -> bool:
        """Whether a request is guided: where it has classifier-free guidance, and so both texts."""
        return bool(batch.do_classifier_free_guidance)

    def levels_for(self, ctx: Any) -> Levels:
        """Return the noise levels of a request; override it for a scheduler that is not known."""
        return levels_of(ctx.scheduler)

    def shards_for(self, ctx: Any, batch: Any) -> Shards | None:
        """Return the pieces of a sequence that sglang split; None where this rank has all of it.

        Raises:
            ConfigurationError: how it is split does not show in the shapes.
        """
        if not getattr(batch, "did_sp_shard_latents", False):
            return None
        from sglang.multimodal_gen.runtime.distributed.parallel_state import get_sp_group

        group = get_sp_group().device_group
        mine, whole = tuple(ctx.latents.shape), tuple(batch.raw_latent_shape)
        split = [dim for dim, (part, full) in enumerate(zip(mine, whole, strict=False)) if part != full]
        if len(mine) != len(whole) or len(split) != 1 or split[0] == 0:
            raise ConfigurationError(
                f"a rank holds latents of shape {mine}, all ranks together {whole}; the dimension along which "
                "they are split cannot be determined. Override shards_for in the stage."
            )
        dim = split[0]
        padded = {"output": whole[dim]} if mine[dim] * group.size() != whole[dim] else None
        return Shards(group, {"output": dim}, padded)

    def passes_of(self, ctx: Any) -> dict[str, Any]:
        """Return sglang's description of the pass of each condition that a request has."""
        return _passes(ctx.cfg_policy)

    def executor_for(self, server_args: Any) -> str | Executor:
        """Return what runs the branches: `all_gather` over sglang's CFG ranks, where there are several."""
        if not server_args.enable_cfg_parallel:
            return "serial"
        from sglang.multimodal_gen.runtime.distributed.parallel_state import get_cfg_group

        return over(get_cfg_group().device_group)

    # What sglang calls.

    def _before_denoising_loop(self, ctx: Any, batch: Any, server_args: Any) -> None:
        """Start the request's run, so that what is wrong with it shows before the first forward."""
        super()._before_denoising_loop(ctx, batch, server_args)  # type: ignore[misc]
        batch.extra.pop(KEPT, None)
        stack = self.stack_for(batch) if self.guides(ctx, batch) else None
        if stack is None:
            return
        tell_untested_host("sglang")
        if getattr(self, "_cache_dit_enabled", False):
            raise ConfigurationError(
                "Cache-DiT counts the passes of a step, which a stack of methods changes; turn one of the two off."
            )
        levels = self.levels_for(ctx)
        if len(levels.evaluations) != len(ctx.timesteps):
            raise ConfigurationError(
                f"the loop has {len(ctx.timesteps)} evaluations, its scheduler {type(ctx.scheduler).__name__} has "
                f"{len(levels.evaluations)}. Override levels_for in the stage."
            )
        passes = self.passes_of(ctx)
        batch.extra[KEPT] = Request.start(
            stack,
            levels,
            conditions=tuple(passes),
            executor=self.executor_for(server_args),
            shards=self.shards_for(ctx, batch),
            supports=self.supports,
            outputs=self.outputs or None,
            given=lambda: {name: tensors_of(each.kwargs) for name, each in passes.items()},
        )

    def _predict_noise_with_cfg(self, **given: Any) -> Any:
        """Return the guided prediction of one evaluation."""
        own = super()._predict_noise_with_cfg  # type: ignore[misc]
        request = getattr(given["batch"], "extra", {}).get(KEPT)
        if not isinstance(request, Request):
            return own(**given)
        latents = given["latents"]
        passes = _passes(given["cfg_policy"])
        given |= {"cfg_gate_state": None, "server_args": OneRank(given["server_args"])}

        def denoise(branch: BoundBranch) -> Tensor:
            of = passes[branch.condition]
            inputs = {name: _at(value, latents.device) for name, value in branch.amend(of.kwargs).items()}
            policy = _OnePass([dataclasses.replace(of, name=branch.name, kwargs=inputs)])
            made: Tensor = own(**{**given, "cfg_policy": policy})
            return made

        experts = getattr(self, "transformer_2", None) is not None
        model = "transformer_2" if experts and given["current_model"] is self.transformer_2 else "transformer"  # type: ignore[attr-defined]
        return request.evaluate(given["timestep_index"], latents, denoise, model=model if experts else None)

    def _finalize_denoising_loop(self, ctx: Any, batch: Any, server_args: Any) -> None:
        """Let go of the run."""
        batch.extra.pop(KEPT, None)
        super()._finalize_denoising_loop(ctx, batch, server_args)  # type: ignore[misc]


@dataclasses.dataclass
class _OnePass:
    """A policy with one pass, whose prediction is the result."""

    branches: list[Any]

    def combine(self, predictions: Sequence[Any], *given: Any, **named: Any) -> Any:
        return predictions[0]


class OneRank:
    """The server's arguments, but that a pass is not spread over CFG ranks: the stack's executor does that."""

    enable_cfg_parallel = False

    def __init__(self, server_args: Any) -> None:
        self._own = server_args

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def _passes(policy: Any) -> dict[str, Any]:
    return {POSITIVE if each.is_conditional else NEGATIVE: each for each in reversed(policy.branches)}


def _at(value: Any, device: torch.device) -> Any:
    """Return an input on this rank's device: those that CFG rank 0 broadcast are on its own."""
    return value.to(device) if isinstance(value, Tensor) else value
