"""Perturbations in diffusers' own models: what is skipped is skipped, nothing else changes, and nothing stays."""

from __future__ import annotations

import re
import threading

import attrs
import pytest
import torch

from guidance_core import (
    BlurredAttention,
    Branch,
    Capabilities,
    ConfigurationError,
    DenoiserError,
    DropOut,
    Guidance,
    IdentityAttention,
    IsolateOutputs,
    NoisedTimestep,
    NormalizedAttention,
    Perturbation,
    ShuffledTokens,
    SkipBlocks,
    SkipSelfAttention,
    SlidingWindows,
    SoftIdentityAttention,
)

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import perturbed_models as by_hand
from perturbed_models import CASES, PAGE, SEEDS, case_named, equal, table
from torch.nn import functional as F

from guidance_core.hosts.diffusers import capabilities_of, perturbed

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers
every_model = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
attending = pytest.mark.parametrize(
    "case", [each for each in CASES if any(each.attention.values())], ids=lambda case: case.name
)
with_grid = pytest.mark.parametrize("case", [each for each in CASES if each.grid], ids=lambda case: case.name)


def branch_of(*perturbations):
    return Branch("perturbed", perturbations=perturbations, strength=1.0)


def made_with(case, model, *perturbations):
    with perturbed(model, branch_of(*perturbations)) as arguments:
        return case.made(model, **arguments)


def places(case):
    """Every block alone, then all that a list has, by list and number."""
    return [(name, (number,)) for name, count in case.blocks.items() for number in range(count)] + [
        (name, tuple(range(count))) for name, count in case.blocks.items()
    ]


# What is skipped is skipped.


@every_model
def test_skipped_blocks_are_those_of_a_model_without_them(case):
    model = case.model()
    plain = case.made(model)
    for stack, numbers in places(case):
        made = made_with(case, model, SkipBlocks(numbers, stack=stack))
        assert equal(made, case.made(by_hand.without_blocks(case, stack, numbers))), (stack, numbers)
        assert not equal(made, plain)


@attending
@pytest.mark.parametrize("kind", [SkipSelfAttention, IdentityAttention])
def test_values_pass_through_as_with_a_mask_that_shows_each_token_itself(case, kind):
    model = case.model()
    plain = case.made(model)
    for stack, numbers in places(case):
        made = made_with(case, model, kind(numbers, stack=stack))
        chosen = [(stack, number) for number in numbers]
        with by_hand.attending_otherwise(case, model, chosen, by_hand.masked_to_itself):
            expected = case.made(model)
        torch.testing.assert_close(made, expected)
        assert not equal(made, plain)


@every_model
def test_without_blocks_and_a_list_every_block_is_changed(case):
    model = case.model()
    everywhere = [SkipBlocks(stack=name) for name in case.blocks]
    assert equal(made_with(case, model, SkipBlocks()), made_with(case, model, *everywhere))
    assert capabilities_of(model).blocks == case.blocks


@attending
def test_some_heads_are_mixed_with_the_identity(case):
    model, stack = case.model(), next(iter(case.blocks))
    change = SoftIdentityAttention(0, stack=stack, heads=(1,), weight=0.3)

    def mixed(query, key, value, **more):
        made = by_hand.OPERATION(query, key, value, **more)
        made[:, 1] = 0.7 * made[:, 1] + 0.3 * value[:, 1]
        return made

    with by_hand.attending_otherwise(case, model, [(stack, 0)], mixed):
        expected = case.made(model)
    torch.testing.assert_close(made_with(case, model, change), expected)
    whole = SoftIdentityAttention(0, stack=stack)
    torch.testing.assert_close(made_with(case, model, whole), made_with(case, model, IdentityAttention(0, stack=stack)))
    heads = range(getattr(case.lists(model)[stack][0], next(iter(case.attention.values()))[0]).heads)
    others = [SoftIdentityAttention(0, stack=stack, heads=(head,)) for head in heads]
    torch.testing.assert_close(made_with(case, model, *others), made_with(case, model, whole))


@with_grid
@pytest.mark.parametrize("sigma", [1.0, float("inf")])
def test_queries_are_blurred_over_the_grid_of_the_picture_alone(case, sigma):
    model = case.model()
    for stack, number in [(name, 0) for name in case.blocks]:
        change = BlurredAttention(number, stack=stack, sigma=sigma)
        hooks = []
        for stream, names in case.attention.items():
            for name in names:
                attention = getattr(case.lists(model)[stack][number], name, None)
                if attention is not None:
                    hooks.append(attention.to_q.register_forward_hook(case.blurring(change, stream)))
        expected = case.made(model)
        for hook in hooks:
            hook.remove()
        made = made_with(case, model, change)
        torch.testing.assert_close(made, expected)
        assert not equal(made, case.made(model))


