"""Stacks survive the way through every written form exactly."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from installed import install, on_path

from guidance_core import (
    Beta,
    Cosine,
    Counted,
    Exponential,
    Guidance,
    GuidanceError,
    Linear,
    Phases,
    SpecError,
    Table,
    Within,
    discovery,
    hookimpl,
)
from guidance_plugins import APG, CFG, LTX2, STG, CFGZeroStar, Gate, Interval, Normalize, Rescale

numbers = st.floats(-1e6, 1e6, allow_nan=False)
unit = st.floats(0, 1)
axes = st.sampled_from(["sigma", "fraction"])
schedules = st.one_of(
    st.builds(Linear, numbers, numbers, axes),
    st.builds(Cosine, numbers, numbers, axes),
    st.builds(Beta, numbers, st.floats(1, 9), st.floats(1, 9), st.sampled_from(["density", "peak"]), axes),
    st.builds(Exponential, numbers, st.floats(-5, 5), axes),
    st.builds(
        lambda values, ends: Phases(values, [max(ends), min(ends)][:1]),
        st.lists(numbers, min_size=2, max_size=2),
        st.tuples(unit, unit),
    ),
    st.builds(
        lambda parts, start, otherwise: Counted(
            "+".join(f"{value!r}x{count}" for value, count in parts), start, otherwise
        ),
        st.lists(st.tuples(st.floats(-99, 99, width=16), st.integers(1, 99)), min_size=1, max_size=3),
        st.sampled_from(["end", "start"]),
        st.none() | numbers,
    ),
    st.builds(
        lambda value, ends, axis: Within(value, min(ends), max(ends), axis), numbers, st.tuples(unit, unit), axes
    ),
    st.dictionaries(st.floats(0, 100) | st.just(math.inf), numbers, min_size=1, max_size=4).map(Table),
)
tensors = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=4).map(torch.tensor)
plain = st.one_of(numbers, schedules, tensors)
scales = plain | st.dictionaries(st.sampled_from(["video", "audio", "a b", "1"]), plain, min_size=1)
plugins = st.one_of(
    st.builds(CFG, scales),
    st.builds(Rescale, unit, over=st.sampled_from(["sample", "tensor"]), space=st.none() | st.just("x0")),
    st.builds(Normalize, form=st.sampled_from(["clamp", "match"]), limit=unit),
    st.builds(
        lambda ends, m: Interval(min(ends), max(ends), methods=m), st.tuples(unit, unit), st.just(("cfg", "stg"))
    ),
    st.builds(STG, scales, blocks=st.none() | st.lists(st.integers(0, 50), max_size=4), branch=st.just("weak one")),
    st.builds(Gate, unit.map(lambda value: value / 2)),
    st.builds(
        LTX2, st.sampled_from(["2.0", "2.3", "2.3-hq"]), cfg_scale=scales, stg_blocks=st.lists(st.integers(0, 9))
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(plugins, max_size=4))
def test_every_written_form_round_trips(stack):
    guidance = Guidance(stack)
    assert Guidance.from_dict(guidance.to_dict()) == guidance
    assert Guidance.from_json(guidance.to_json()) == guidance
    assert Guidance.from_toml(guidance.to_toml()) == guidance
    assert Guidance.from_spec(guidance.to_spec()) == guidance


def test_nonlinear_methods_round_trip():
    for plugin in (APG(3.0, momentum=-0.5, form="diffusers", space=None), CFGZeroStar(2.0, zero_steps=3)):
        guidance = Guidance([plugin])
        assert Guidance.from_spec(guidance.to_spec()) == guidance
        assert Guidance.from_json(guidance.to_json()) == guidance


@pytest.mark.parametrize("name", ["none", "true", "false", "None", "12", "1e3", "weak one", 'a "b"', "a\\b", "a,b=c"])
def test_a_name_that_reads_like_something_else_stays_a_name(name):
    guidance = Guidance([STG(branch=name)])
    for read, written in (
        (Guidance.from_spec, guidance.to_spec()),
        (Guidance.from_json, guidance.to_json()),
        (Guidance.from_toml, guidance.to_toml()),
    ):
        assert read(written).plugins[0].branch == name


def test_a_spec_reads_as_people_write_it():
    assert Guidance.from_spec("cfg:scale=3,rescale:phi=0.7") == Guidance([CFG(3.0), Rescale(0.7)])
    assert Guidance.from_spec(" cfg : scale = 3 , interval : lo=0.2, hi=0.8 ,gate") == Guidance(
        [CFG(3.0), Interval(0.2, 0.8), Gate()]
    )
    assert Guidance.from_spec("cfg:scale={video: 3, audio: linear(7, 1, by=sigma)}") == Guidance(
        [CFG({"video": 3, "audio": Linear(7, 1, "sigma")})]
    )
    assert Guidance.from_spec("cfg:scale=table({0.5: 3, inf: 7})") == Guidance([CFG(Table({0.5: 3, math.inf: 7}))])
    assert Guidance.from_spec("cfg:scale=tensor([1, 2.5])") == Guidance([CFG(torch.tensor([1.0, 2.5]))])
    assert Guidance.from_spec("") == Guidance([])


def test_a_plugin_without_a_name_cannot_be_written():
    @attrs.frozen
    class Mine:
        @hookimpl
        def build_branches(self, step):
            return []

    guidance = Guidance([CFG(), Mine()])
    for write in (guidance.to_dict, guidance.to_json, guidance.to_toml, guidance.to_spec):
        with pytest.raises(SpecError, match="Mine cannot be written by name, because it is not published"):
            write()
    assert "mine" in guidance.describe().plugins


def test_a_class_may_be_published_where_it_is_passed_on(tmp_path, monkeypatch):
    code = (
        "from fractions import Fraction\nimport attrs\n@attrs.frozen\nclass Mine: pass\nMine.__module__ = 'elsewhere'"
    )
    install(tmp_path, "passes-on", "[guidance_core.plugins]\nours = {module}:Mine\n", code)
    on_path(monkeypatch, tmp_path)
    assert discovery.entry_name(discovery.plugin_class("ours")) == "ours"


def test_describe_says_where_each_value_came_from():
    description = Guidance.from_spec("ltx2:preset=2.0,cfg_scale=4,cfg:scale=7.5").describe(4)
    origins = {p.name: p.origin for p in description.plugins["ltx2"]}
    assert origins["cfg_scale"] == "given"
    assert origins["stg_scale"] == "preset 2.0"
    assert {p.name: p.origin for p in description.plugins["cfg"]} == {"scale": "given"}
    assert description.total_passes == 4 * 5


# Text from elsewhere.

JSON = '{"guidance": [{"plugin": "cfg", "scale": %s}]}'


@pytest.mark.parametrize(
    "load",
    [
        lambda: Guidance.from_spec("\ufeffcfg:scale=3\r\n"),
        lambda: Guidance.from_json("\ufeff" + JSON % 3),
        lambda: Guidance.from_toml('\ufeff[[guidance]]\r\nplugin = "cfg"\r\nscale = 3\r\n'),
    ],
)
def test_a_byte_order_mark_and_the_line_ends_of_windows_do_no_harm(load):
    assert load() == Guidance.from_spec("cfg:scale=3")


@pytest.mark.parametrize("count", [40, 5000, 200_000])
@pytest.mark.parametrize(
    "load",
    [
        lambda count: Guidance.from_spec("stg:blocks=" + "[" * count + "]" * count),
        lambda count: Guidance.from_spec("cfg:scale=" + "{a: " * count + "1" + "}" * count),
        lambda count: Guidance.from_spec("cfg:scale=" + "linear(" * count),
        lambda count: Guidance.from_json(JSON % ("[" * count + "]" * count)),
        lambda count: Guidance.from_json(JSON % ('{"a":' * count + "1" + "}" * count)),
        lambda count: Guidance.from_toml("guidance = " + "[" * count),
        lambda count: Guidance.from_dict({"guidance": [{"plugin": "cfg", "scale": nested(count)}]}),
    ],
)
def test_what_is_nested_too_deeply_is_a_short_error(load, count):
    with pytest.raises(SpecError) as caught:
        load(count)
    assert len(str(caught.value)) < 5000


def nested(count):
    value = 1.0
    for _ in range(count):
        value = [value]
    return value


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 5000, "-9" + "9" * 320])
@pytest.mark.parametrize(
    "load",
    [
        lambda number: Guidance.from_spec(f"cfg:scale={number}"),
        lambda number: Guidance.from_spec(f"ltx2:skip_step={number}"),
        lambda number: Guidance.from_spec(f"stg:blocks={number}"),
        lambda number: Guidance.from_spec(f"cfg:scale=linear({number}, 1)"),
        lambda number: Guidance.from_spec(f"cfg:scale=tensor([{number}])"),
        lambda number: Guidance.from_json(JSON % number),
        lambda number: Guidance.from_json(JSON % f'{{"tensor": [{number}]}}'),
        lambda number: Guidance([CFG(scale=whole(number))]),
        lambda number: Guidance([STG(blocks=whole(number))]),
        lambda number: Guidance([LTX2(skip_step=whole(number))]),
        lambda number: CFG(scale=Linear(whole(number), 1)),
    ],
)
def test_a_number_that_is_too_large_is_a_short_error(load, number):
    with pytest.raises(GuidanceError) as caught:
        load(number)
    assert len(str(caught.value)) < 5000


def whole(digits):
    value = 0
    for digit in digits.lstrip("-"):
        value = value * 10 + int(digit)
    return -value if digits.startswith("-") else value


@pytest.mark.parametrize(
    "text",
    [
        "cfg:scale=" + "1" * 200_000 + "x",
        "c" * 900_000,
        "," * 900_000,
        "rescale," * 50_000 + "rescale",
        "x" * 2_000_000,
    ],
    ids=["digits", "name", "commas", "plugins", "longer than allowed"],
)
def test_long_text_is_read_in_time_and_its_error_is_short(text):
    with pytest.raises(GuidanceError) as caught:
        Guidance.from_spec(text)
    assert len(str(caught.value)) < 5000


def test_a_name_given_twice_is_refused_in_every_form():
    for load in (
        lambda: Guidance.from_spec("cfg:scale=3,scale=5"),
        lambda: Guidance.from_json('{"guidance": [{"plugin": "cfg", "scale": 3, "scale": 5}]}'),
        lambda: Guidance.from_toml('[[guidance]]\nplugin = "cfg"\nscale = 3\nscale = 5\n'),
    ):
        with pytest.raises(SpecError, match=r"scale|overwrite"):
            load()


@pytest.mark.parametrize("blocks", ["abc", ["a", "b"], 3.5, [1.0], {"video": "abc"}, -1])
@pytest.mark.parametrize("plugin", [lambda blocks: STG(blocks=blocks), lambda blocks: LTX2(stg_blocks=blocks)])
def test_blocks_are_whole_numbers(plugin, blocks):
    with pytest.raises(GuidanceError, match="block"):
        plugin(blocks)


def test_one_alpha_stands_for_all_steps():
    def run(alphas):
        return Guidance.from_spec("cfg:scale=3,rescale:space=x0").start(
            conditions={"positive": {}, "negative": {}},
            sigmas=[9.0, 3.0, 0.5],
            prediction_type="epsilon",
            alphas=alphas,
        )

    assert run(1.0).settings.alphas == run([1.0, 1.0]).settings.alphas
    assert run(1).settings.alphas == run(torch.tensor(1.0)).settings.alphas == (1.0, 1.0)
