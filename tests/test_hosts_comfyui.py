"""ComfyUI, headless: a guider with `cfg` equals its own CFG, and what it leaves to ComfyUI keeps working."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import comfyui_engine as engine
import pytest
import torch

from guidance_core import ConfigurationError, Guidance, IdentityAttention, SkipBlocks

SAMPLERS = ("euler", "heun", "dpm_2", "dpmpp_2m", "dpmpp_sde", "euler_ancestral", "uni_pc", "euler_cfg_pp", "lcm")
SPEC = "cfg:scale=4"


@pytest.fixture(scope="module", autouse=True)
def comfyui():
    return engine.loaded()


@attrs.frozen
class Case:
    """A model with the conditionings and the noise of one generation."""

    model: object
    positive: list
    negative: list
    noise: torch.Tensor

    def conditions(self, **more):
        return {"positive": self.positive, "negative": self.negative, **more}

    def sigmas(self, steps=6):
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps)

    def sampled(self, guider, sampler="euler", *, sigmas=None, latent=None, mask=None):
        import comfy.samplers

        torch.manual_seed(5)
        return guider.sample(
            self.noise,
            torch.zeros_like(self.noise) if latent is None else latent,
            comfy.samplers.sampler_object(sampler),
            self.sigmas() if sigmas is None else sigmas,
            denoise_mask=mask,
            disable_pbar=True,
            seed=3,
        )

    def guided(self, spec=SPEC, sampler="euler", *, conditions=None, model=None, **more):
        from guidance_core.hosts.comfyui.guider import Guider

        guider = Guider(model or self.model, Guidance.from_spec(spec) if isinstance(spec, str) else spec)
        guider.set_conditions(conditions or self.conditions())
        return self.sampled(guider, sampler, **more)

    def native(self, sampler="euler", *, scale=4.0, positive=None, model=None, **more):
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model or self.model)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(scale)
        return self.sampled(guider, sampler, **more)


MAKERS = {
    "epsilon": (lambda: engine.unet("EPS"), (2, 4, 8, 8)),
    "v": (lambda: engine.unet("V_PREDICTION"), (2, 4, 8, 8)),
    "edm": (lambda: engine.unet("EDM"), (2, 4, 8, 8)),
    "flow": (engine.wan, (2, 16, 3, 8, 8)),
    "flux": (engine.flux, (2, 4, 8, 8)),
}


@pytest.fixture(scope="module")
def cases(comfyui):
    def conditioning(generator):
        pooled = {"pooled_output": torch.randn(1, 16, generator=generator)}
        return [[torch.randn(1, 8, 16, generator=generator), pooled]]

    def made(kind):
        make, shape = MAKERS[kind]
        generator = torch.Generator().manual_seed(7)
        return Case(make(), conditioning(generator), conditioning(generator), torch.randn(shape, generator=generator))

    return {kind: made(kind) for kind in MAKERS}


def assert_close(ours, native, *, units=60.0):
    """Within rounding of the largest value; a sampler's multistep sums amplify what a step rounds."""
    error = float((ours - native).abs().max() / native.abs().max())
    assert error <= units * 2**-23, f"{error:.1e} of the largest value"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_cfg_equals_comfyuis_own_up_to_rounding(cases, kind, sampler):
    assert_close(cases[kind].guided(sampler=sampler), cases[kind].native(sampler), units=200.0)


@pytest.mark.parametrize("kind", ["v", "edm", "flux"])
def test_cfg_equals_comfyuis_own_for_every_prediction_type(cases, kind):
    assert_close(cases[kind].guided(), cases[kind].native())


@pytest.mark.parametrize("kind", ["epsilon", "v", "edm", "flow"])
def test_a_models_predictions_are_told_to_methods_in_its_own_type(cases, kind):
    from guidance_core.hosts.comfyui.levels import Levels

    case = cases[kind]
    sampling = case.model.get_model_object("model_sampling")
    levels = Levels.of(sampling, case.sigmas())
    assert levels.prediction_type == {"edm": "x0"}.get(kind, kind)
    sample, prediction, sigma = case.noise, torch.roll(case.noise, 1, -1), torch.tensor([0.4, 0.4])
    x0 = sampling.calculate_denoised(sigma, prediction, sample)
    predicted = levels.predicted(x0, sample, sigma)
    if kind != "edm":  # ComfyUI's v is that of the sample divided by √(1 + σ²)
        expected = prediction * (1 + 0.4**2) ** 0.5 if kind == "v" else prediction
        torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(levels.denoised(predicted, sample, sigma), x0, rtol=1e-4, atol=1e-5)


