"""`guidance-core convert`: each guider of diffusers as a stack, against the guider itself, step by step."""

from __future__ import annotations

import contextlib
import inspect
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_algebra import BOTH, draw
from typer.testing import CliRunner

from guidance_core import ConfigurationError, GuidanceError, UnknownNameError, Window
from guidance_core.commands.app import app
from guidance_core.discovery.shipped import PLUGINS, SHIPPED
from guidance_core.hosts.guiders import ROWS, guidance_of, read_config
from guidance_core.parameters.schedules import Position

guiders = pytest.importorskip("diffusers.guiders")

pytestmark = pytest.mark.filterwarnings("ignore::guidance_core.UnguidedWarning")  # windows drawn at random

SHAPE = (2, 3, 4)
NAMES = {"pred_cond": "cond", "pred_uncond": "uncond", "pred_cond_skip": "perturbed", "pred_cond_stg": "perturbed"}
NAMES |= {"pred_cond_modality": "modality"}
NAMES |= {"pred_cond_seg": "perturbed"}
ALIASES = {"neg": "uncond", "weak": "uncond", "identity": "perturbed", "skipped": "perturbed", "blurred": "perturbed"}
HERE = [name for name, row in ROWS.items() if set(row.methods) <= set(SHIPPED[PLUGINS])]
"Guiders all of whose methods ship."
NEEDED = {
    "AutoGuidance": {"auto_guidance_layers": [3], "dropout": 1.0},
    "PerturbedAttentionGuidance": {"perturbed_guidance_layers": [3]},
    "SkipLayerGuidance": {"skip_layer_guidance_layers": [3]},
    "SmoothedEnergyGuidance": {"seg_guidance_layers": [3]},
}
"What has no default that can be used."

scales = st.sampled_from([0.0, 1.0, 1.5, 4.0, 7.5])
shares = st.one_of(st.sampled_from([0.0, 0.01, 0.2, 0.29, 0.3, 0.5, 0.57, 0.9]), st.floats(0, 0.99))


@st.composite
def spans(draw, prefix=""):
    start = draw(shares)
    stop = draw(st.one_of(st.just(1.0), st.floats(start, 1.0)))
    return {f"{prefix}start": start, f"{prefix}stop": stop}


COMMON = {
    "guidance_scale": scales,
    "guidance_rescale": st.sampled_from([0.0, 0.3, 1.0]),
    "use_original_formulation": st.booleans(),
    "enabled": st.sampled_from([True, True, True, False]),
}
OWN = {
    "AdaptiveProjectedGuidance": {
        "adaptive_projected_guidance_momentum": st.sampled_from([None, -0.5, 0.3]),
        "adaptive_projected_guidance_rescale": st.sampled_from([0.0, 2.0, 15.0]),
        "adaptive_projected_guidance_norm_dim": st.sampled_from([None, -1, [-1, -2]]),
        "eta": st.sampled_from([0.0, 0.5, 1.0]),
    },
    "AdaptiveProjectedMixGuidance": {
        "adaptive_projected_guidance_scale": scales,
        "adaptive_projected_guidance_momentum": st.sampled_from([None, -0.5, 0.3]),
        "adaptive_projected_guidance_rescale": st.sampled_from([0.0, 2.0, 10.0]),
        "adaptive_projected_guidance_start_step": st.integers(0, 8),
        "eta": st.sampled_from([0.0, 0.5, 1.0]),
    },
    "AutoGuidance": {"auto_guidance_layers": st.sampled_from([[1], [7, 8, 9]]), "dropout": st.sampled_from([0.5, 1.0])},
    "ClassifierFreeGuidance": {},
    "ClassifierFreeZeroStarGuidance": {"zero_init_steps": st.integers(0, 3), "guidance_rescale": st.just(0.0)},
    "FrequencyDecoupledGuidance": {
        # Where a band is not guided, this guider uses another one in its place.
        "guidance_scales": st.lists(st.sampled_from([1.5, 4.0, 7.5]), min_size=2, max_size=2),
        "parallel_weights": st.sampled_from([None, [1.0, 0.5]]),
    },
    "LTX2Guidance": {
        "stg_scale": scales,
        "modality_scale": scales,
        "spatio_temporal_guidance_blocks": st.sampled_from([[1], [28, 29]]),
    },
    "MagnitudeAwareGuidance": {"alpha": st.sampled_from([0.0, 2.0, 8.0])},
    "PerturbedAttentionGuidance": {
        "perturbed_guidance_scale": scales,
        "perturbed_guidance_layers": st.sampled_from([[1], [7, 8, 9]]),
    },
    "SmoothedEnergyGuidance": {
        "seg_guidance_scale": scales,
        "seg_guidance_layers": st.sampled_from([[1], [7, 8, 9]]),
    },
    "SkipLayerGuidance": {
        "skip_layer_guidance_scale": scales,
        "skip_layer_guidance_layers": st.sampled_from([[1], [7, 8, 9]]),
    },
    "TangentialClassifierFreeGuidance": {},
}
SPANS = {
    "PerturbedAttentionGuidance": ("", "perturbed_guidance_"),
    "SkipLayerGuidance": ("", "skip_layer_guidance_"),
    "SmoothedEnergyGuidance": ("", "seg_guidance_"),
}
SHAPES = {"FrequencyDecoupledGuidance": (2, 3, 8, 8)}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    from diffusers.utils import logging

    logging.set_verbosity_error()


