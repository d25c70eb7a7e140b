"""LTX-2's transformer from diffusers: branches are its own flags, rows and batches change nothing else."""

from __future__ import annotations

import attrs
import pytest
import torch

from guidance_core import (
    Branch,
    ConfigurationError,
    Guidance,
    IdentityAttention,
    IsolateOutputs,
    SkipBlocks,
    SkipSelfAttention,
    SlidingWindows,
    hookimpl,
)

pytest.importorskip("diffusers")

from diffusers import FlowMatchEulerDiscreteScheduler

from guidance_core.hosts.ltx2 import (
    OUTPUTS,
    Flags,
    Grid,
    LTX2Denoiser,
    Sizes,
    flags_of,
    small_inputs,
    small_transformer,
)

TINY = Sizes(2, heads=2, head_dim=16, audio_head_dim=8, channels=8, caption_channels=16, grid=Grid(2, 2, 2, 4))
SIGMA = 0.7


@pytest.fixture(scope="module")
def model():
    return small_transformer(TINY)


@attrs.frozen
class Asking:
    branch: Branch

    @hookimpl
    def build_branches(self, step):
        return [self.branch]


def branches_of(inputs, spec="ltx2:stg_blocks=1"):
    guidance = Guidance.from_spec(spec) if isinstance(spec, str) else spec
    run = guidance.start(conditions=inputs.conditions, sigmas=[SIGMA, 0.0], prediction_type="flow", outputs=OUTPUTS)
    return run.plan(0, inputs.sample).branches


def test_the_four_branches_are_four_different_passes(model):
    inputs = small_inputs(TINY, batch=2)
    denoise = LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)
    made = {branch.name: denoise(branch) for branch in branches_of(inputs)}
    assert list(made) == ["cond", "neg", "perturbed", "modality"]
    for number, sample in enumerate(inputs.sample):
        streams = [streams[number] for streams in made.values()]
        assert all(stream.shape == sample.shape for stream in streams)
        assert not any(torch.equal(streams[0], other) for other in streams[1:])


def test_a_pass_is_the_model_called_with_its_own_flags(model):
    inputs = small_inputs(TINY)
    denoise = LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)
    video, audio = inputs.sample
    flags = {"perturbed": {"spatio_temporal_guidance_blocks": [1]}, "modality": {"isolate_modalities": True}}
    for branch in branches_of(inputs):
        text = inputs.conditions["negative" if branch.name == "neg" else "positive"]
        level = torch.tensor([SIGMA])
        expected = model(
            video, audio, **text, timestep=level * 1000, sigma=level * 1000, num_frames=2, height=2, width=2,
            audio_num_frames=4, return_dict=False, **flags.get(branch.name, {}),
        )  # fmt: skip
        assert all(map(torch.equal, denoise(branch), expected))


def test_sigma_reaches_the_model_as_its_pipeline_passes_it(model):
    """`LTX2Pipeline` passes the scheduler's timestep, 0 to 1000, as both `timestep` and `sigma`."""
    inputs = small_inputs(TINY, batch=2)
    given = {}
    with_hook = model.register_forward_pre_hook(lambda _, __, kwargs: given.update(kwargs), with_kwargs=True)
    LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)(branches_of(inputs)[0])
    with_hook.remove()
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[SIGMA])
    expected = scheduler.timesteps[0].expand(2)
    torch.testing.assert_close(given["timestep"], expected)
    torch.testing.assert_close(given["sigma"], expected)


def test_batches_and_rows_agree_with_single_passes(model):
    inputs = small_inputs(TINY, batch=3)
    denoise = LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)
    branches = branches_of(inputs)
    forwards = []
    with_hook = model.register_forward_hook(lambda *_: forwards.append(1))
    whole = [denoise(branch) for branch in branches]
    forwards.clear()
    together = denoise.batch(branches)
    assert len(forwards) == 2, "the isolated pass has its own forward, the others share one"
    for one, other in zip(whole, together, strict=True):
        torch.testing.assert_close(one, other)
    parts = denoise.batch([branch.for_rows(slice(1, 3)) for branch in branches])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(tuple(stream[1:] for stream in one), other)
    with_hook.remove()


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_one(model):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = small_transformer(TINY)
    assert torch.equal(torch.rand(3), expected)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_perturbations_become_flags(model):
    every = tuple(range(TINY.layers))
    assert flags_of((), model.config) == Flags(False, ())
    assert flags_of((IsolateOutputs(),), model.config) == Flags(True, ())
    assert flags_of((SkipSelfAttention(),), model.config) == Flags(False, every)
    both = (SkipSelfAttention((1,), "video"), SkipSelfAttention((1,), "audio"))
    assert flags_of(both, model.config) == Flags(False, (1,))