def passes_of(case, spec, **more):
    """Return how many rows the network is given at each evaluation, and the batches of ComfyUI's forwards."""

    seen = []
    model = case.model.clone()

    def counted(apply, given):
        seen.append((list(given["cond_or_uncond"]), given["input"].shape[0]))
        return apply(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(counted)
    case.guided(spec, model=model, **more)
    return seen


def test_all_passes_of_a_step_are_one_batch(cases):
    seen = passes_of(cases["flow"], "cfg:scale=4,stg:scale=1,blocks=1")
    assert [sorted(passes) for passes, _ in seen] == [[0, 1, 2]] * 6
    assert {rows for _, rows in seen} == {6}


def test_interval_and_gate_run_fewer_passes(cases):
    def count(spec):
        return sum(len(passes) for passes, _ in passes_of(cases["flow"], spec))

    assert count(SPEC) == 12
    assert count("cfg:scale=4,gate") == 9
    assert count("cfg:scale=4,interval:lo=0.9,hi=1") == 9
    assert count("cfg:scale=1") == 6


def test_a_method_that_looks_at_statistics_sees_the_models_own_prediction(cases):
    """Rescale of a flow: the standard deviations are those of velocities, formed here from ComfyUI's x0."""
    import comfy.samplers

    case, phi = cases["flow"], 0.7
    guider = comfy.samplers.CFGGuider(case.model)
    guider.set_conds(case.positive, case.negative)

    def rescaled(given):
        sigma = given["sigma"].view(-1, 1, 1, 1, 1)
        c, u = ((given["input"] - given[f"{name}_denoised"]) / sigma for name in ("cond", "uncond"))
        guided, dims = u + 4.0 * (c - u), (1, 2, 3, 4)
        factor = c.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
        return given["input"] - sigma * (phi * factor * guided + (1 - phi) * guided)

    guider.model_options = {**guider.model_options, "sampler_post_cfg_function": [rescaled]}
    guider.set_cfg(4.0)
    assert_close(case.guided(f"cfg:scale=4,rescale:phi={phi}"), case.sampled(guider))


@pytest.mark.parametrize("kind", ["flow", "flux"])
def test_skipped_blocks_are_skipped_in_their_pass_alone(cases, kind):
    """Against ComfyUI's own way: a call of its own, in which the block returns its input."""
    import comfy.samplers

    case = cases[kind]
    skipped = {("double_block", 1): lambda args, extra: {name: args[name] for name in ("img", "txt") if name in args}}

    class Own(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            conds = [self.conds["positive"], self.conds["negative"]]
            c, u = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            options = dict(model_options["transformer_options"], patches_replace={"dit": skipped})
            weak = dict(model_options, transformer_options=options)
            (p,) = comfy.samplers.calc_cond_batch(self.inner_model, conds[:1], x, timestep, weak)
            return u + 4.0 * (c - u) + 2.0 * (c - p)

    own = Own(case.model)
    own.set_conds(case.positive, case.negative)
    assert_close(case.guided("cfg:scale=4,slg:scale=2,blocks=1,start=0,stop=1"), case.sampled(own))


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_an_identity_map_is_that_of_its_pass_and_block_alone(cases, kind):
    """Against a call of its own in which the attention of the block returns its values."""
    import comfy.samplers

    case = cases[kind]

    class Own(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            positive = self.conds["positive"]
            (c,) = comfy.samplers.calc_cond_batch(self.inner_model, [positive], x, timestep, model_options)
            weak = dict(model_options, transformer_options=dict(model_options["transformer_options"], **replaced()))
            (p,) = comfy.samplers.calc_cond_batch(self.inner_model, [positive], x, timestep, weak)
            return c + 2.0 * (c - p)

    def replaced():
        if kind == "epsilon":
            return {"patches_replace": {"attn1": {("input", 3, 0): lambda q, k, v, extra: v}}}

        def override(function, q, k, v, *args, **named):
            own = named["transformer_options"]["block_index"] == 1 and k.shape[1] != 8  # the text has 8 tokens
            return v.flatten(2) if own else function(q, k, v, *args, **named)

        return {"optimized_attention_override": override}

    own = Own(case.model)
    own.set_conds(case.positive, case.negative)
    assert_close(case.guided("pag:scale=2,blocks=1"), case.sampled(own))


def test_what_others_replaced_in_a_block_stays(cases):
    case, calls = cases["flow"], []

    def counted(args, extra):
        calls.append(1)
        return extra["original_block"](args)

    model = case.model.clone()
    model.set_model_patch_replace(counted, "dit", "double_block", 1)
    ours = case.guided("cfg:scale=4,pag:scale=1,blocks=1", model=model)
    assert len(calls) == 6
    assert torch.equal(ours, case.guided("cfg:scale=4,pag:scale=1,blocks=1"))


def test_a_lora_of_one_condition_is_that_of_its_passes_alone(cases):
    import comfy.hooks

    case = cases["epsilon"]
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_out.0.weight"
    weight = case.model.model.state_dict()[key]
    hook = comfy.hooks.WeightHook(1.0, 1.0)
    hook.weights = {key: ("diff", (torch.ones_like(weight) * 0.3,))}
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    positive = comfy.hooks.set_hooks_for_conditioning(case.positive, group)
    ours = case.guided(conditions=case.conditions(positive=positive))
    assert_close(ours, case.native(positive=positive))
    assert not torch.allclose(ours, case.native(), atol=1e-3)


def test_masks_of_inpainting_and_areas_of_conditions_are_comfyuis(cases):
    case = cases["epsilon"]
    latent, mask = torch.roll(case.noise, 1, 0) / 3, torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    inpainted = {"latent": latent, "mask": mask}
    assert_close(case.guided(**inpainted), case.native(**inpainted))
    left = [[case.positive[0][0], {**case.positive[0][1], "area": (8, 4, 0, 0)}], *case.negative]
    assert_close(case.guided(conditions=case.conditions(positive=left)), case.native(positive=left))


def test_passes_are_shared_out_over_devices_by_comfyui(cases):
    """ComfyUI's own multi-GPU code, with two names of the CPU as its devices."""

    case, devices, used = cases["flow"], [torch.device("cpu"), torch.device("cpu", 0)], []

    class Shared(type(_guider(case))):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            clones = dict.fromkeys(devices, case.model)
            return super().predict_noise(x, timestep, {**model_options, "multigpu_clones": clones}, seed)

    def counted(apply, given):
        used.append(given["c"]["transformer_options"]["multigpu_thread_device"])
        return apply(given["input"], given["timestep"], **given["c"])

    guider = Shared(case.model, Guidance.from_spec("cfg:scale=4,pag:scale=1,blocks=1,slg:blocks=2,start=0,stop=1"))
    guider.set_conditions(case.conditions())
    guider.model_options = {**guider.model_options, "model_function_wrapper": counted}
    shared = case.sampled(guider)
    assert {str(device) for device in used} == {"cpu", "cpu:0"}
    assert_close(shared, case.guided(guider.guidance))


def _guider(case):
    from guidance_core.hosts.comfyui.guider import Guider

    return Guider(case.model, Guidance())


def test_a_further_condition_reaches_its_method(cases):
    case = cases["flow"]
    weighted = case.guided(
        "cfg:scale=4,multi-condition:condition=extra,weight=0.5", conditions=case.conditions(extra=case.negative)
    )
    # c + 3(c − u) + w(a − u) with a = u
    assert_close(weighted, case.native())
    with pytest.raises(ConfigurationError, match="extra"):
        case.guided("cfg:scale=4,multi-condition:condition=extra,weight=0.5")


def test_noise_on_a_condition_is_the_runs_and_differs_by_sample(cases):
    case = cases["flow"]
    one = case.guided("cads:noise=0.5")
    assert torch.equal(one, case.guided("cads:noise=0.5"))
    same = attrs.evolve(case, noise=case.noise[:1].repeat(2, 1, 1, 1, 1))
    made = same.guided("cads:noise=0.5")
    assert not torch.allclose(made[0], made[1], atol=1e-4)


def test_guidance_off_runs_the_condition_alone(cases):
    case = cases["flow"]
    assert_close(case.guided(""), case.native(scale=1.0))


def test_schedules_that_rise_again_and_custom_sigmas(cases):
    case = cases["epsilon"]
    sigmas = torch.tensor([10.0, 4.0, 1.0, 3.0, 1.0, 0.2, 0.0])
    assert_close(case.guided(sigmas=sigmas), case.native(sigmas=sigmas))


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("cfg:scale=4,nag", "cannot make the change NormalizedAttention"),
        ("stg:blocks=3,skip=blocks", "acts on block 3, but the model has 3 blocks"),
        ("ltx2", "which the model does not have"),
        ("autoguidance:model=small", "there is no model 'small'"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_any_forward(cases, spec, what):
    with pytest.raises(ConfigurationError, match=what):
        passes_of(cases["flow"], spec)


def test_a_model_that_lets_no_block_be_replaced_is_told(cases):
    from guidance_core.hosts.comfyui.anatomy import Anatomy
    from guidance_core.hosts.comfyui.weakened import Weakening

    anatomy = Anatomy.of(cases["flow"].model.model.diffusion_model)
    weakening = Weakening(anatomy, {1: [SkipBlocks((1,))], 2: [IdentityAttention((0, 1))]})
    weakening.options({})
    with pytest.raises(ConfigurationError, match="WanModel does not let its blocks be replaced"):
        weakening.check()


def test_a_patch_in_the_place_of_cfg_is_refused(cases):
    model = cases["flow"].model.clone()
    model.set_model_sampler_cfg_function(lambda given: given["cond"])
    with pytest.raises(ConfigurationError, match="replaces ComfyUI's CFG"):
        cases["flow"].guided(model=model)


def test_patches_before_and_after_cfg_are_called(cases):
    case = cases["flow"]
    model = case.model.clone()
    model.set_model_sampler_pre_cfg_function(lambda given: [0.5 * each for each in given["conds_out"]])
    model.set_model_sampler_post_cfg_function(lambda given: given["denoised"] + 0.1 * given["cond_denoised"])
    assert_close(case.guided(model=model), case.native(model=model))


def test_passes_that_do_not_fit_into_memory_together_run_apart(cases, monkeypatch):
    case, spec = cases["flow"], "cfg:scale=4,pag:scale=1,blocks=1,slg:scale=1,blocks=2,start=0,stop=1"
    together = case.guided(spec)
    monkeypatch.setattr(case.model.model, "memory_required", lambda *_, **__: float("inf"))
    assert {len(passes) for passes, _ in passes_of(case, spec)} == {1}
    assert_close(case.guided(spec), together)


def test_video_and_audio_of_ltx2_are_outputs(comfyui):
    from comfy.nested_tensor import NestedTensor

    generator = torch.Generator().manual_seed(7)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    given = ([[drawn(1, 8, 32), {"frame_rate": 24.0}]] for _ in range(2))
    case = Case(engine.ltx2(), *given, NestedTensor((drawn(1, 16, 2, 4, 4), drawn(1, 8, 4, 16))))
    latent = NestedTensor(tuple(torch.zeros_like(each) for each in case.noise.unbind()))

    def parts(made):
        return made.unbind()

    native = parts(case.native(latent=latent))
    for ours, theirs in zip(parts(case.guided(latent=latent)), native, strict=True):
        assert_close(ours, theirs)
    apart = parts(case.guided("cfg:scale={video: 4, audio: 1}", latent=latent))
    assert float((apart[1] - native[1]).abs().max()) > 1e-3  # its audio is guided otherwise
    skipped = parts(case.guided("slg:scale=1,blocks=1,start=0,stop=1", latent=latent))
    assert all(each.isfinite().all() for each in skipped)


def test_the_pages_example_runs(cases):
    import comfy.samplers

    case = cases["flow"]
    page = (Path(__file__).parents[1] / "docs/comfyui.md").read_text()
    (block,) = re.findall(r"^```{.python .no-run .comfyui}\n(.*?)^```", page, re.M | re.S)
    sampler = comfy.samplers.sampler_object("euler")
    names = {**attrs.asdict(case, recurse=False), "sampler": sampler, "sigmas": case.sigmas()}
    exec(block, {**names, "latent": torch.zeros_like(case.noise)})


def test_two_generations_of_one_guider_are_two_runs(cases):
    case = cases["flow"]
    guider = type(_guider(case))(case.model, Guidance.from_spec("apg:scale=4,momentum=-0.5"))
    guider.set_conditions(case.conditions())
    first, again = case.sampled(guider), case.sampled(guider)
    assert torch.equal(first, again)