@st.composite
def configured(draw, name):
    """Return a guider with drawn settings."""
    known = inspect.signature(getattr(guiders, name)).parameters
    values = {key: draw(of) for key, of in {**COMMON, **OWN[name]}.items() if key in known}
    for prefix in SPANS.get(name, ("",)):
        values |= draw(spans(prefix))
    return getattr(guiders, name)(**values)


def predictions_of(seed, count, shape):
    names = ("cond", "uncond", "perturbed", "modality")
    return [dict(zip(names, draw(seed + i, *shape, count=len(names)), strict=True)) for i in range(count)]


def theirs(guider, steps):
    results = []
    for index, predictions in enumerate(steps):
        guider.set_state(index, len(steps), None)
        batches = guider.prepare_inputs({"x": tuple(predictions[name] for name in ("cond", "uncond", "cond", "cond"))})
        for batch in batches:
            batch.noise_pred = predictions[NAMES[getattr(batch, guider._identifier_key)]]
        results.append(guider(batches).pred)
    return results


def ours(guidance, steps):
    sigmas = [1 - index / len(steps) for index in range(len(steps) + 1)]
    run = guidance.start(conditions=BOTH, sigmas=sigmas, prediction_type="x0")
    zeros = torch.zeros_like(steps[0]["cond"])
    return [
        run.step(index, zeros, lambda branch, given=given: given[ALIASES.get(branch.name, branch.name)])
        for index, given in enumerate(steps)
    ]


@pytest.mark.parametrize("name", HERE)
@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(0, 2**16))
def test_the_stack_guides_as_the_guider_in_every_step(name, data, count, seed):
    if name == "FrequencyDecoupledGuidance":
        pytest.importorskip("kornia")
    guider = data.draw(configured(name))
    steps = predictions_of(seed, count, SHAPES.get(name, SHAPE))
    config = json.loads(guider.to_json_string())
    size = 2 + sum(abs(value) for key, value in config.items() if key.endswith("scale"))
    mine, others = ours(guidance_of(config), steps), theirs(guider, steps)
    for index, (one, other) in enumerate(zip(mine, others, strict=True)):
        close = torch.allclose(one, other, rtol=1e-4, atol=1e-5 * size)
        assert close, f"step {index} of {count}: {(one - other).abs().max():.1e}, {guidance_of(config).to_spec()}"


def test_every_guider_of_diffusers_has_a_row():
    found = {
        name
        for name, cls in vars(guiders).items()
        if inspect.isclass(cls) and issubclass(cls, guiders.BaseGuidance) and cls is not guiders.BaseGuidance
    }
    assert found == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_defaults_and_parameters_are_those_of_the_guider(name):
    known = {key: each.default for key, each in inspect.signature(getattr(guiders, name)).parameters.items()}
    assert known == dict(ROWS[name].defaults)


@pytest.mark.parametrize("name", HERE)
def test_the_written_spec_is_the_same_stack(name):
    guidance = guidance_of({"_class_name": name, **NEEDED.get(name, {}), "start": 0.29, "stop": 0.57})
    assert type(guidance).from_spec(guidance.to_spec()) == guidance


@given(st.integers(1, 60), spans())
@settings(max_examples=300, deadline=None)
def test_a_floored_window_counts_whole_steps(count, span):
    start, stop = span["start"], span["stop"]
    for index in range(count):
        position = Position(index, count, 1.0, 1.0)
        first, end = int(start * count), int(stop * count)
        assert Window(start, stop, "fraction", "floored").contains(position) == (first <= index < end)
        assert Window(start, stop, "fraction", "inside").contains(position) == (first < index < end)


