"""A run that can be made, but is probably not what its host meant, warns at its start."""

from __future__ import annotations

import warnings

import pytest
import torch

from guidance_core import ConfigurationError, Guidance, TimestepWarning, UnguidedWarning, Within
from guidance_core.steps.doubtful import look_like_timesteps
from guidance_plugins import CFG, PAG, STG, Classifier, Interval

BOTH = {"positive": {}, "negative": {}}


def karras(high, low=0.002, count=25, rho=7.0):
    ends = high ** (1 / rho), low ** (1 / rho)
    return [(ends[0] + i / (count - 1) * (ends[1] - ends[0])) ** rho for i in range(count)]


def shifted(count, shift=3.0):
    """Return timesteps that a time shift has moved up, rounded."""
    evenly = [1 - i / count for i in range(count)]
    return [round(1000 * shift * t / (1 + (shift - 1) * t)) for t in evenly]


def started(spec, sigmas, prediction_type="epsilon", **others):
    """Return the warnings of a start."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        Guidance.from_spec(spec).start(
            conditions=BOTH, sigmas=sigmas, prediction_type=prediction_type, alphas=others.pop("alphas", 1.0), **others
        )
    return [(each.category, str(each.message), each.filename) for each in found]


TIMESTEPS = {
    "every twentieth": [*range(999, 0, -20), 0],
    "50 steps of DDIM": [*range(981, 0, -20), 0],
    "linspace": torch.linspace(999, 0, 31),
    "from the middle, as image-to-image": [601, 581, 561, 541, 521, 501, 0],
    "few steps": [999, 749, 499, 249, 0],
    "AYS": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0],
    "shifted": [*shifted(20), 0],
    "one step": [999, 0],
    "inversion": [1, 201, 401, 601, 801, 999],
    "all": range(1000, -1, -1),
}
NOISE = {
    "rectified": [1 - i / 20 for i in range(21)],
    "EDM": [*karras(80.0), 0.0],
    "EDM, few": [80.0, 40.0, 20.0, 10.0, 0.0],
    "EDM, evenly": torch.linspace(80, 0, 9),
    "SDXL": [*karras(14.6, 0.03), 0.0],
    "SVD": [*karras(700.0), 0.0],
    "SVD, the first steps": karras(700.0)[:4],
    "SVD, whole": [700, 300, 100, 30, 9, 2, 0],
    "SVD in one step": [700.0, 0.0],
    "halves": [512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 0],
    "exploding": [1348.0, 500.0, 100.0, 10.0, 0.01],
    "nothing": [0, 0, 0],
}


@pytest.mark.parametrize("levels", TIMESTEPS.values(), ids=TIMESTEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "x0"])
def test_timesteps_given_as_sigmas_are_warned_of_at_the_callers_line(levels, prediction_type):
    [(category, text, filename)] = started("cfg:scale=3", levels, prediction_type, alphas=None)
    assert category is TimestepWarning
    assert "look like timesteps" in text
    assert "alphas_cumprod" in text
    assert filename == __file__


def test_timesteps_are_warned_of_before_an_error_that_follows_from_them():
    with pytest.warns(TimestepWarning), pytest.raises(ConfigurationError, match="needs alpha"):
        Guidance.from_spec("apg:scale=3").start(conditions=BOTH, sigmas=TIMESTEPS["few steps"], prediction_type="v")


@pytest.mark.parametrize("levels", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "x0"])
def test_real_noise_levels_are_not_taken_for_timesteps(levels, prediction_type):
    assert not started("cfg:scale=3", levels, prediction_type)
    assert not look_like_timesteps([float(level) for level in levels])


def test_even_levels_of_svd_are_noise_where_the_host_says_how_noise_is_added():
    assert not started("cfg:scale=3", [700, 600, 500, 400, 300, 200, 100, 0], alphas=1.0)
    assert started("cfg:scale=3", [999, 666, 333, 0], alphas=1.0)


def test_the_output_whose_sigmas_are_timesteps_is_named():
    [(_, text, _)] = started(
        "cfg:scale=3", {"video": [1.0, 0.5, 0.3, 0.0], "audio": [999, 666, 333, 0]}, outputs=("video", "audio")
    )
    assert text.startswith("sigmas of 'audio' (999, 666, 333, 0) look like timesteps")


def test_levels_of_what_cannot_be_converted_are_not_looked_at():
    assert not started("cfg:scale=3", TIMESTEPS["few steps"], "other", alphas=None)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cfg:scale=3,interval:lo=0.2,hi=0.8", "plugin 'interval' acts at sigmas from 0.2 to 0.8, but .* 249 to 999"),
        ("interval:lo=0.2,hi=0.8,cfg:scale=3", "plugin 'interval'"),
        ("cfg:scale=within(3, lo=0.2, hi=0.8)", "plugin 'cfg' acts at sigmas from 0.2 to 0.8"),
        ("cfg:scale=within(3, lo=0.2, hi=0.8),rescale,renorm", "plugin 'cfg' acts at sigmas from 0.2 to 0.8"),
    ],
)
def test_a_window_that_holds_no_step_is_told_too(spec, says):
    with pytest.warns(UnguidedWarning, match=f"no step of this run is guided: {says}"), pytest.warns(TimestepWarning):
        Guidance.from_spec(spec).start(
            conditions=BOTH, sigmas=[999, 749, 499, 249, 0], prediction_type="v", alphas=[0.1, 0.3, 0.6, 0.9]
        )


@pytest.mark.parametrize(
    "plugins",
    [
        [CFG(3), Interval(lo=0, hi=0, by="fraction")],
        [CFG(3), Interval(lo=0.2, hi=0.4, by="fraction", ends="floored")],
        [STG(scale=1, blocks=0), Interval(lo=2, hi=3)],
        [PAG(scale=1, blocks=0, start=0.3, stop=0.4)],
        [CFG({"output": Within(3, lo=5, hi=9)})],
        [Classifier(lambda x, sigma: -x.square().sum(1)), Interval(lo=2, hi=3)],
    ],
)
def test_a_window_of_any_kind_without_a_step_is_told(plugins):
    with pytest.warns(UnguidedWarning, match="no step of this run is guided: plugin"):
        Guidance(plugins).start(conditions=BOTH, sigmas=[1.0, 0.5, 0.0], prediction_type="flow")


@pytest.mark.parametrize(
    ("spec", "count", "says"),
    [
        ("cfg:scale=3,slg", 4, "'slg' acts in the fractions 0.01 to 0.2 of the steps, which hold none of the 4 steps"),
        ("pag:start=0.3,stop=0.4,cfg:scale=3", 2, "'pag' acts in the fractions 0.3 to 0.4 .* none of the 2 steps"),
        ("cfg:scale=3,slg", 1, "'slg' acts in .*, which do not hold the only step; its start and stop set them"),
    ],
)
def test_a_method_whose_own_window_holds_no_step_is_told_beside_others_that_guide(spec, count, says):
    with pytest.warns(UnguidedWarning, match=f"a method guides no step of this run: plugin {says}"):
        Guidance.from_spec(spec).start(
            conditions=BOTH, sigmas=[1 - i / count for i in range(count + 1)], prediction_type="flow"
        )


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "cfg:scale=1",
        "cfg:scale=1,interval:lo=0.2,hi=0.8",
        "cfg:scale=3,interval:lo=0.9,hi=1",
        "cfg:scale=3,stg:scale=1,blocks=0,interval:lo=2,hi=3,methods=[stg]",
        "cfg:scale=3,rescale:phi=0.7",
        "cfg:scale=within(3, lo=5, hi=9, otherwise=2)",
        "cfg:scale=3,gate",
        "cfg:scale=3,tag,interval:lo=2,hi=3,methods=[cfg]",
        "cfg:scale=within(3, lo=5, hi=9),momentum",
        "cfg:scale=3,slg:scale=0",
        "cfg:scale=3,slg:start=0,stop=0.2",
    ],
)
def test_a_guided_run_and_guidance_that_is_off_by_its_scale_are_not_warned_of(spec):
    assert not started(spec, [1.0, 0.5, 0.0], "flow", alphas=None)


@pytest.mark.parametrize("name", [None, 3, ""])
def test_a_warning_stops_no_code_that_belongs_to_no_module(name):
    code = "start(conditions=both, sigmas=[999, 749, 499, 249, 0], prediction_type='epsilon', alphas=1.0)"
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        exec(code, {"__name__": name, "start": Guidance.from_spec("cfg:scale=3").start, "both": BOTH})