@every_model
def test_tokens_that_enter_a_block_change_places_by_the_seeds_of_the_pass(case):
    model = case.model()
    before = 0
    for stack, count in case.blocks.items():
        change = ShuffledTokens(0, stack=stack, seeds=SEEDS)
        block = case.lists(model)[stack][0]
        if type(block).__name__ in by_hand.UNITED:
            with pytest.raises(ConfigurationError, match=r"one sequence|cannot make the change"):
                made_with(case, model, change)
            continue
        with by_hand.given_otherwise(block, before, change):
            expected = case.made(model)
        made = made_with(case, model, change)
        assert equal(made, expected)
        assert equal(made, made_with(case, model, change))
        assert not equal(made, made_with(case, model, attrs.evolve(change, seeds=(3, 4))))
        before += count


@every_model
def test_what_a_block_adds_is_dropped(case):
    """At 1, nothing is left of self-attention and of the feed-forward part; in between, parts of it."""
    model = case.model()
    stack = next(iter(case.blocks))
    change = DropOut(0, stack=stack, rate=1.0, seeds=SEEDS)
    block = case.lists(model)[stack][0]
    with by_hand.adding_nothing(block):
        expected = case.made(model)
    assert equal(made_with(case, model, change), expected)
    some = attrs.evolve(change, rate=0.5)
    assert not equal(made_with(case, model, some), expected)
    assert equal(made_with(case, model, some), made_with(case, model, some))
    nothing = attrs.evolve(change, rate=0.0)
    assert equal(made_with(case, model, nothing), case.made(model))


