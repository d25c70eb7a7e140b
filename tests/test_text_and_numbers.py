"""Whatever text, number or nesting is given: only `GuidanceError` escapes, soon, and what it says is short."""

from __future__ import annotations

import datetime
import decimal
import fractions
import itertools
import math
import time

import attrs
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_algebra import BOTH

from guidance_core import (
    Branch,
    ConfigurationError,
    Guidance,
    GuidanceError,
    Hold,
    Linear,
    Needs,
    PerOutput,
    SkipBlocks,
    SpecError,
    Table,
    Window,
    Within,
    discovery,
)
from guidance_plugins import CFG, STG, Rescale

CLASSES = {found.name: found.loaded for found in discovery.find_plugins() if found.distribution == "guidance-core"}
SPECS = (
    "cfg:scale=3,rescale:phi=0.7",
    "apg:scale=linear(7, 1),momentum=-0.5,form=diffusers",
    "stg:blocks=[3, 4],skip=blocks,branch=weak",
    "ltx2:preset=2.3,cfg_scale={video: 3, audio: 7},skip_step=1",
    "cfg:scale=tensor([1, 3])",
    "cfg:scale=table({0.5: 3, 1: within(2, lo=0.2)})",
    "interval:lo=0.2,hi=0.8,methods=[cfg, stg],cfg",
    "ltx2:cfg_scale=table({0.5: {video: 3, audio: 1}})",
)
READ = {"to_spec": Guidance.from_spec, "to_json": Guidance.from_json, "to_toml": Guidance.from_toml}
PIECES = (
    *':=,[]{}()"\\ \t\n\r\0\ufeff\u2028٣½²−éıeE.-+#_xX019a\ud800',
    *(
        "linear(",
        "tensor(",
        "table(",
        "nan",
        "inf",
        "none",
        "true",
        "1e999",
        "cfg",
        "[[",
        "]]",
        '"""',
        "plugin = ",
        "null",
    ),
    *("NaN", "\\u0000", "\\ud800", "9" * 400, "[" * 50, "{a:" * 50, "a." * 50, "video: 3, "),
)


def only_named(call):
    """Return what a call returns; None where it raises a `GuidanceError`, of which the text is short."""
    text = ""
    try:
        return call()
    except GuidanceError as error:
        text = str(error)
    assert len(text) < 4200
    return None


@st.composite
def texts(draw):
    """A written stack with some pieces replaced, and what reads it."""
    way = draw(st.sampled_from(list(READ)))
    text = getattr(Guidance.from_spec(draw(st.sampled_from(SPECS))), way)()
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(text)))
        stop = start + draw(st.integers(0, 4))
        text = text[:start] + draw(st.sampled_from(("", *PIECES))) * draw(st.sampled_from((1, 1, 2))) + text[stop:]
    return way, text


@settings(deadline=None, max_examples=400)
@given(texts())
def test_any_text_is_read_or_refused_by_name_and_what_is_read_can_be_written(example):
    way, text = example
    guidance = only_named(lambda: READ[way](text))
    if guidance is None:
        return
    for write, read in READ.items():
        written = only_named(getattr(guidance, write))
        assert written is None or read(written) == guidance


class Unwritable:
    def __repr__(self):
        raise OSError("no text")


class Unlike:
    __hash__ = None

    def __eq__(self, other):
        raise OSError("no comparison")


class NoNumber:
    def __float__(self):
        raise OSError("no float")

    __index__ = __iter__ = __len__ = __bool__ = __float__


