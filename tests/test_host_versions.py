"""A host in a version with which guidance was not tested causes one warning, which names the range; every host does."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import comfyui_engine
import pytest
import torch
from engines.loading import VERSIONS, with_engine

from guidance_core.hosts import versions
from guidance_core.hosts.versions import TESTED, UntestedVersionWarning, tell_untested, tell_untested_host

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    "diffusers": "diffusers.md",
    "sglang": "sglang.md",
    "vllm-omni": "vllm-omni.md",
    "ComfyUI": "comfyui.md",
    "ltx-pipelines": "ltx.md",
}


@pytest.fixture(autouse=True)
def _untold():
    tell_untested.cache_clear()
    yield
    tell_untested.cache_clear()


def told(function):
    """Return the texts of the warnings of a function about versions, from its first call and from its second."""
    found = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
        found.append([str(each.message) for each in caught if each.category is UntestedVersionWarning])
    return found


@pytest.mark.parametrize(
    ("version", "first", "last", "is_tested"),
    [
        ("0.42.1", "0.42", "0.42", True),
        ("0.42.1.dev0", "0.42", "0.42", True),
        ("0.420", "0.42", "0.42", False),
        ("0.41.9", "0.42", "0.42", False),
        ("1.0", "0.42", "0.42", False),
        ("0.5.23", "0.5.23", "0.5.23", True),
        ("0.5.23.post1", "0.5.23", "0.5.23", True),
        ("0.5.24", "0.5.23", "0.5.23", False),
        ("0.6.0.dev3", "0.5.23", "0.6", True),
        ("0.6.7", "0.5.23", "0.6", True),
        ("0.7", "0.5.23", "0.6", False),
        ("main", "0.5.23", "0.6", False),
    ],
)
def test_a_range_includes_both_of_its_ends(version, first, last, is_tested):
    tested = first if first == last else f"{first} to {last}"
    text = f"engine {version} is installed; guidance was tested with engine {tested}."
    assert told(lambda: tell_untested("engine", first, last, found=version)) == [[] if is_tested else [text], []]


def test_a_host_that_is_not_installed_is_not_told_of():
    assert told(lambda: tell_untested("no-such-engine", "1", "2")) == [[], []]


def test_the_warning_names_the_line_of_the_user():
    with pytest.warns(UntestedVersionWarning) as caught:
        tell_untested_host("ComfyUI", found="9.9")
    assert [each.filename for each in caught] == [__file__]


def _guides_a_pipeline():
    from every_pipeline import CASES

    from guidance_core.hosts.diffusers import guide

    guide(CASES[0].pipeline(), "cfg:scale=5")


def _makes_a_guider():
    from guidance_core.hosts.diffusers.modular import StackGuidance

    StackGuidance("cfg:scale=5")


def _runs_the_transformer_of_ltx2():
    from guidance_core.hosts.ltx2 import Grid, LTX2Denoiser

    LTX2Denoiser(torch.nn.Identity(), (torch.zeros(1), torch.zeros(1)), 0.5, Grid())


@pytest.mark.parametrize("use", [_guides_a_pipeline, _makes_a_guider, _runs_the_transformer_of_ltx2])
def test_diffusers_is_told_of_once_wherever_it_is_used(monkeypatch, use):
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr(diffusers, "__version__", "0.99.0")
    first, second = told(use)
    assert len(first) == 1
    assert first[0].startswith("diffusers 0.99.0 is installed; guidance was tested with diffusers 0.42.")
    assert second == []


def _sglang(name, kind):
    return lambda: getattr(importlib.import_module(name), kind)().generate()


def _ltx_of_vllm_omni():
    jobs = importlib.import_module("vllm_omni_jobs")
    jobs.Pipeline(jobs.Executor()).generate()


@pytest.mark.parametrize(
    ("engine", "host", "use"),
    [
        ("sglang", "sglang", _sglang("sglang_jobs", "Guided")),
        ("sglang", "sglang", _sglang("sglang_ltx2_jobs", "Guided")),
        ("vllm_omni", "vllm-omni", _sglang("vllm_omni_jobs", "Guided")),
        ("vllm_omni", "vllm-omni", _ltx_of_vllm_omni),
    ],
    ids=["sglang", "sglang, LTX-2", "vLLM-Omni", "vLLM-Omni, LTX-2"],
)
def test_an_engine_is_told_of_once_when_it_guides(monkeypatch, engine, host, use):
    pytest.importorskip("diffusers")
    with_engine(engine)
    monkeypatch.setattr(versions.metadata, "version", lambda name: {host: "99.1"}[name])
    tested = TESTED[host][0]
    assert told(use) == [[f"{host} 99.1 is installed; guidance was tested with {host} {tested}."], []]


def test_comfyui_is_told_of_once_when_it_loads_the_nodes(monkeypatch):
    comfyui_engine.loaded()
    guider = importlib.import_module("guidance_core.hosts.comfyui.guider")
    assert importlib.import_module("comfyui_version").__version__ == TESTED["ComfyUI"][0]
    monkeypatch.setattr("comfyui_version.__version__", "0.99.0")
    spec = guider.__spec__
    module = importlib.util.module_from_spec(spec)  # a copy, so that the classes of the one in use stay
    text = "ComfyUI 0.99.0 is installed; guidance was tested with ComfyUI 0.30.0."
    assert told(lambda: spec.loader.exec_module(module)) == [[text], []]


def test_the_ranges_are_those_of_the_tests_and_the_pages():
    for engine, version in VERSIONS.items():
        assert TESTED[engine.replace("_", "-")][1] == version
    for host, (first, last) in TESTED.items():
        text = (DOCS / PAGES[host]).read_text()
        assert "UntestedVersionWarning" in text, host
        assert f"{host} {first}" in text, host
        assert f"{last}" in text, host