@pytest.mark.parametrize("case", [case for case in CASES if case.windows], ids=lambda case: case.name)
def test_windows_are_passes_of_their_own(case):
    model = case.model()
    (made,) = made_with(case, model, SlidingWindows(size=0.5))
    inputs = case.inputs()
    sample = inputs[case.windows]
    expected = torch.zeros_like(made)
    height, width = (length // 2 for length in sample.shape[-2:])
    for top in (0, height):
        for left in (0, width):
            window = (..., slice(top, top + height), slice(left, left + width))
            with torch.no_grad():
                expected[window] = model(**{**inputs, case.windows: sample[window]}, return_dict=False)[0]
    assert equal((made,), (expected,))
    assert not equal((made,), case.made(model))


@pytest.mark.parametrize("kind", ["2.0", "2.3"])
def test_hooks_do_what_the_arguments_of_ltx2_do(kind):
    case = case_named(f"LTX-2, type {kind}")
    model, hooked = case.model(), case.model()
    hooked.register_to_config(perturbed_attn=False)
    with torch.no_grad():
        expected = case.made(model, spatio_temporal_guidance_blocks=[1])
    assert equal(made_with(case, model, SkipSelfAttention(1)), expected)
    assert equal(made_with(case, hooked, SkipSelfAttention(1)), expected)
    apart = SkipSelfAttention(1, "video"), SkipSelfAttention(1, "audio")
    assert equal(made_with(case, model, *apart), expected)
    with perturbed(model, branch_of(IsolateOutputs())) as arguments:
        assert arguments == {"isolate_modalities": True}
    isolated = case.made(model, isolate_modalities=True)
    assert equal(made_with(case, model, IsolateOutputs()), isolated)
    assert equal(made_with(case, model, IsolateOutputs(output="video"), IsolateOutputs(output="audio")), isolated)


def test_one_stream_of_ltx2_alone_is_changed():
    """In the last block, what changes in one stream cannot reach the other, whose cross-attention is off."""
    case = case_named("LTX-2, type 2.3")
    model = case.model()
    video, audio = case.made(model, isolate_modalities=True)
    for output, same, other in (("video", 1, 0), ("audio", 0, 1)):
        made = made_with(case, model, SkipSelfAttention(1, output), IsolateOutputs())
        assert torch.equal(made[same], (video, audio)[same])
        assert not torch.equal(made[other], (video, audio)[other])


def test_skipped_blocks_of_stable_diffusion_3_are_an_argument_and_the_same_with_hooks():
    case = case_named("Stable Diffusion 3")
    model = case.model()
    expected = case.made(model, skip_layers=[0, 2])
    with perturbed(model, branch_of(SkipBlocks((0, 2)), SkipSelfAttention(1))) as arguments:
        assert arguments == {"skip_layers": [0, 2]}
    assert equal(made_with(case, model, SkipBlocks((0, 2))), expected)


# Against diffusers' own hooks, where these do what they say.


@pytest.mark.parametrize("name", ["DiT", "PixArt"])  # it raises for the others
def test_values_pass_through_as_with_the_layer_skip_of_diffusers(name):
    case = case_named(name)
    model = case.model()
    made = made_with(case, model, IdentityAttention(1))
    config = diffusers.hooks.LayerSkipConfig(
        indices=[1], fqn="transformer_blocks", skip_attention=False, skip_attention_scores=True, skip_ff=False
    )
    diffusers.hooks.apply_layer_skip(model, config)
    assert equal(made, case.made(model))


@pytest.mark.parametrize("name", ["DiT", "PixArt", "LTX-Video", "Wan"])  # it swaps the streams of others
def test_blocks_are_skipped_as_with_the_layer_skip_of_diffusers(name):
    case = case_named(name)
    model = case.model()
    made = made_with(case, model, SkipBlocks(1))
    fqn = "blocks" if hasattr(model, "blocks") else "transformer_blocks"
    diffusers.hooks.apply_layer_skip(model, diffusers.hooks.LayerSkipConfig(indices=[1], fqn=fqn))
    assert equal(made, case.made(model))


# What is not changed is bit for bit the same, and nothing stays.


def changes_of(case):
    """One change of each kind that the model can make."""
    for kind in capabilities_of(case.model()).perturbations:
        given = {"seeds": SEEDS} if "seeds" in attrs.fields_dict(kind) else {}
        yield kind(0, **given)


@every_model
def test_nothing_stays_after_a_pass(case):
    model = case.model()
    plain, before = case.made(model), by_hand.state_of(model)
    for change in changes_of(case):
        made = made_with(case, model, change)
        assert not equal(made, plain), change
        assert by_hand.state_of(model) == before, change
        assert equal(case.made(model), plain), change


@every_model
def test_nothing_stays_when_the_forward_raises(case):
    model = case.model()
    plain, before = case.made(model), by_hand.state_of(model)
    last = list(case.lists(model).values())[-1][-1]
    for change in changes_of(case):
        if isinstance(change, SkipBlocks):
            continue  # the block may be the one that raises

        def fail(*_):
            raise MemoryError("in the middle")

        hook = last.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError), perturbed(model, branch_of(change)) as arguments:
            case.made(model, **arguments)
        hook.remove()
        assert by_hand.state_of(model) == before, change
        assert equal(case.made(model), plain), change