ODD = (
    *(None, True, False, 0, 1, -1, 3, 3.0, -0.0, 0.5, 1e308, -1e308, math.inf, -math.inf, math.nan),
    *(
        10**400,
        -(10**400),
        10**5000,
        2**31,
        2**63,
        2**64,
        1j,
        "",
        "a",
        "cfg",
        "none",
        "3",
        "1e3",
        "nan",
        "\ud800",
        "\0",
    ),
    *("x" * 5000, b"ab", b"", decimal.Decimal(3), decimal.Decimal("NaN"), fractions.Fraction(1, 3)),
    *(fractions.Fraction(10**400), numpy.float32(3), numpy.float64(3), numpy.int64(3), numpy.bool_(True)),
    *(numpy.array([1.0, 2.0]), numpy.array(3.0), numpy.array("a"), numpy.datetime64("2020"), torch.tensor(3.0)),
    *(torch.tensor([1.0, 3.0]), torch.tensor(3), torch.tensor(True), torch.tensor([]), torch.zeros(2, 0)),
    *(torch.tensor(1j), torch.tensor(math.nan), torch.zeros(1, device="meta"), torch.tensor(2.0).to(torch.float8_e5m2)),
    *(
        torch.zeros(2, 2).to_sparse(),
        datetime.date(2020, 1, 1),
        object,
        object(),
        len,
        Unwritable(),
        Unlike(),
        NoNumber(),
    ),
    *(range(3), range(10**9), {1, 2}, frozenset("a"), itertools.count(), PerOutput(video=3), PerOutput(), Linear(1, 2)),
    *(Table({1: 2}), Within(3), Ellipsis, NotImplemented, slice(1, 2), Branch("x"), SkipBlocks(3)),
)
KEYS = ("video", "audio", "schedule", "tensor", "plugin", "", "1", 1, None, 2.5, ("a",), "\ud800", True)
SCHEDULE_KEYS = ("start", "stop", "by", "value", "lo", "hi", "otherwise", "rows", "window")


def nested(inner):
    schedules = st.dictionaries(st.sampled_from(SCHEDULE_KEYS), inner, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        st.builds(lambda value: {"tensor": value}, inner),
        st.builds(
            lambda name, given: {"schedule": name} | given,
            st.sampled_from(["linear", "cosine", "table", "x"]),
            schedules,
        ),
    )


VALUES = st.recursive(st.sampled_from(range(len(ODD))).map(ODD.__getitem__), nested, max_leaves=4)
X = torch.ones(2, 3)


def a_run(guidance, **changed):
    settings = {"conditions": BOTH, "sigmas": [1.0, 0.5, 0.0], "prediction_type": "flow"} | changed
    return guidance.start(**settings)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(list(CLASSES)), st.data())
def test_any_value_of_a_parameter_is_taken_or_refused_by_name(name, data):
    fields = [field.name for field in attrs.fields(CLASSES[name]) if field.init]
    parameters = data.draw(st.dictionaries(st.sampled_from(fields), VALUES, min_size=1, max_size=2))
    missing = {field.alias for field in attrs.fields(CLASSES[name]) if field.default is attrs.NOTHING} - set(parameters)
    if not missing:
        only_named(lambda: CLASSES[name](**parameters))
    guidance = only_named(lambda: Guidance.from_dict([{"plugin": name, **parameters}]))
    if guidance is None:
        return
    for use in (guidance.describe, guidance.to_spec, guidance.to_json, guidance.to_toml, guidance.__repr__):
        only_named(use)
    run = only_named(lambda: a_run(guidance))
    for index in range(2 if run else 0):
        only_named(lambda index=index: run.step(index, X, lambda branch: X))


STARTS = ("sigmas", "alphas", "conditions", "prediction_type", "outputs", "executor", "check_finite", "given")
STEPS = ("index", "sample", "sigma", "alpha", "model", "prediction")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(STARTS), st.sampled_from(STEPS), VALUES)
def test_any_argument_of_a_run_is_taken_or_refused_by_name(of_start, of_step, value):
    guidance = Guidance([CFG(3.0), Rescale(0.5, space="x0")])
    only_named(lambda: a_run(guidance, **{of_start: value}))
    only_named(lambda: a_run(guidance, sigmas=[1.0, value, 0.0]))
    only_named(lambda: a_run(guidance, conditions={"positive": value, "negative": {}}))
    levels = {of_step: value} if of_step in ("sigma", "alpha", "model") else {}
    index, sample = value if of_step == "index" else 0, value if of_step == "sample" else X
    prediction = value if of_step == "prediction" else X
    only_named(lambda: a_run(guidance).step(index, sample, lambda branch: prediction, **levels))


