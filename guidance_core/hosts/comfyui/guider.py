"""A guider of ComfyUI that runs a stack."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.samplers
import comfy.utils
import comfyui_version
from comfy.conds import CONDRegular
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.guidance import Guidance
from guidance_core.hosts.comfyui.anatomy import OUTPUTS, Anatomy
from guidance_core.hosts.comfyui.levels import Levels
from guidance_core.hosts.comfyui.weakened import Weakening
from guidance_core.hosts.versions import tell_untested_host
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan

POSITIVE, NEGATIVE = "positive", "negative"
NEGATIVE_PASS = "(negative)"
"A pass that only ComfyUI's patches want; it is none of the plan's."

tell_untested_host("ComfyUI", found=comfyui_version.__version__)


class Guider(comfy.samplers.CFGGuider):  # type: ignore[misc]
    """Guides ComfyUI's samplers with a stack of methods instead of CFG.

        guider = Guider(model, Guidance.from_spec("cfg:scale=7,rescale:phi=0.7"))
        guider.set_conditions({"positive": positive, "negative": negative})
        samples = guider.sample(noise, latent, sampler, sigmas, seed=seed)

    All passes of a step are one `calc_cond_batch`: ComfyUI batches them as memory allows and shares them out over its
    devices. Models, patches and LoRAs of single conditions are its own affair, as with its guiders.
    """

    def __init__(self, model_patcher: Any, guidance: Guidance) -> None:
        super().__init__(model_patcher)
        self.guidance = guidance
        self._run: Run | None = None
        self._shapes: Sequence[Sequence[int]] = ()

    def set_conditions(self, conditions: Mapping[str, Any]) -> None:
        """Set conditionings by the condition's name, `positive` among them; None stands for not given."""
        self.inner_set_conds({name: given for name, given in conditions.items() if given is not None})

    def inner_sample(
        self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor, *args: Any, **named: Any
    ) -> Any:
        """Start a run, and sample with it."""
        self._shapes = named.get("latent_shapes") or ()
        self._run = self._started(sigmas, args[3] if len(args) > 3 else named.get("seed"))
        try:
            return super().inner_sample(noise, latent_image, device, sampler, sigmas, *args, **named)
        finally:
            self._run = None

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        """Return the guided x0, which is what ComfyUI's samplers want."""
        options = model_options or {}
        assert self._run is not None
        sample = self._apart(x)
        with self._run.plan_at(float(timestep.reshape(-1)[0]), sample) as plan:
            passes = self._passes(plan, x, timestep, options)
            predictions = {
                name: self._each(self._levels.predicted, self._apart(passes[name]), sample, timestep)
                for name in (branch.name for branch in plan.own_branches)
            }
            guided = plan.finish(predictions)
        denoised = self._together(self._each(self._levels.denoised, guided, sample, timestep))
        return self._after(denoised, passes, x, timestep, options)

    def _started(self, sigmas: Tensor, seed: Any) -> Run | None:
        levels = sigmas.tolist()
        if len(levels) < 2:
            return None
        if "sampler_cfg_function" in self.model_options:
            raise ConfigurationError(
                "the model has a patch that replaces ComfyUI's CFG, such as that of the node RescaleCFG, and a guider "
                "with a stack does not use CFG. Remove that node; the stack can have the same method."
            )
        self._levels = Levels.of(self.inner_model.model_sampling, sigmas)
        self._anatomy = Anatomy.of(self.inner_model.diffusion_model)
        return self.guidance.start(
            conditions={name: {} for name in self.conds},
            sigmas=levels,
            prediction_type=self._levels.prediction_type,
            alphas=self._levels.alphas,
            outputs=OUTPUTS if len(self._shapes) == len(OUTPUTS) else None,
            may_rise=any(later > earlier for earlier, later in itertools.pairwise(levels)),
            seeds=seed,
            supports=self._anatomy.supports,
        )

    def _passes(self, plan: Plan, x: Tensor, timestep: Tensor, options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return x0 of every pass by name, and that of the negative condition where ComfyUI's own patches want it."""
        branches = plan.own_branches
        names = [branch.name for branch in branches]
        conds = [self._condition(branch, x) for branch in branches]
        wants = options.get("disable_cfg1_optimization") and NEGATIVE in self.conds
        if wants and _plain(branches, NEGATIVE) is None:
            names.append(NEGATIVE_PASS)
            conds.append(self.conds[NEGATIVE])
        if not conds:
            return {}
        changes = {number: branch.perturbations for number, branch in enumerate(branches) if branch.perturbations}
        weakening = Weakening(self._anatomy, changes)
        options = weakening.options(options)
        if "sampler_calc_cond_batch_function" in options:
            given = {"conds": conds, "input": x, "sigma": timestep, "model": self.inner_model, "model_options": options}
            made = options["sampler_calc_cond_batch_function"](given)
        else:
            made = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        weakening.check()
        passes = dict(zip(names, made, strict=True))
        return self._before(branches, passes, x, timestep, options)

    def _condition(self, branch: BoundBranch, x: Tensor) -> Any:
        """Return ComfyUI's entries for a pass, edited where a method edits its inputs."""
        entries = self.conds[branch.condition]
        return [_edited(branch, entry, x.shape[0]) for entry in entries] if branch.edits else entries

    def _before(
        self,
        branches: Sequence[BoundBranch],
        passes: dict[str, Tensor],
        x: Tensor,
        timestep: Tensor,
        options: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Hand the plain passes of both conditions to patches that change them before CFG."""
        ours = [_plain(branches, condition) for condition in (POSITIVE, NEGATIVE)]
        for function in options.get("sampler_pre_cfg_function", []):
            given = {
                **self._told(x, timestep, options),
                "conds": [self.conds.get(POSITIVE), self.conds.get(NEGATIVE)],
                "conds_out": [x.new_zeros(x.shape) if name is None else passes[name] for name in ours],
                "timestep": timestep,
            }
            made = function(given)
            passes |= {name: each for name, each in zip(ours, made, strict=False) if name is not None}
        return passes

    def _after(
        self, denoised: Tensor, passes: Mapping[str, Tensor], x: Tensor, timestep: Tensor, options: Mapping[str, Any]
    ) -> Tensor:
        """Hand the result to patches that change it after CFG, samplers of the kind CFG++ among them."""
        for function in options.get("sampler_post_cfg_function", []):
            given = {
                **self._told(x, timestep, options),
                "denoised": denoised,
                "cond": self.conds.get(POSITIVE),
                "uncond": self.conds.get(NEGATIVE),
                "cond_denoised": passes.get("cond", denoised),
                "uncond_denoised": passes.get("uncond", passes.get(NEGATIVE_PASS)),
            }
            denoised = function(given)
        return denoised

    def _told(self, x: Tensor, timestep: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "input": x,
            "sigma": timestep,
            "cond_scale": self.cfg,
            "model": self.inner_model,
            "model_options": options,
        }

    def _apart(self, latent: Tensor) -> Any:
        """Return the parts of a latent that ComfyUI packed into one, if there are two."""
        if len(self._shapes) != len(OUTPUTS):
            return latent
        return tuple(comfy.utils.unpack_latents(latent, self._shapes))

    def _together(self, parts: Any) -> Tensor:
        together: Tensor = comfy.utils.pack_latents(parts)[0] if isinstance(parts, tuple) else parts
        return together

    def _each(self, convert: Any, given: Any, sample: Any, sigma: Tensor) -> Any:
        if not isinstance(given, tuple):
            return convert(given, sample, sigma)
        return tuple(convert(one, noisy, sigma) for one, noisy in zip(given, sample, strict=True))


def _plain(branches: Sequence[BoundBranch], condition: str) -> str | None:
    """Return the name of the pass that runs a condition as it is."""
    return next(
        (each.name for each in branches if each.condition == condition and not (each.perturbations or each.edits)), None
    )


def _edited(branch: BoundBranch, entry: dict[str, Any], batch: int) -> dict[str, Any]:
    """Return an entry of a conditioning whose model inputs are edited, each with a row for every sample."""
    given = entry["model_conds"]
    inputs = {
        name: comfy.utils.repeat_to_batch_size(each.cond, batch)
        for name, each in given.items()
        if isinstance(each, CONDRegular) and isinstance(each.cond, Tensor)
    }
    changed = branch.amend(inputs)
    edited = {name: given[name]._copy_with(each) for name, each in changed.items() if each is not inputs.get(name)}
    return {**entry, "model_conds": {**given, **edited}}