@pytest.mark.parametrize(
    ("perturbations", "said"),
    [
        ((SkipBlocks((1,)),), "no flag for SkipBlocks"),
        ((IdentityAttention(),), "no flag for IdentityAttention"),
        ((SkipSelfAttention((1,), "image"),), "no flag for SkipSelfAttention"),
        ((SkipSelfAttention((1,), "video"),), r"asks for \[1\] of video and \[\] of audio"),
        ((SkipSelfAttention((28,)),), "block 28 does not exist: the LTX-2 transformer has 2 blocks"),
    ],
)
def test_what_the_model_cannot_do_is_an_error(model, perturbations, said):
    with pytest.raises(ConfigurationError, match=said):
        flags_of(perturbations, model.config)


@pytest.mark.parametrize(
    "changes",
    [
        (SkipBlocks(1),),
        (IdentityAttention(0),),
        (SkipSelfAttention(1, "video"),),
        (SkipSelfAttention(1, "audio"), IsolateOutputs()),
        (IsolateOutputs(output="audio"),),
    ],
    ids=str,
)
def test_a_branch_without_flags_has_hooks_and_a_forward_of_its_own(model, changes):
    inputs = small_inputs(TINY, batch=2)
    denoise = LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)
    hooked, plain = Branch("hooked", perturbations=changes, strength=1.0), branches_of(inputs)
    hooked = branches_of(inputs, Guidance([Asking(hooked)]))[1]
    alone = [denoise(each) for each in (*plain, hooked)]
    forwards = []
    with_hook = model.register_forward_hook(lambda *_: forwards.append(1))
    together = denoise.batch([*plain, hooked])
    with_hook.remove()
    assert len(forwards) == 3
    assert all(map(torch.equal, alone[-1], together[-1]))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(all(map(torch.equal, alone[-1], each)) for each in alone[:-1])
    part = denoise(hooked.for_rows(slice(1, 2)))
    torch.testing.assert_close(part, tuple(stream[1:] for stream in alone[-1]))
    assert all(map(torch.equal, denoise(plain[0]), alone[0])), "nothing stays"


def test_what_neither_flags_nor_hooks_can_do_is_an_error(model):
    inputs = small_inputs(TINY)
    denoise = LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)
    branch = Branch("seen apart", perturbations=(SlidingWindows(),), strength=1.0)
    with pytest.raises(ConfigurationError, match="cannot make the change SlidingWindows"):
        denoise(branches_of(inputs, Guidance([Asking(branch)]))[1])


@pytest.mark.parametrize("negative", ["both", "guided"])
def test_a_negative_for_one_modality_leaves_the_other_its_positive_text_where_asked(model, negative):
    inputs = small_inputs(TINY)
    denoise = LTX2Denoiser(model, inputs.sample, SIGMA, inputs.grid)
    spec = f"ltx2:cfg_scale={{video: 3, audio: 1}},stg_scale=0,modality_scale=1,negative={negative}"
    neg = next(branch for branch in branches_of(inputs, spec) if branch.name == "neg")
    text = dict(inputs.conditions["negative"])
    if negative == "guided":
        text["audio_encoder_hidden_states"] = inputs.conditions["positive"]["audio_encoder_hidden_states"]
    by_hand = Guidance([]).start(
        conditions={"positive": text}, sigmas=[SIGMA, 0.0], prediction_type="flow", outputs=OUTPUTS
    )
    for ours, expected in zip(denoise(neg), by_hand.step(0, inputs.sample, denoise), strict=True):
        assert torch.equal(ours, expected)
    both = next(branch for branch in branches_of(inputs, "ltx2:stg_blocks=1,negative=guided") if branch.name == "neg")
    assert both.perturbations == (), "both are guided"


def test_no_blocks_is_no_pass_and_none_is_all_of_them(model):
    inputs = small_inputs(TINY)
    assert [branch.name for branch in branches_of(inputs, "ltx2:stg_blocks=[]")] == ["cond", "neg", "modality"]
    perturbed = branches_of(inputs, "ltx2:stg_blocks=none")[2]
    assert perturbed.name == "perturbed"
    assert flags_of(perturbed.perturbations, model.config).blocks == (0, 1)