def test_hooks_of_others_stay():
    """A cache's hooks, for example, are in the same registry."""
    case = case_named("Flux")
    model = case.model()
    registry = diffusers.hooks.HookRegistry.check_if_exists_or_initialize(model.transformer_blocks[0])
    calls = []

    class Counting(diffusers.hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return args, kwargs

    registry.register_hook(Counting(), "counting")
    before = by_hand.state_of(model)
    made_with(case, model, SkipSelfAttention(0), ShuffledTokens(0, seeds=SEEDS))
    assert len(calls) == 1
    assert by_hand.state_of(model) == before
    case.made(model)
    assert len(calls) == 2


def test_branches_one_after_another_do_not_meet():
    case = case_named("Flux")
    model = case.model()
    changes = [SkipBlocks(0), SkipSelfAttention(0), IdentityAttention(1, stack="single"), SkipBlocks(2, stack="single")]
    alone = [made_with(case, case.model(), change) for change in changes]
    for _ in range(2):
        for change, expected in zip(changes, alone, strict=True):
            assert equal(made_with(case, model, change), expected)


def test_threads_that_share_a_model_do_not_see_each_others_changes():
    case = case_named("Flux")
    model, rounds = case.model(), 25
    changes = [(), (SkipBlocks(0),), (SkipSelfAttention(0), SkipBlocks(1, stack="single")), (IdentityAttention(0),)]
    alone = [made_with(case, case.model(), *change) for change in changes]
    before = by_hand.state_of(model)
    wrong, start = [], threading.Barrier(len(changes))

    def play(number):
        start.wait()
        for _ in range(rounds):
            if not equal(made_with(case, model, *changes[number]), alone[number]):
                wrong.append(number)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(len(changes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert by_hand.state_of(model) == before


def test_a_model_is_perturbed_for_one_branch_at_a_time():
    case = case_named("Flux")
    model, other = case.model(), case.model()
    inner = made_with(case, other, SkipBlocks(1))
    with perturbed(model, branch_of(SkipSelfAttention(0))) as arguments:
        expected = case.made(model, **arguments)
        with (
            pytest.raises(ConfigurationError, match="perturbed already"),
            perturbed(model, branch_of(SkipSelfAttention(0))),
        ):
            pass
        assert equal(made_with(case, other, SkipBlocks(1)), inner), "another model is its own"
        assert equal(case.made(model, **arguments), expected)


@every_model
def test_a_change_that_is_asked_for_twice_is_made_once(case):
    model, stack = case.model(), next(iter(case.blocks))
    every = [SoftIdentityAttention(0, heads=(0,), weight=0.3), SoftIdentityAttention(0, heads=(0, 1), weight=0.3)]
    if any(case.attention.values()):
        one = made_with(case, model, attrs.evolve(every[1], stack=stack))
        assert equal(made_with(case, model, *every), one)
    for change in changes_of(case):
        once = made_with(case, model, change)
        if isinstance(change, SlidingWindows):
            assert equal(made_with(case, model, change, change), once)
            continue
        named = attrs.evolve(change, stack=stack)
        assert equal(made_with(case, model, change, named), once), change


def test_changes_of_different_parts_are_made_together():
    case = case_named("Stable Diffusion 3")
    model = case.model()
    changes = [
        SkipBlocks(2), IdentityAttention(1), ShuffledTokens(1, seeds=SEEDS), DropOut(0, rate=0.4, seeds=SEEDS),
        SlidingWindows(),
    ]  # fmt: skip
    made = made_with(case, model, *changes)
    fewer = [made_with(case, model, *(each for each in changes if each is not left)) for left in changes]
    assert not any(equal(made, each) for each in fewer)
    assert equal(made, made_with(case, model, *reversed(changes)))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Flux", IdentityAttention(0), BlurredAttention(0, stack="double")),
        ("Flux", SkipBlocks(1, stack="double"), IdentityAttention()),
        (
            "Flux",
            SoftIdentityAttention(0, weight=0.2),
            SoftIdentityAttention(0, stack="double", heads=(1,), weight=0.3),
        ),
        ("LTX-2, type 2.3", SkipSelfAttention(0), BlurredAttention(0, stack="blocks")),
        ("Stable Diffusion 3", SkipBlocks(0), BlurredAttention(0, stack="blocks")),
    ],
    ids=str,
)
def test_changes_of_one_part_that_are_written_in_two_ways_are_refused(name, one, other):
    """Only a host knows which list is the first."""
    case = case_named(name)
    model = case.model()
    assert "change the same part of transformer_blocks" in capabilities_of(model)(branch_of(one, other))
    with pytest.raises(ConfigurationError, match="change the same part of transformer_blocks"):
        made_with(case, model, one, other)


def test_pictures_beside_that_of_the_sample_are_not_taken_for_it():
    flux, qwen = case_named("Flux"), case_named("Qwen-Image")
    model, inputs = flux.model(), flux.inputs()
    inputs["hidden_states"] = inputs["hidden_states"].repeat(1, 2, 1)
    inputs["img_ids"] = inputs["img_ids"].repeat(2, 1)
    with (
        pytest.raises(ConfigurationError, match="pictures, whose queries cannot be blurred"),
        perturbed(model, branch_of(BlurredAttention(0))),
    ):
        model(**inputs)
    model, inputs = qwen.model(), qwen.inputs()
    inputs["img_shapes"] = [[(1, 3, 2), (1, 3, 2)]] * 2
    with (
        pytest.raises(ConfigurationError, match="tokens of this call are those of 2 pictures"),
        perturbed(model, branch_of(BlurredAttention(0))),
    ):
        model(**inputs)


@every_model
def test_low_precision_works_too(case):
    model = case.model().to(torch.bfloat16)
    plain = case.made(model, dtype=torch.bfloat16)
    for change in changes_of(case):
        with perturbed(model, branch_of(change)) as arguments:
            made = case.made(model, dtype=torch.bfloat16, **arguments)
        assert all(each.dtype == torch.bfloat16 and each.isfinite().all() for each in made), change
        assert not equal(made, plain)


# What a model cannot do is refused.


@attrs.frozen(repr=False)
class Unheard(Perturbation):
    """One that no host knows."""


@every_model
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Unheard(), r"cannot make the change Unheard\(\); it can make SkipBlocks, S"),
        (NormalizedAttention(), "cannot make the change NormalizedAttention"),
        (NoisedTimestep(), "cannot make the change NoisedTimestep"),
        (SkipBlocks(50), "acts on block 50, but the model has"),
        (
            SkipSelfAttention(0, stack="triple"),
            "counts in 'triple', but the model's lists of blocks are|cannot make the change Skip",
        ),
        (
            SkipSelfAttention(0, output="smell"),
            "acts on the output 'smell', but the model's|cannot make the change Skip",
        ),
        (SoftIdentityAttention(0, heads=(50,)), "acts on head 50, but|cannot make the change Soft"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_model_cannot_do_is_refused_before_its_forward(case, change, says):
    model = case.model()
    able = capabilities_of(model)
    assert isinstance(able, Capabilities)
    branch = branch_of(change)
    with pytest.raises(ConfigurationError, match=says), perturbed(model, branch):
        raise AssertionError("the block was entered")
    assert re.search(says, able(branch))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("Flux", IsolateOutputs(), "cannot make the change IsolateOutputs"),
        ("Flux", SlidingWindows(), "cannot make the change SlidingWindows"),
        ("LTX-2, type 2.0", SkipBlocks(0, "video"), "for all outputs or for none"),
        ("Wan", SkipBlocks(0, stack="double"), "lists of blocks are blocks"),
        ("Chroma", ShuffledTokens(0, stack="single"), "as one sequence"),
        ("Chroma", BlurredAttention(0), "cannot make the change BlurredAttention"),
        ("Mochi", SkipSelfAttention(0), "cannot make the change SkipSelfAttention"),
        ("PRX", IdentityAttention(0), "cannot make the change IdentityAttention"),
        ("Sana", SkipSelfAttention(0), "cannot make the change SkipSelfAttention"),
        ("Z-Image", ShuffledTokens(0), "cannot make the change ShuffledTokens"),
    ],
)
def test_what_one_model_cannot_do_is_refused(name, change, says):
    case = case_named(name)
    model = case.model()
    assert says in capabilities_of(model)(branch_of(change))
    with pytest.raises(ConfigurationError, match=says), perturbed(model, branch_of(change)):
        pass


