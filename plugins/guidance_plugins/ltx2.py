"""LTX-2's four-branch guidance of video and audio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import attrs
import torch

from guidance_core import (
    UNSET,
    Blocks,
    Branch,
    ConfigurationError,
    Hold,
    IsolateOutputs,
    Multiply,
    Needs,
    PerOutput,
    Reference,
    Scale,
    SkipSelfAttention,
    Std,
    Step,
    Table,
    Unset,
    UseCondition,
    Whole,
    blocks,
    choice,
    documented,
    hookimpl,
    number,
    settle,
    whole,
)
from guidance_plugins.rescale import rescaling


def _both(video: Any, audio: Any) -> PerOutput:
    return PerOutput({"video": video, "audio": audio})


def _preset(cfg: PerOutput, stg: float, rescale: Any, modality: float, blocks: tuple[int, ...]) -> dict[str, Any]:
    return {
        "cfg_scale": cfg,
        "stg_scale": stg,
        "rescale_scale": rescale,
        "modality_scale": modality,
        "stg_blocks": blocks,
        "skip_step": 0,
    }


Preset: TypeAlias = Literal["2.0", "2.3", "2.4", "2.3-hq", "distilled"]

_PRESETS: dict[Preset, dict[str, Any]] = {
    "2.0": _preset(_both(3.0, 7.0), 1.0, 0.7, 3.0, (29,)),
    "2.3": _preset(_both(3.0, 7.0), 1.0, 0.7, 3.0, (28,)),
    "2.4": _preset(_both(3.0, 7.0), 1.0, 0.7, 3.0, (28,)),
    "2.3-hq": _preset(_both(3.0, 7.0), 0.0, _both(0.45, 1.0), 3.0, ()),
    "distilled": _preset(_both(1.0, 1.0), 0.0, 0.0, 1.0, ()),
}


@documented
@attrs.frozen
class LTX2:
    """The guidance of LTX-2: four passes, combined per output, then rescaled in x0 space.

        guided = c + (cfg − 1)·(c − neg) + stg·(c − perturbed) + (mod − 1)·(c − modality)
        guided = guided·(rescale·std(c)/std(guided) + 1 − rescale)

    `neg` has the negative condition, `perturbed` skips self-attention in the STG blocks, and `modality` turns off the
    cross-attention between video and audio. Every scale may be a number, a value per output, or a table by sigma;
    parameters that are not given come from the preset. A pass runs if either output needs it. With `skip_step` k, an
    output is evaluated in steps divisible by k + 1 and keeps its last x0 in between. With `stg_blocks` of None the STG
    pass weakens all blocks, and with `[]` it is not run. With `negative=guided`, an output whose cfg is 1 keeps its
    positive text in the neg pass, as in vLLM-Omni; in ltx-core both outputs get the negative text. Further evaluations
    of a held step (a res2s or Heun midpoint) are held too; with `midpoints=evaluated` they are run, as in
    ltx-pipelines. The std is per sample, as in diffusers; in ltx-core it is that of the batch.

    Source: ltx-core, `MultiModalGuider`; rescale: arXiv:2305.08891 §3.4; STG: arXiv:2411.18664.
    """

    family: ClassVar[str] = "other"
    presets: ClassVar[Mapping[Preset, Mapping[str, Any]]] = _PRESETS
    neutral: ClassVar[Mapping[str, float]] = {
        "cfg_scale": 1.0,
        "stg_scale": 0.0,
        "modality_scale": 1.0,
        "rescale_scale": 0.0,
    }

    values_to_try: ClassVar[Mapping[str, tuple[Any, ...]]] = {"cfg_scale": (4.0, _both(3.0, 1.0), _both(1.0, 7.0))}

    preset: Preset = choice("2.3", tuple(_PRESETS), help="preset with the values of parameters that are not given")
    cfg_scale: Scale | Unset = number(UNSET, help="scale of the negative pass; 1 does not run it")
    stg_scale: Scale | Unset = number(UNSET, help="strength of the perturbed pass; 0 does not run it")
    modality_scale: Scale | Unset = number(UNSET, help="scale of the modality pass; 1 does not run it")
    rescale_scale: Scale | Unset = number(UNSET, ge=0, le=1, help="rescale; 0 is off")
    stg_blocks: Blocks | Mapping[str, Blocks | None] | Table | Unset | None = blocks(
        UNSET, help="indices of the blocks that the STG pass weakens (none: all)"
    )
    skip_step: Whole | Unset = whole(
        UNSET, help="evaluate an output only where step % (skip_step + 1) is 0; 0 never skips"
    )
    negative: Literal["both", "guided"] = choice(
        "both",
        ("both", "guided"),
        help="outputs that get the negative text in the neg pass: both (ltx-core), or those whose cfg is not 1",
    )
    midpoints: Literal["held", "evaluated"] = choice(
        "held",
        ("held", "evaluated"),
        help="whether further evaluations of a skipped step are held too, or run (ltx-pipelines)",
    )
    values: Mapping[str, Any] = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(
            lambda self: {name: settled.value for name, settled in settle(self).items()}, takes_self=True
        ),
    )

    @classmethod
    def by_sigma(cls, table: Mapping[float, Mapping[str, Any]], preset: Preset = "2.3") -> LTX2:
        """Make one whose parameters depend on sigma, from a mapping of upper bounds of sigma to parameters.

        The bin of a bound extends from the next smaller bound (exclusive) to the bound itself (inclusive).

        Raises:
            ConfigurationError: the rows do not give the same parameters.
        """
        names = {frozenset(row) for row in table.values()}
        if len(names) != 1:
            raise ConfigurationError(
                "LTX2.by_sigma: every row must give the same parameters; got "
                f"{'; '.join(', '.join(sorted(row)) for row in table.values()) or 'no rows'}."
            )
        columns: dict[str, Any] = {
            name: Table({bound: row[name] for bound, row in table.items()}) for name in names.pop()
        }
        return cls(preset=preset, **columns)

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch | Needs | Hold]:
        """Ask for the three passes to move away from, and hold the outputs that skip this step."""
        cfg, stg, modality, rescale, weak, skip = (
            step.value(self.values[name])
            for name in (
                "cfg_scale",
                "stg_scale",
                "modality_scale",
                "rescale_scale",
                "stg_blocks",
                "skip_step",
            )
        )
        weakened = tuple(
            SkipSelfAttention(_of(weak, output), output if len(step.outputs) > 1 else None)
            for output in step.outputs
            if not _is_zero(_of(stg, output)) and _of(weak, output) != ()
        )
        held: tuple[str, ...] = ()
        if self.midpoints == "held" or step.evaluation == 0:
            held = tuple(
                output for output in step.outputs if (left_out := _of(skip, output)) and step.index % (left_out + 1)
            )
        rescaled = tuple(output for output in step.outputs if not _is_zero(_of(rescale, output)))
        return [
            self._negative(step, cfg),
            Branch("perturbed", perturbations=weakened, strength=stg if weakened else 0.0),
            Branch("modality", perturbations=(IsolateOutputs(),), strength=modality - 1),
            Hold(held),
            Needs(space="x0" if rescaled else None, statistics=_STD, outputs=rescaled),
        ]

    def _negative(self, step: Step, cfg: Any) -> Branch:
        """Return the pass with the negative text, of all outputs or of those it guides."""
        kept = tuple(
            UseCondition(output=output, condition="positive")
            for output in step.outputs
            if self.negative == "guided" and len(step.outputs) > 1 and _is_zero(_of(cfg, output) - 1)
        )
        also = ("positive",) if kept else ()
        return Branch("neg", condition="negative", strength=cfg - 1, perturbations=kept, also=also)

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> Multiply:
        """Rescale one output's guided x0."""
        return rescaling(step, guided, reference, step.value(self.values["rescale_scale"]), _STD)


_STD = Std()


def _of(value: Any, output: str) -> Any:
    return value[output] if isinstance(value, PerOutput) else value


def _is_zero(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) and value == 0
