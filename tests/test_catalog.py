"""The catalogue of methods, which hosts make forms and nodes of."""

from __future__ import annotations

from typing import ClassVar

import attrs
import pytest

import guidance_core as gc
from guidance_core import catalog, parameter_infos


@attrs.frozen
class Everything:
    """One parameter of every kind."""

    needed: gc.Scale = gc.number()
    scale: gc.Scale = gc.number(2.0, gt=0, le=10, help="how far")
    decided: gc.Scale = gc.number(gc.UNSET)
    count: int = gc.whole(3, ge=1)
    on: bool = gc.flag(True)
    form: str = gc.choice("a", ("a", "b"))
    space: str | None = gc.choice(None, ("x0",), optional=True)
    word: str = gc.text("left")
    some: tuple = gc.numbers((1.0, 2.0))
    words: tuple = gc.names(("cfg",))
    where: tuple | None = gc.blocks((1, 2))
    over: str = gc.extent()
    sides: tuple | None = gc.grid()
    call: object = gc.function(len)
    own: float = attrs.field(default=0.5, metadata={"help": "of its own"})
    made: list = attrs.field(factory=list)
    hidden: int = attrs.field(default=0, init=False)

    @gc.hookimpl
    def build_branches(self, step):
        return []


def test_a_parameter_is_told_with_its_kind_default_bounds_and_names():
    found = {each.name: each for each in parameter_infos(Everything)}
    assert "hidden" not in found
    kinds = {name: each.kind for name, each in found.items()}
    assert kinds == {
        **{"scale": "number", "decided": "number", "needed": "number", "count": "whole", "on": "flag"},
        **{"form": "choice", "space": "choice", "word": "text", "some": "numbers", "words": "names"},
        **{"where": "blocks", "over": "extent", "sides": "grid", "call": "function", "own": "value", "made": "value"},
    }
    assert found["scale"] == gc.ParameterInfo("scale", "number", "how far", 2.0, low=0, high=10)
    assert (found["decided"].default, found["decided"].is_required) == (None, False)
    assert (found["needed"].default, found["needed"].is_required) == (None, True)
    assert (found["count"].low, found["count"].high) == (1, None)
    assert (found["form"].options, found["space"].options, found["on"].options) == (("a", "b"), ("x0", "none"), ())
    assert (found["where"].default, found["own"].help) == ((1, 2), "of its own")


def test_every_loaded_method_is_there_once_by_name():
    names = [each.name for each in catalog()]
    assert names == sorted(set(names))
    assert {"cfg", "apg", "rescale", "stg"} <= set(names)
    (cfg,) = (each for each in catalog() if each.name == "cfg")
    assert cfg.summary.startswith("Classifier-free guidance")
    assert cfg.distribution == "guidance-core"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("cfg", "cfg"),
        ("apg", "cfg"),
        ("pag", "weakened"),
        ("rescale", "correction"),
        ("interval", "other"),
        ("gate", "other"),
    ],
)
def test_families_follow_from_hooks_or_are_declared(name, family):
    assert {each.name: each.family for each in catalog()}[name] == family


def test_a_method_of_somebody_else_declares_its_family():
    class Mine(Everything):
        family: ClassVar[str] = "weakened"

    gc.register_plugin("mine", Mine)
    try:
        assert {each.name: each.family for each in catalog()}["mine"] == "weakened"
    finally:
        gc.unregister_plugin("mine")
