"""What adapters to engines have in common: a request's run, its noise levels, and the engine's guidance ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors import AllGatherExecutor, Denoiser, Executor, Shards
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.levels import Levels
from guidance_core.methods.capabilities import Supports
from guidance_core.run import Run

POSITIVE, NEGATIVE = "positive", "negative"


@attrs.define
class Request:
    """A request of an engine that is guided: its run, and what its sampler's evaluations are."""

    run: Run
    levels: Levels

    @classmethod
    def start(
        cls,
        stack: str | Guidance | Sequence[Any],
        levels: Levels,
        *,
        conditions: Sequence[str] = (POSITIVE, NEGATIVE),
        executor: str | Executor = "serial",
        shards: Shards | None = None,
        supports: Supports | None = None,
        outputs: Sequence[str] | None = None,
        given: Callable[[], Mapping[str, Any]] | None = None,
    ) -> Request:
        """Start the run of a request.

        Args:
            stack: a spec, a `Guidance`, or a list of plugins.
            levels: of the request's scheduler.
            conditions: which the request has; the host looks their inputs up itself.
            executor: as of `Guidance.start`, like all that follow.
            shards: the ranks that hold pieces of the sequence.
            supports: what the model can do.
            outputs: names of the model's outputs, where it has several.
            given: what else every rank must be given equally.

        Raises:
            ConfigurationError: the stack cannot be used for this request, such as one that needs a condition which the
                request does not have.
        """
        if isinstance(stack, str):
            guidance = Guidance.from_spec(stack)
        else:
            guidance = stack if isinstance(stack, Guidance) else Guidance(stack)
        run = guidance.start(
            conditions={name: {} for name in conditions},
            sigmas=levels.sigmas,
            alphas=levels.alphas,
            prediction_type=levels.prediction_type,
            executor=executor,
            shards=shards,
            supports=supports,
            outputs=outputs,
            given=given,
        )
        return cls(run, levels)

    def evaluate(self, number: int, sample: Any, denoise: Denoiser, *, model: str | None = None) -> Any:
        """Return the guided prediction of the sampler's evaluation `number`, from 0."""
        if not 0 <= number < len(self.levels.evaluations):
            raise ConfigurationError(
                f"the engine evaluates its model more often than its scheduler has timesteps "
                f"({len(self.levels.evaluations)}): this is evaluation {number + 1}."
            )
        step, sigma, alpha = self.levels.evaluations[number]
        is_own = number == 0 or self.levels.evaluations[number - 1][0] != step
        levels: dict[str, Any] = {} if is_own else {"sigma": sigma, "alpha": alpha}
        return self.run.step(step, sample, denoise, model=model, **levels)


@functools.lru_cache(maxsize=8)
def over(group: Any) -> Executor:
    """Return the executor that spreads branches over a process group, the same one for all requests."""
    return AllGatherExecutor(group)


def check_order(kind: type, mixin: type, host: str) -> None:
    """Refuse a class in which the host's own guidance comes before the mixin, which would change nothing.

    Raises:
        ConfigurationError: it does.
    """
    order = kind.__mro__
    names = [each.__name__ for each in order]
    if host in names and names.index(host) < order.index(mixin):
        raise ConfigurationError(
            f"{kind.__name__} names {mixin.__name__} after {host}, so that it would have no effect; name it first: "
            f"class {kind.__name__}({mixin.__name__}, {host})."
        )


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors among a pass's inputs, those in lists, tuples and dicts too, to be compared between ranks."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [each for inner in value.values() for each in tensors_of(inner)]
    if isinstance(value, list | tuple):
        return [each for inner in value for each in tensors_of(inner)]
    return []