@settings(deadline=None, max_examples=300)
@given(VALUES, VALUES, VALUES)
def test_any_other_argument_is_taken_or_refused_by_name(one, other, third):
    guidance = Guidance([CFG()])
    for call in (
        *(lambda: Guidance.from_spec(one), lambda: Guidance.from_json(one), lambda: Guidance.from_toml(one)),
        *(
            lambda: Guidance.from_dict(one),
            lambda: Guidance.from_dict({"guidance": one}),
            lambda: Guidance.from_dict([one]),
        ),
        *(
            lambda: Guidance(one),
            lambda: Guidance([one]),
            lambda: guidance.describe(one),
            lambda: guidance.describe(ranks=one),
        ),
        *(lambda: guidance.describe(sigmas=one), lambda: guidance.describe(outputs=one), lambda: Hold(one)),
        *(
            lambda: Needs(space=one, std=other, outputs=third),
            lambda: Window(one, other, third),
            lambda: STG(blocks=one),
        ),
        *(lambda: Branch("x", perturbations=one), lambda: Branch("x", overrides=one), lambda: Branch(one, other)),
    ):
        only_named(call)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (Guidance.from_spec, "cfg:scale={video: 3, audio: 5, video: 4}"),
        (Guidance.from_spec, "cfg:scale=linear(3, start=4)"),
        (Guidance.from_spec, "cfg:scale=table({1: 3, 1.0: 5})"),
        (Guidance.from_json, '[{"plugin": "cfg", "scale": {"video": 1, "video": 2}}]'),
        (Guidance.from_toml, "guidance = [{plugin = 'cfg', scale = {video = 1, video = 2}}]"),
        (Guidance.from_dict, [{"plugin": "cfg", "scale": {"1": 3, 1: 5}}]),
        (Guidance.from_dict, [{"plugin": "cfg", "scale": {"schedule": "table", "rows": [[1, 2], [1.0, 3]]}}]),
    ],
)
def test_a_name_given_twice_is_refused_everywhere(read, text):
    with pytest.raises(ConfigurationError, match=r"twice|distinct|Cannot overwrite|Duplicate"):
        read(text)


@pytest.mark.parametrize(
    "blocks", [3.5, [1, 2.0], "28", "ab", b"ab", True, [True], {1: 2}, 10**400, [-1], itertools.count()]
)
def test_what_is_no_block_index_is_refused(blocks):
    with pytest.raises(ConfigurationError, match="block"):
        STG(blocks=blocks)


N = 60_000
LONG = {
    "spaces": (Guidance.from_spec, " " * N + "!"),
    "unclosed text": (Guidance.from_spec, 'cfg:scale="' + "a" * N),
    "backslashes": (Guidance.from_spec, 'cfg:scale="' + "\\" * N),
    "quotes": (Guidance.from_spec, "cfg:scale=" + '"' * N),
    "digits": (Guidance.from_spec, "cfg:scale=" + "1" * N + "x"),
    "exponents": (Guidance.from_spec, "cfg:scale=" + "1e" * N),
    "a list": (Guidance.from_spec, "cfg:scale=[" + "1," * N + "1]"),
    "keys of a spec": (Guidance.from_spec, "cfg:scale={" + ",".join(f"a{i}:1" for i in range(N)) + ",a0:1}"),
    "keys of JSON": (Guidance.from_json, "{" + ",".join(f'"a{i}":1' for i in range(N)) + f',"a{N - 1}":1}}'),
    "digits of JSON": (Guidance.from_json, '{"guidance":1.' + "1" * N + "}"),
    "parts of a key": (Guidance.from_toml, "a." * N + "a = 1"),
    "quoted parts of a key": (Guidance.from_toml, '"a" . ' * N + "a = 1"),
    "parts of a table": (Guidance.from_toml, "[" + "a." * N + "a]"),
    "an inline key": (Guidance.from_toml, "x = {" + "a." * N + "a = 1}"),
    "lines": (Guidance.from_toml, "\r\n" * N),
    "plugins": (Guidance.from_spec, ",".join(["rescale"] * N)),
    "a table": (Guidance.from_spec, "cfg:scale=table({" + ",".join(f"{i}:1" for i in range(N // 4)) + "})"),
    "blocks": (Guidance.from_spec, "stg:blocks=[" + ",".join(map(str, range(N))) + "]"),
}


@pytest.mark.parametrize("kind", LONG)
def test_long_text_takes_no_long_time(kind):
    read, text = LONG[kind]
    started = time.process_time()
    only_named(lambda: read(text))
    assert time.process_time() - started < 10  # the worst were minutes; a busy machine is slow


def test_a_deep_key_is_refused_as_deep_nesting_and_a_dotted_text_is_not():
    with pytest.raises(SpecError, match="nested more than 32 deep"):
        Guidance.from_toml("a." * 40 + "a = 1")
    Guidance.from_toml('[[guidance]]\nplugin = "stg"\nbranch = "1.2.3.4.5.6.7.8.9"\n')
