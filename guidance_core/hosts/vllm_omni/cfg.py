"""A mixin that has vLLM-Omni's pipelines with `CFGParallelMixin` guided by a stack of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.levels import Levels, levels_of
from guidance_core.hosts.engine import NEGATIVE, POSITIVE, Request, check_order, over, tensors_of
from guidance_core.hosts.versions import tell_untested_host
from guidance_core.methods.capabilities import Capabilities
from guidance_core.steps.bound_branch import BoundBranch

Stack = str | Guidance | Sequence[Any]


@attrs.frozen(eq=False)
class _Kept:
    """A request's run, and what it is known by."""

    scheduler: Any
    timesteps: Any
    request: Request


class GuidedCFG:
    """Mixin for vLLM-Omni's pipelines with `CFGParallelMixin`.

        class Pipeline(GuidedCFG, QwenImagePipeline):
            stack = "cfg:scale=4,normalize:form=match"

    The pipeline's loop stays as it is; its scheduler says where a request is. A request without classifier-free
    guidance is left to the pipeline. On CFG ranks the branches are spread over them, and a rank without a branch runs
    no forward.
    """

    stack: ClassVar[Stack | None] = None
    "A spec, a `Guidance` or a list of plugins, for all requests."
    capabilities: ClassVar[Capabilities] = Capabilities()
    "What the model can do beside plain passes; by default nothing."

    def __init_subclass__(cls, **given: Any) -> None:
        """Refuse a class in which the mixin has no effect."""
        super().__init_subclass__(**given)
        check_order(cls, GuidedCFG, "CFGParallelMixin")

    # What a subclass may change.

    def stack_for(self, scale: float, normalize: bool) -> Stack | None:
        """Return what guides a request, or None to leave it to the pipeline.

        Override it to use what the request says: `return f"cfg:scale={scale},gate"`.
        """
        return self.stack

    def levels_for(self, scheduler: Any) -> Levels:
        """Return the noise levels of a request; override it for a scheduler that is not known."""
        return levels_of(scheduler)

    def sample_of(self, inputs: Mapping[str, Any], output_slice: int | None) -> Tensor:
        """Return the sample that is denoised, out of the model's inputs.

        Override it where a pipeline concatenates something to it, other than the image tokens that it slices off.
        """
        sample: Tensor = inputs["hidden_states"]
        return sample if output_slice is None else sample[:, :output_slice]

    def executor_for_ranks(self) -> str | Executor:
        """Return what runs the branches: `all_gather` over the CFG ranks, where there are several."""
        from vllm_omni.diffusion.distributed import parallel_state

        if not parallel_state.is_cfg_group_initialized():
            return "serial"
        group = parallel_state.get_cfg_group()
        return over(group.device_group) if group.world_size > 1 else "serial"

    # What vLLM-Omni calls.

    def predict_noise_maybe_with_cfg(
        self,
        do_true_cfg: bool,
        true_cfg_scale: float,
        positive_kwargs: dict[str, Any],
        negative_kwargs: dict[str, Any] | None,
        cfg_normalize: bool = True,
        output_slice: int | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the guided prediction of one evaluation."""
        stack = self.stack_for(true_cfg_scale, cfg_normalize) if do_true_cfg else None
        if stack is None:
            more = {} if kwargs is None else {"kwargs": kwargs}
            return super().predict_noise_maybe_with_cfg(  # type: ignore[misc]
                do_true_cfg, true_cfg_scale, positive_kwargs, negative_kwargs, cfg_normalize, output_slice, **more
            )
        conditions = {POSITIVE: positive_kwargs} | ({} if negative_kwargs is None else {NEGATIVE: negative_kwargs})

        def denoise(branch: BoundBranch) -> Tensor:
            made = self.predict_noise(**branch.amend(conditions[branch.condition]))  # type: ignore[attr-defined]
            if not isinstance(made, Tensor):
                raise ConfigurationError(
                    f"{type(self).__name__} returns {type(made).__name__} of a pass; GuidedCFG guides pipelines that "
                    "return one tensor, without pipeline parallelism."
                )
            return made if output_slice is None else made[:, :output_slice]

        request, number = self._request(stack, conditions)
        return request.evaluate(number, self.sample_of(positive_kwargs, output_slice), denoise)

    def denoise_step(self, *given: Any, **named: Any) -> Any:
        """Refuse step-wise execution, whose batches hold requests at different steps.

        Raises:
            ConfigurationError: the pipeline is guided.
        """
        if self.stack is not None:
            raise ConfigurationError(
                f"{type(self).__name__} is guided, and step-wise execution puts requests at different steps in one "
                "batch; serve it with request-level execution."
            )
        return super().denoise_step(*given, **named)  # type: ignore[misc]

    def _request(self, stack: Stack, conditions: Mapping[str, Mapping[str, Any]]) -> tuple[Request, int]:
        """Return the request's run and the number of this evaluation; a run begins where the scheduler does."""
        scheduler = self.scheduler  # type: ignore[attr-defined]
        if not hasattr(scheduler, "step_index"):
            raise ConfigurationError(
                f"the scheduler {type(scheduler).__name__} does not say at which step it is (step_index), so that a "
                "request cannot be followed; use another scheduler."
            )
        index, timesteps = scheduler.step_index, scheduler.timesteps
        kept: _Kept | None = self.__dict__.get("_guided")
        if index is None or kept is None or kept.scheduler is not scheduler or kept.timesteps is not timesteps:
            tell_untested_host("vllm-omni")
            request = Request.start(
                stack,
                self.levels_for(scheduler),
                conditions=tuple(conditions),
                executor=self.executor_for_ranks(),
                supports=self.capabilities,
                given=lambda: {name: tensors_of(each) for name, each in conditions.items()},
            )
            kept = self.__dict__["_guided"] = _Kept(scheduler, timesteps, request)
        if index is None:
            index = getattr(scheduler, "begin_index", None) or 0
        return kept.request, int(index)
