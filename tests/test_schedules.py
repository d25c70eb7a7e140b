"""Schedules by name: the values of their papers and hosts, in every written form."""

from __future__ import annotations

import math

import pytest
import torch

from guidance_core import Beta, Counted, Exponential, Guidance, GuidanceError, PerOutput, Phases, Position, Window
from guidance_plugins import CFG


def values(schedule, steps=5, sigmas=None):
    sigmas = sigmas or [1 - step / steps for step in range(steps)]
    return [schedule.at(Position(step, steps, sigmas[step], sigmas[0])) for step in range(steps)]


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 2.0), (2.0, 3.5), (1.0, 4.0), (40.0, 3.0)])
def test_beta_is_the_density_of_torch_and_its_mean_is_the_scale(a, b):
    steps = 2001
    got = torch.tensor(values(Beta(7.5, a, b), steps))
    inside = torch.linspace(0, 1, steps)[1:-1]
    right = 7.5 * torch.distributions.Beta(a, b).log_prob(inside).exp()
    torch.testing.assert_close(got[1:-1], right, rtol=1e-3, atol=1e-5)
    assert got.mean().item() == pytest.approx(7.5, rel=5e-3)


def test_beta_by_peak_is_the_scale_at_its_largest():
    assert max(values(Beta(7.5, 2.0, 2.0, "peak"), 9)) == pytest.approx(7.5)
    assert values(Beta(3.0, form="peak"), 3) == pytest.approx([0, 3, 0])
    assert values(Beta(3.0, 1.0, 1.0, "peak"), 3) == [3.0, 3.0, 3.0]


def test_exponential_grows_from_start_by_the_papers_formula():
    levels = [0.9, 0.6, 0.3, 0.1]
    right = [1.5 * math.exp(0.7 * (1 - level / 0.9)) for level in levels]
    assert values(Exponential(1.5, 0.7, by="sigma"), 4, levels) == pytest.approx(right)
    assert values(Exponential(8, -math.log(4)), 3) == pytest.approx([8, 4, 2])


def test_phases_change_at_their_places():
    assert values(Phases([7, 4, 1], [0.8, 0.2])) == [7, 4, 4, 4, 1]
    assert values(Phases([7, 4, 1], [0.2, 0.6], by="fraction")) == [7, 4, 4, 1, 1]
    assert values(Phases([7], [])) == [7] * 5
    rounded = torch.tensor(0.7).item()
    assert values(Phases([7, 1], [0.7]), 2, [1.0, rounded]) == [7, 1]


def test_counted_steps_count_from_the_end_as_hosts_do():
    assert values(Counted("3x2+7x3")) == [7, 7, 7, 3, 3]
    assert values(Counted("3x2+7x45")) == [7, 7, 7, 3, 3]
    assert values(Counted("3x2+7x3", counted_from="start")) == [3, 3, 7, 7, 7]
    assert values(Counted("3.5x2", otherwise=6)) == [6, 6, 6, 3.5, 3.5]
    assert Counted(" 3.0 x 2 + 7X3".lower()) == Counted("3x2+7x3")


def test_a_numeric_parameter_takes_the_text_alone():
    right = CFG(Counted("3x2+7x3"))
    for spec in ("cfg:scale=3x2+7x3", 'cfg:scale="3 x 2 + 7.0x3"', "cfg:scale=counted(3x2+7x3)"):
        assert Guidance.from_spec(spec) == Guidance([right])
    assert Guidance.from_toml('[[guidance]]\nplugin = "cfg"\nscale = "3x2+7x3"') == Guidance([right])
    assert Guidance.from_json('{"guidance": [{"plugin": "cfg", "scale": "3x2+7x3"}]}') == Guidance([right])
    assert CFG({"video": "3x2+7x3", "audio": 2}).scale == PerOutput(video=Counted("3x2+7x3"), audio=2.0)


def test_a_run_with_more_steps_than_are_counted_is_refused_before_any_forward():
    with pytest.raises(GuidanceError, match="3x3 is for 3 steps, but the run has 6"):
        Guidance.from_spec("cfg:scale=3x3").start(
            conditions={"positive": {}, "negative": {}}, sigmas=[1, 0.8, 0.6, 0.4, 0.3, 0.1, 0], prediction_type="flow"
        )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cfg:scale=3x3+7", "must be a number"),
        ("cfg:scale=3x0", "at least one step"),
        ("cfg:scale=counted(7)", "such as '3x3\\+7x45'"),
        ("cfg:scale=counted(3x3, middle)", "'end' or 'start'"),
        ("cfg:scale=phases([1], [2])", "one change fewer"),
        ("cfg:scale=phases([1, 2, 3], [0.4, 0.9])", "must fall"),
        ("cfg:scale=phases([1, 2], [0.4], by=time)", "'sigma' or 'fraction'"),
        ("cfg:scale=phases([1, 2], [1.4], by=fraction)", r"lie in \[0, 1\]"),
        ("cfg:scale=beta(3, 0.5)", "infinite at an end"),
        ("cfg:scale=beta(3, form=top)", "'density' or 'peak'"),
        ("cfg:scale=beta(1e308, 5, 5)", "infinite"),
        ("cfg:scale=exponential(1, 800)", "must be finite"),
        ("rescale:phi=beta(0.9)", r"must lie in \[0, 1\]"),
        ("rescale:phi=0.5x3+1.5x2", r"must lie in \[0, 1\]"),
        ("rescale:phi=phases([0.5, 2], [0.4])", r"must lie in \[0, 1\]"),
        ("rescale:phi=exponential(0.5, 2)", r"must lie in \[0, 1\]"),
    ],
)
def test_what_a_schedule_cannot_be_is_said_when_it_is_made(spec, said):
    with pytest.raises(GuidanceError, match=said):
        Guidance.from_spec(spec)


def test_windows_by_what_is_done_after_a_step_meet_without_overlap_and_hold_every_step():
    for steps in range(1, 12):
        positions = [Position(step, steps, 1 - step / steps, 1.0) for step in range(steps)]
        for cut in (0.0, 0.25, 0.3, 0.5, 0.7, 1.0):
            before = [Window(0, cut, "done").contains(each) for each in positions]
            after = [Window(cut, 1, "done").contains(each) for each in positions]
            assert [one or other for one, other in zip(before, after, strict=True)] == [True] * steps
            assert not any(one and other for one, other in zip(before, after, strict=True))
            assert before == [(step + 1) / steps <= cut for step in range(steps)]
    with pytest.raises(GuidanceError, match="fractions must lie in"):
        Window(0, 2, "done")
    with pytest.raises(GuidanceError, match="'sigma'"):
        Window(0, 1, "don")