def test_blocks_that_prepare_a_picture_prompt_are_not_those_of_the_model():
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=3, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        siglip_feat_dim=16, axes_dims=[4, 6, 6], axes_lens=[128, 32, 32],
    )  # fmt: skip
    assert model.siglip_refiner is not None
    assert capabilities_of(model).blocks == {"blocks": 3}


def test_a_model_whose_blocks_are_not_known_is_refused_by_name():
    for model in (torch.nn.Linear(2, 2), diffusers.UNet2DModel, object()):
        with pytest.raises(ConfigurationError, match="are not known, so that it cannot be perturbed"):
            capabilities_of(model)
        with perturbed(model, branch_of()) as arguments:
            assert arguments == {}, "what changes nothing needs nothing"


def test_a_block_that_does_otherwise_than_diffusers_is_not_known():
    case = case_named("Wan")
    model = case.model()

    class Mine(type(model.blocks[0])):
        pass

    model.blocks[0].__class__ = Mine
    assert capabilities_of(model).blocks == {"blocks": 2}
    Mine.forward = lambda self, hidden_states, *given, **named: hidden_states * 2
    with pytest.raises(ConfigurationError, match="are not known"):
        capabilities_of(model)


def test_a_processor_that_torch_does_not_compute_is_refused_by_name():
    case = case_named("DiT")
    model = case.model()
    for block in model.transformer_blocks:
        block.attn1.set_processor(diffusers.models.attention_processor.AttnProcessor())
    before = by_hand.state_of(model)
    with pytest.raises(DenoiserError, match=r"transformer_blocks\[1\].*AttnProcessor does not use torch's"):
        made_with(case, model, IdentityAttention(1))
    assert by_hand.state_of(model) == before


