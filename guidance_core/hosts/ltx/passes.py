"""What ltx-core's model is told of a pass, and which passes it can run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.methods.capabilities import Capabilities
from guidance_core.methods.perturbations import IsolateOutputs, Perturbation, SkipSelfAttention, UseCondition
from guidance_core.methods.requests import Branch
from guidance_core.steps.bound_branch import BoundBranch

OUTPUTS = ("video", "audio")
"The names of the model's two outputs, in its order."

KINDS = (SkipSelfAttention, IsolateOutputs, UseCondition)
_SKIPPED = {
    SkipSelfAttention: {"video": "SKIP_VIDEO_SELF_ATTN", "audio": "SKIP_AUDIO_SELF_ATTN"},
    IsolateOutputs: {"video": "SKIP_A2V_CROSS_ATTN", "audio": "SKIP_V2A_CROSS_ATTN"},
}
"The names of ltx-core's perturbations, by ours and the stream that they act on."


def block_count(transformer: Any) -> int | None:
    """Return how many blocks a transformer of ltx-core has; None where it does not say."""
    count = getattr(transformer, "num_blocks", None)
    if count is None:  # ltx-core 1.0
        blocks = getattr(getattr(transformer, "velocity_model", transformer), "transformer_blocks", None)
        count = None if blocks is None else len(blocks)
    return None if count is None else int(count)


@attrs.frozen(eq=False)
class Supported:
    """What a model of ltx-core can do: a function of a pass, for `guidance.start(supports=...)`."""

    outputs: tuple[str, ...]
    blocks: int | None

    def __call__(self, branch: Branch) -> str | None:
        """Return why the model cannot run a pass; None if it can."""
        for each in branch.perturbations:
            if each.output is not None and each.output not in self.outputs:
                return f"{each} acts on {each.output!r}, but what is denoised is {' and '.join(self.outputs)}"
            if isinstance(each, UseCondition) and each.blocks is not None:
                return f"{each} is meant for some blocks, but ltx-core's model gives a text to all of them"
        return Capabilities(KINDS, blocks=self.blocks, also=None)(branch)


def texts_of(branch: BoundBranch) -> dict[str, Any]:
    """Return a pass's text by output: that of its condition, or of another one where it asks for it.

    Raises:
        ConfigurationError: it has no text for an output.
    """
    texts = {output: branch.inputs.get(f"{output}_context") for output in OUTPUTS}
    for each in branch.perturbations:
        if isinstance(each, UseCondition):
            for output in OUTPUTS if each.output is None else (each.output,):
                texts[output] = branch.also[each.condition].get(f"{output}_context")
    return texts


@attrs.frozen(eq=False)
class Perturbed:
    """ltx-core's perturbations for passes, each made once in a generation."""

    transformer: Any
    _made: dict[Any, Any] = attrs.field(factory=dict, init=False)

    def config(self, passes: Sequence[Iterable[Perturbation]], like: Any) -> Any:
        """Return a `BatchedPerturbationConfig` for passes in one batch; None where nothing is perturbed.

        Args:
            passes: the perturbations of each.
            like: latents of one pass, `[B, T, C]`: their batch, device and dtype.
        """
        told = tuple(tuple(each for each in of if not isinstance(each, UseCondition)) for of in passes)
        if not any(told):
            return None
        key = told, tuple(like.shape[:1]), like.device, like.dtype
        if key not in self._made:
            self._made[key] = self._config([_config(each) for each in told for _ in range(like.shape[0])], like)
        return self._made[key]

    def _config(self, configs: list[Any], like: Any) -> Any:
        from ltx_core.guidance.perturbations import BatchedPerturbationConfig

        if getattr(self.transformer, "num_blocks", None) is None:  # ltx-core 1.0
            return BatchedPerturbationConfig(configs)
        return BatchedPerturbationConfig(
            configs, num_blocks=self.transformer.num_blocks, device=like.device, dtype=like.dtype
        )


def _config(perturbations: Iterable[Perturbation]) -> Any:
    """Return ltx-core's description of one pass."""
    from ltx_core.guidance import perturbations as theirs

    made = []
    for each in perturbations:
        names: Mapping[str, str] | None = _SKIPPED.get(type(each))
        if names is None:
            raise ConfigurationError(f"ltx-core's model has no perturbation for {each}.")
        blocks = None if each.blocks is None else list(each.blocks)
        for output in OUTPUTS if each.output is None else (each.output,):
            made.append(theirs.Perturbation(type=getattr(theirs.PerturbationType, names[output]), blocks=blocks))
    return theirs.PerturbationConfig(made)