def test_two_guiders_of_ltx2_are_one_stack(tmp_path):
    for name, scale in (("guider", 3.0), ("audio_guider", 7.0)):
        guider = guiders.LTX2Guidance(scale, 1.0, 3.0, 0.7, [28] if name == "guider" else None)
        guider.save_pretrained(tmp_path / name)
    found = CliRunner().invoke(
        app, ["convert", str(tmp_path / "guider"), "--audio", str(tmp_path / "audio_guider" / "guider_config.json")]
    )
    assert found.exit_code == 0, found.output
    assert "cfg_scale={video: 3, audio: 7}" in found.output
    assert "stg_blocks=[28]" in found.output


def test_layers_given_as_settings_of_hooks():
    from diffusers.hooks import LayerSkipConfig

    guider = guiders.SkipLayerGuidance(skip_layer_config=[LayerSkipConfig([6]), LayerSkipConfig([9, 8])])
    config = {**json.loads(guider.to_json_string())}
    config["skip_layer_config"] = [each.to_dict() for each in guider.skip_layer_config]
    assert "blocks=[6, 8, 9]" in guidance_of(config).to_spec()


def config(name="ClassifierFreeGuidance", **values):
    return {"_class_name": name, **values}


SKIP = {"indices": [1], "fqn": "auto"}
BAD = {
    "no class": ({}, "_class_name"),
    "unknown class": (config("ClassifierFreeGuidence"), "Did you mean 'ClassifierFreeGuidance'"),
    "no text": (config(name=3), "_class_name"),
    "unknown parameter": (config(guidance_scal=3.0), "Did you mean 'guidance_scale'"),
    "text": (config(guidance_scale="3"), "finite number"),
    "truth": (config(guidance_scale=True), "finite number"),
    "nan": (config(guidance_scale=float("nan")), "finite number"),
    "huge": (config(guidance_scale=10**400), "finite number"),
    "start": (config(start=1.0), "start must be"),
    "stop": (config(start=0.5, stop=0.4), "stop must be"),
    "flag": (config(enabled="yes"), "true or false"),
    "rescale": (config(guidance_rescale=2.0), "phi"),
    "dims": (config("AdaptiveProjectedGuidance", adaptive_projected_guidance_norm_dim=[0]), "batch"),
    "no layers": (config("SkipLayerGuidance"), "skip_layer_guidance_layers"),
    "fqn": (config("SkipLayerGuidance", skip_layer_config={**SKIP, "fqn": "single_transformer_blocks"}), "first list"),
    "part": (config("SkipLayerGuidance", skip_layer_config={**SKIP, "skip_ff": False}), "skip_ff=True only"),
    "dropout": (config("SkipLayerGuidance", skip_layer_config={**SKIP, "dropout": 0.5}), "dropout=1.0 only"),
    "steps": (config("ClassifierFreeZeroStarGuidance", zero_init_steps=1.5), "whole number"),
}


@pytest.mark.parametrize("given", BAD.values(), ids=list(BAD))
def test_what_cannot_be_converted_is_told(given):
    data, words = given
    with pytest.raises(ConfigurationError, match=words.replace("(", r"\(")):
        guidance_of(data)


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(HERE)))
def test_a_guider_whose_method_does_not_ship_is_told(name):
    with pytest.raises(ConfigurationError, match="which is not installed"):
        guidance_of({"_class_name": name, **NEEDED.get(name, {})})


def test_a_method_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("guidance_core.hosts.guiders.convert.plugin_class", _missing)
    with pytest.raises(ConfigurationError, match="'tcfg' here, which is not installed"):
        guidance_of(config("TangentialClassifierFreeGuidance"))


def _missing(name):
    raise UnknownNameError(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(ROWS)), st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_a_file_says_only_guidance_errors_escape(name, data):
    keys = data.draw(st.lists(st.sampled_from(sorted(ROWS[name].defaults)), max_size=4))
    with contextlib.suppress(GuidanceError):
        guidance_of({"_class_name": name, **{key: data.draw(JSON) for key in keys}})


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1, "a": 2}', "\ufeff{}", "[" * 5000])
def test_files_that_are_not_configurations(tmp_path, text):
    (tmp_path / "guider_config.json").write_text(text)
    found = CliRunner().invoke(app, ["convert", str(tmp_path)])
    assert isinstance(found.exception, ConfigurationError)
    with pytest.raises(ConfigurationError):
        read_config(tmp_path / "missing")