def test_attention_to_a_picture_prompt_stays():
    """A processor that adds attention to other tokens asks torch a second time."""
    case = case_named("DiT")
    model = case.model()
    prompt = torch.randn(2, 2, 16, 8, generator=torch.Generator().manual_seed(0))  # as many tokens as the picture

    class WithPrompt(diffusers.models.attention_processor.AttnProcessor2_0):
        def __call__(self, attn, hidden_states, *given, **named):
            made = super().__call__(attn, hidden_states, *given, **named)
            seen = F.scaled_dot_product_attention(prompt, prompt, prompt)
            return made + seen.transpose(1, 2).reshape(made.shape)

    model.transformer_blocks[1].attn1.set_processor(WithPrompt())
    made = made_with(case, model, IdentityAttention(1))
    calls = []

    def first_alone(query, key, value, **more):
        calls.append(1)
        change = by_hand.masked_to_itself if len(calls) == 1 else by_hand.OPERATION
        return change(query, key, value)

    with by_hand.attending_otherwise(case, model, [("blocks", 1)], first_alone):
        expected = case.made(model)
    assert len(calls) == 2
    torch.testing.assert_close(made, expected)


def test_joined_projections_cannot_be_blurred():
    case = case_named("Flux")
    model = case.model()
    model.fuse_qkv_projections()
    with pytest.raises(ConfigurationError, match=r"unfuse_qkv_projections\(\)"):
        made_with(case, model, BlurredAttention(0))
    made_with(case, model, IdentityAttention(0))


def test_models_that_may_not_see_their_hooks_are_refused():
    case = case_named("Wan")
    cached = case.model()
    cached.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    assert "has a cache" in capabilities_of(cached)(branch_of(SkipSelfAttention(0)))
    compiled = torch.compile(case.model(), backend="eager")
    assert "is compiled" in capabilities_of(compiled)(branch_of(SkipSelfAttention(0)))
    recomputing = case.model()
    recomputing.enable_gradient_checkpointing()
    assert "runs its blocks again in the backward pass" in capabilities_of(recomputing)(branch_of(SkipSelfAttention(0)))
    with torch.no_grad():
        assert capabilities_of(recomputing)(branch_of(SkipSelfAttention(0))) is None
    flagged = torch.compile(case_named("LTX-2, type 2.0").model(), backend="eager")
    assert capabilities_of(flagged)(branch_of(SkipSelfAttention(0))) is None, "arguments need no hooks"


def test_a_run_of_ones_own_is_refused_at_start_and_works_otherwise():
    case = case_named("Wan")
    model, inputs = case.model(), case.inputs()
    able = capabilities_of(model)

    def start(spec):
        return Guidance.from_spec(spec).start(
            conditions={"positive": {}}, sigmas=[1.0, 0.0], prediction_type="flow", supports=able
        )

    with pytest.raises(ConfigurationError, match=r"plugin 'stg' asks for the pass 'perturbed'.*block 7"):
        start("stg:scale=1,blocks=7")

    def denoise(branch):
        with perturbed(model, branch) as arguments, torch.no_grad():
            return model(**inputs, **arguments, return_dict=False)[0]

    (plain,), (weak,) = case.made(model), made_with(case, model, SkipSelfAttention(1))
    made = start("stg:scale=2,blocks=1").step(0, inputs["hidden_states"], denoise)
    torch.testing.assert_close(made, plain + 2 * (plain - weak))


def test_adapters_are_no_hindrance():
    from peft import LoraConfig, get_peft_model

    case = case_named("Wan")
    model = get_peft_model(case.model(), LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False))
    plain = case.made(model)
    made = made_with(case, model, SkipSelfAttention(0))
    with by_hand.attending_otherwise(case, model.get_base_model(), [("blocks", 0)], by_hand.masked_to_itself):
        torch.testing.assert_close(made, case.made(model))
    blurred = made_with(case, model, BlurredAttention(0))
    assert not equal(made, plain)
    assert not equal(blurred, plain)


def test_the_page_shows_which_perturbations_run_on_which_models():
    assert table() in PAGE.read_text(), "run: python tests/perturbed_models.py --write"


def test_blur_at_infinity_is_what_diffusers_makes_of_a_narrow_one():
    """diffusers 0.42 takes the mean where the blur is narrow, and blurs where it is endless.

    See docs/diffusers-perturbations.md.
    """
    guidance = pytest.importorskip("diffusers.hooks.smoothed_energy_guidance_utils")
    x = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    theirs = guidance._gaussian_blur_2d(x.clone(), 7, 1.0, 9999.9)
    torch.testing.assert_close(BlurredAttention(0).blurred(x, (3, 3)), theirs)
    assert F.mse_loss(BlurredAttention(0, sigma=1.0).blurred(x, (3, 3)), theirs) > 1e-3
