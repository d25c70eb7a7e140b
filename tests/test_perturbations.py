"""Perturbations: what is changed is what the formula says, in each block, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
import weakened_jobs
from small_methods import text
from torch.nn import functional as F

from guidance_core import (
    BlurredAttention,
    Branch,
    BranchConflictError,
    Capabilities,
    ConfigurationError,
    DropOut,
    Guidance,
    IdentityAttention,
    NoisedTimestep,
    NormalizedAttention,
    ShuffledTokens,
    SkipBlocks,
    SkipSelfAttention,
    SlidingWindows,
    SoftIdentityAttention,
)
from guidance_core.models import letters_condition, load_letters_model, load_small_letters_model
from guidance_core.models.changes import POSSIBLE
from guidance_plugins import TPG


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The arithmetic.


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3), (2, 3, 4), (7,), (1, 2)])
def test_a_blur_of_the_queries_is_one_of_the_attention_map(sigma, grid):
    tokens = math.prod(grid)
    q, k = drawn(2, tokens, 6), drawn(2, tokens, 6, seed=1)
    logits = q @ k.mT
    lengths = grid[-2:]
    images = logits.mT.reshape(-1, 1, *(lengths if len(lengths) == 2 else (1, *lengths)))
    expected = images
    for dim, length in enumerate(images.shape[-2:]):
        width = math.ceil(6 * sigma)
        width = min(width + 1 - width % 2, length - (length % 2 - 1))
        at = torch.arange(width, dtype=torch.float64) - width // 2
        kernel = torch.exp(-(at**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, *((-1, 1) if dim == 0 else (1, -1)))
        pad = (0, 0, width // 2, width // 2) if dim == 0 else (width // 2, width // 2, 0, 0)
        expected = F.conv2d(F.pad(expected, pad, mode="reflect"), kernel)
    blurred = BlurredAttention(sigma=sigma).blurred(q, grid) @ k.mT
    torch.testing.assert_close(blurred, expected.reshape(2, tokens, tokens).mT)


def test_a_blur_without_end_is_the_mean_of_the_queries():
    q = drawn(2, 3, 12, 5)
    mean = q.unflatten(2, (2, 6)).mean(3, keepdim=True).expand(-1, -1, -1, 6, -1).flatten(2, 3)
    torch.testing.assert_close(BlurredAttention().blurred(q, (2, 2, 3)), mean)  # each frame by itself
    with pytest.raises(ConfigurationError, match=r"the grid \(3, 5\) does not have 12 tokens"):
        BlurredAttention().blurred(q, (3, 5))


def test_heads_are_mixed_with_the_identity():
    q, k, v = (drawn(2, 4, 7, 3, seed=seed) for seed in range(3))
    attention = torch.softmax(q @ k.mT / 3**0.5, -1)
    expected = attention @ v
    expected[:, [1, 3]] = (0.7 * attention + 0.3 * torch.eye(7, dtype=v.dtype))[:, [1, 3]] @ v[:, [1, 3]]
    mixed = SoftIdentityAttention(heads=(3, 1), weight=0.3).mixed(attention @ v, v)
    torch.testing.assert_close(mixed, expected)
    assert torch.equal(SoftIdentityAttention().mixed(attention @ v, v), v)
    with pytest.raises(ConfigurationError, match="acts on head 9, but the model has 4 heads, counted from 0"):
        SoftIdentityAttention(heads=9).mixed(v, v)


def test_normalized_attention_is_that_of_the_paper():
    z, away = drawn(2, 5, 8), drawn(2, 5, 8, seed=1)
    change = NormalizedAttention(scale=4.0, tau=1.5, alpha=0.3)
    moved = z + 4.0 * (z - away)
    growth = moved.abs().sum(-1, keepdim=True) / z.abs().sum(-1, keepdim=True)
    assert (growth > 1.5).any()
    expected = 0.3 * moved * growth.clamp(max=1.5) / growth + 0.7 * z
    torch.testing.assert_close(change.mixed(z, away), expected)
    torch.testing.assert_close(change.mixed(z, z), z)
    zero = torch.zeros(1, 1, 8)
    assert torch.equal(change.mixed(zero, zero), zero)  # no 0/0


def test_random_changes_follow_from_the_seed_of_the_row():
    x = drawn(2, 9, 4)
    change = ShuffledTokens(seeds=(5, 6))
    shuffled = change.shuffled(x, 2)
    order = change.order(9, 2)
    assert torch.equal(order.sort(1).values, torch.arange(9).expand(2, 9))
    assert torch.equal(shuffled[1], x[1][order[1]])
    assert torch.equal(ShuffledTokens(seeds=(6,)).shuffled(x[1:], 2), shuffled[1:])  # whatever its batch mates
    assert not torch.equal(change.order(9, 3), order)  # each block anew
    with pytest.raises(ConfigurationError, match=r"take it from branch.perturbations"):
        ShuffledTokens().order(9, 2)


def test_dropped_numbers_are_made_up_for():
    x = drawn(1, 4000)
    dropped = DropOut(rate=0.25, seeds=(1,)).dropped(x, 0, "mlp")
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)
    assert abs(kept.double().mean() - 0.75) < 0.03
    assert not DropOut(rate=1.0).dropped(x, 0, "mlp").any()


def test_the_noise_of_a_timestep_has_the_size_of_its_embedding():
    e = drawn(2, 5000) * torch.tensor([[1.0], [10.0]])
    noise = NoisedTimestep(scale=2.0, power=2.0, seeds=(1, 2)).noised(e, torch.tensor([0.5, 1.0])) - e
    torch.testing.assert_close(noise.std(1), e.std(1) * torch.tensor([0.5, 2.0]), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BlurredAttention(sigma=0), r"BlurredAttention: sigma must lie in \(0, inf\)"),
        (lambda: BlurredAttention(sigma="wide"), "BlurredAttention: sigma must be a number; got 'wide'"),
        (lambda: SoftIdentityAttention(weight=1.5), r"weight must lie in \[0, 1\]"),
        (lambda: SoftIdentityAttention(heads=(0, -1)), "heads count from 0; got -1"),
        (lambda: NormalizedAttention(tau=0), r"tau must lie in \(0, inf\)"),
        (lambda: DropOut(rate=-0.1), r"rate must lie in \[0, 1\]"),
        (lambda: SlidingWindows(count=0), "count must be a whole number from 1"),
        (lambda: SlidingWindows(size=float("nan")), "size must be finite"),
        (lambda: Capabilities(heads=0), "heads must be the number of heads"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ConfigurationError, match=says):
        make()


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        (BlurredAttention(3), IdentityAttention((3, 4)), True),
        (BlurredAttention(3), BlurredAttention((3, 4)), False),  # the same change
        (BlurredAttention(3), BlurredAttention(3, sigma=2.0), True),
        (SoftIdentityAttention(3, heads=0), SoftIdentityAttention(3, heads=1, weight=0.5), False),
        (SoftIdentityAttention(3, heads=(0, 1)), SoftIdentityAttention(3, heads=1, weight=0.5), True),
        (SoftIdentityAttention(3, heads=0), IdentityAttention(3), True),
        (ShuffledTokens(3), SkipBlocks(3), True),
        (ShuffledTokens(3), IdentityAttention(3), False),
        (DropOut(3), SkipBlocks(3), True),
        (DropOut(3), SkipBlocks(4), False),
        (NormalizedAttention(), SkipBlocks(3), False),  # what is skipped attends to nothing
        (NormalizedAttention(), NormalizedAttention(scale=3.0), True),
        (NoisedTimestep(), SlidingWindows(), False),
        (SlidingWindows(), SlidingWindows(count=3), True),
    ],
)
def test_two_changes_of_one_place_collide(one, other, collide):
    if not collide:
        Branch("both", perturbations=(one, other))
        return
    with pytest.raises(BranchConflictError, match="act on the same blocks"):
        Branch("both", perturbations=(one, other))


# The embedded transformers.

HOSTS = {
    "letters": load_letters_model,
    "smaller": load_small_letters_model,
}

SOME = {
    "skip": SkipBlocks,
    "identity": IdentityAttention,
    "attention": SkipSelfAttention,
    "soft": lambda blocks: SoftIdentityAttention(blocks, heads=(0, 2), weight=0.5),
    "blur": lambda blocks: BlurredAttention(blocks, sigma=1.0),
    "shuffle": lambda blocks: ShuffledTokens(blocks, seeds=(1, 2)),
    "drop": lambda blocks: DropOut(blocks, rate=0.3, seeds=(1, 2)),
    "timestep": lambda blocks: NoisedTimestep(blocks, seeds=(1, 2)),
}


class Watched:
    """The model, with what enters and leaves each block."""

    def __init__(self, name):
        self.model = HOSTS[name]()
        self.seen = {}
        for index, block in enumerate(self.model.blocks):
            block.register_forward_hook(
                lambda _, given, made, index=index: self.seen.update({index: (*given[:2], made)})
            )

    def __call__(self, *changes):
        self.seen = {}
        side = self.model.side
        x = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(3))
        return self.model(x, 0.6, torch.tensor([3, 7]), torch.tensor([1, 2]), changes), dict(self.seen)


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("block", [0, 1, 3])
@pytest.mark.parametrize("host", HOSTS)
def test_only_the_named_block_changes(kind, block, host):
    watched = Watched(host)
    grid = (watched.model.grid,) * 2
    usual, before = watched()
    changed, after = watched(SOME[kind](block))
    assert not torch.equal(changed, usual)
    for index in range(block):
        assert torch.equal(before[index][-1], after[index][-1])
    if kind == "skip":
        assert block not in after
    else:
        assert torch.equal(before[block][0], after[block][0])
        assert not torch.equal(before[block][-1], after[block][-1])
    for index in range(
        block + 1, len(watched.model.blocks)
    ):  # later blocks do what they always do with what they are given
        entering, condition, left = after[index]
        assert torch.equal(condition, before[index][1])
        torch.testing.assert_close(watched.model.blocks[index](entering, condition, grid), left)
    assert torch.equal(watched()[0], usual)  # and nothing stays changed


@pytest.mark.parametrize("host", HOSTS)
def test_no_weight_is_no_change_and_full_weight_is_the_identity(host):
    watched = Watched(host)
    usual, identity = watched()[0], watched(IdentityAttention((1, 3)))[0]
    assert torch.equal(watched(SoftIdentityAttention((1, 3), weight=0.0))[0], usual)
    assert torch.equal(watched(SoftIdentityAttention((1, 3), weight=1.0))[0], identity)
    assert torch.equal(watched(DropOut((1, 3), rate=0.0, seeds=(1, 2)))[0], usual)
    torch.testing.assert_close(watched(DropOut((1, 3), rate=1.0, seeds=(1, 2)))[0], watched(SkipBlocks((1, 3)))[0])
    torch.testing.assert_close(watched(SlidingWindows(size=1.0))[0], usual)


def test_no_prediction_depends_on_what_lies_outside_its_windows():
    model = load_small_letters_model()
    x = torch.randn(1, 1, 28, 28, requires_grad=True)
    seen = model(x, 0.6, torch.tensor([3]), torch.tensor([1]), (SlidingWindows(size=0.5),))
    (gradient,) = torch.autograd.grad(seen[..., :12, :12].sum(), x)
    assert gradient[..., 12:16, 12:16].any()  # windows of four patches of four pixels, three patches apart
    assert not gradient[..., 16:, :].any()
    assert not gradient[..., :, 16:].any()


@pytest.mark.parametrize("kind", POSSIBLE)
def test_blocks_that_the_model_does_not_have_are_named(kind):
    model, x = load_small_letters_model(), torch.zeros(1, 1, 28, 28)
    with pytest.raises(ConfigurationError, match="SmallLettersTransformer has 4 blocks, 0 to 3"):
        model(x, 0.5, torch.tensor([1]), torch.tensor([2]), (kind((2, 4)),))


def test_skipping_every_block_makes_the_prediction_forget_neighbours():
    model, x = load_small_letters_model(), torch.randn(1, 1, 28, 28)
    asked = (0.5, torch.tensor([3]), torch.tensor([1]), (SkipBlocks(),))
    changed = x.clone()
    changed[..., :4, :4] += 1
    elsewhere = (model(changed, *asked) - model(x, *asked))[..., 4:, 4:]
    assert torch.equal(elsewhere, torch.zeros_like(elsewhere))


# Seeds.


def played(seeds=(4, 5), rows=(0, 1)):
    model = load_small_letters_model()
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(3))[list(rows)]
    condition = letters_condition(torch.tensor([3, 7])[list(rows)], torch.tensor([1, 2])[list(rows)])
    run = Guidance([TPG(3.0, (2, 3))]).start(
        conditions={"positive": condition},
        sigmas=[0.9, 0.5, 0.0],
        prediction_type="flow",
        seeds=[seeds[row] for row in rows],
        supports=Capabilities(POSSIBLE, blocks=4),
    )
    return [run.step(i, x, lambda b: model(x, b.sigma, **b.inputs, perturbations=b.perturbations)) for i in range(2)]


def test_a_sample_is_shuffled_by_its_own_seed_whatever_its_batch_mates():
    both, alone = played(), played(rows=(1,))
    for one, other in zip(both, alone, strict=True):
        torch.testing.assert_close(one[1:], other)
    assert not torch.allclose(played(seeds=(8, 9))[0], both[0])


def test_each_step_shuffles_anew_and_each_evaluation_alike():
    seen = []
    run = Guidance([TPG(3.0)]).start(
        conditions={"positive": {"text": text()}}, sigmas=[0.9, 0.5, 0.0], prediction_type="flow", seeds=3
    )
    for index in (0, 0, 1):
        run.step(index, torch.zeros(2, 4), lambda branch: seen.append(branch.perturbations) or torch.ones(2, 4) + 0)
    first, again, second = [each[0].seeds for each in seen if each]
    assert first == again
    assert first != second
    assert len(set(first)) == 2


@pytest.mark.parametrize("seeds", [7, (4, 5, 6)])
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_draw_what_one_process_draws(ranks, count, seeds):
    for found in ranks.run(weakened_jobs.compared, seeds, ranks=count):
        assert found["all_gather"] == 0.0
        assert max(found.values()) < 1e-4
