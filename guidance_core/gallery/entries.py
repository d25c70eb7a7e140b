"""What the gallery shows: a stack for every method that ships, with parameters for these models, and its sweep.

Parameters are those that the methods' authors recommend, as far as they can be carried over: models this small want cfg
scales of about 3, and have six blocks. Methods against the damage of high scales stand at a high scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from torch import Tensor

from guidance_core.discovery import plugin_class
from guidance_core.gallery.controls import Jitter, RandomDirection
from guidance_core.guidance import Guidance

HIGHEST = 20.0
"The highest scale of plain cfg beside a method; one that pulls harder has no fair counterpart."
LETTERS, MIXTURE, KEYPAD = "letters", "mixture", "keypad"


@attrs.frozen
class Sweep:
    """The main parameter of a method, and values to try; the stack is the entry's with another value."""

    parameter: str
    values: tuple[str, ...]
    stack: str
    "With `{}` where the value stands."


@attrs.frozen
class Entry:
    """One row of the gallery."""

    name: str
    "Unique; a file name."
    method: str
    "The method shown; empty for a control."
    stack: str
    "A spec, or how the stack is made in Python."
    sweep: Sweep | None = None
    models: tuple[str, ...] = (LETTERS,)
    note: str = ""
    "What a reader should know of this row."
    make: Callable[[], Guidance] | None = None
    "Makes a stack that no spec can say."

    def guidance(self) -> Guidance:
        """Return the stack."""
        return Guidance.from_spec(self.stack) if self.make is None else self.make()


def bold(x0: Tensor) -> Tensor:
    """Return how far the mean of each estimate is from a bold letter's, `[B]`: something to minimize."""
    return 100 * (x0.flatten(1).mean(1) + 0.4).square()


def dark(x: Tensor, sigma: float) -> Tensor:
    """Return what stands for a classifier of noisy pictures: log p of each being bold, `[B]`."""
    return -100 * (x.flatten(1).mean(1) + 0.4 * (1 - sigma)).square()


def _universal() -> Guidance:
    return Guidance([plugin_class("cfg")(scale=3.0), plugin_class("universal")(bold, scale=1.0)])


def _classifier() -> Guidance:
    return Guidance([plugin_class("cfg")(scale=3.0), plugin_class("classifier")(dark, scale=1.0)])


BOTH = (LETTERS, MIXTURE)

ENTRIES: tuple[Entry, ...] = (
    Entry("cfg", "cfg", "cfg:scale=3", Sweep("scale", ("1", "2", "3", "5", "8", "16"), "cfg:scale={}"), BOTH),
    Entry(
        "rounded-cfg",
        "rounded-cfg",
        "rounded-cfg:scale=3,dtype=bfloat16",
        models=BOTH,
        note="Like cfg, with the rounding of an engine in bfloat16.",
    ),
    Entry(
        "interval",
        "interval",
        "cfg:scale=5,interval:lo=0.2,hi=0.8",
        Sweep("hi", ("0.4", "0.6", "0.8", "1"), "cfg:scale=5,interval:lo=0.2,hi={}"),
        BOTH,
    ),
    Entry(
        "rescale",
        "rescale",
        "cfg:scale=8,rescale:phi=0.7",
        Sweep("phi", ("0", "0.35", "0.7", "1"), "cfg:scale=8,rescale:phi={}"),
        BOTH,
    ),
    Entry(
        "normalize",
        "normalize",
        "cfg:scale=8,normalize:limit=1",
        Sweep("limit", ("0.9", "1", "1.2", "2"), "cfg:scale=8,normalize:limit={}"),
        BOTH,
    ),
    Entry("renorm", "renorm", "cfg:scale=8,renorm", models=BOTH),
    Entry("ep-cfg", "ep-cfg", "cfg:scale=8,ep-cfg"),
    Entry("apg", "apg", "apg:scale=8,eta=0", Sweep("scale", ("2", "3", "5", "8", "16"), "apg:scale={},eta=0"), BOTH),
    Entry("apg-mix", "apg-mix", "apg-mix:scale=3,apg_scale=8,start_step=3"),
    Entry(
        "cfg-zero-star",
        "cfg-zero-star",
        "cfg-zero-star:scale=5",
        Sweep("scale", ("2", "3", "5", "8"), "cfg-zero-star:scale={}"),
        BOTH,
    ),
    Entry("tcfg", "tcfg", "tcfg:scale=5", models=BOTH),
    Entry("mambo-g", "mambo-g", "mambo-g:scale=10,alpha=8", models=BOTH),
    Entry(
        "dynamic-thresholding",
        "dynamic-thresholding",
        "dynamic-thresholding:scale=8,mimic=3",
        Sweep("mimic", ("1", "2", "3", "5"), "dynamic-thresholding:scale=8,mimic={}"),
    ),
    Entry("skimmed", "skimmed", "skimmed:scale=8,skim=3"),
    Entry("fdg", "fdg", "fdg:scales=[8, 3]"),
    Entry("fresca", "fresca", "fresca:scale=3,high=1.25,cutoff=5"),
    Entry("smc-cfg", "smc-cfg", "smc-cfg:scale=3", models=BOTH),
    Entry("momentum", "momentum", "cfg:scale=3,momentum:alpha=0.5", models=BOTH),
    Entry("tag", "tag", "cfg:scale=3,tag:eta=1.15", models=BOTH),
    Entry(
        "cfg-plus-plus",
        "cfg-plus-plus",
        "cfg-plus-plus:weight=0.6",
        Sweep("weight", ("0.2", "0.4", "0.6", "1"), "cfg-plus-plus:weight={}"),
        BOTH,
    ),
    Entry("gate", "gate", "cfg:scale=3,gate:lo=0.5", models=BOTH),
    Entry("adaptive", "adaptive", "cfg:scale=3,adaptive", models=BOTH),
    Entry(
        "interval-early",
        "interval",
        "cfg:scale=3,interval:lo=0,hi=0.5,by=fraction",
        models=BOTH,
        note="Guidance in the first half of the steps only (Step AG, arXiv:2506.08351).",
    ),
    Entry(
        "autoguidance",
        "autoguidance",
        "autoguidance:scale=2,model=small",
        Sweep("scale", ("1", "1.5", "2", "3", "5"), "autoguidance:scale={},model=small"),
        note="The weaker model ships with the letters model.",
    ),
    Entry("pag", "pag", "pag:scale=0.5,blocks=3", Sweep("scale", ("0", "0.5", "1", "3"), "pag:scale={},blocks=3")),
    Entry("softpag", "softpag", "softpag:scale=1,heads=[L3H0, L3H1],weight=0.5"),
    Entry("seg", "seg", "seg:scale=0.5,blocks=3"),
    Entry(
        "stg",
        "stg",
        "stg:scale=0.5,blocks=3",
        Sweep("scale", ("0", "0.5", "1", "2"), "stg:scale={},blocks=3"),
        note="For the self-attention of a block, this is `pag`.",
    ),
    Entry("cfg-stg", "stg", "cfg:scale=3,stg:scale=0.5,blocks=3"),
    Entry(
        "slg",
        "slg",
        "slg:scale=1,blocks=3,start=0.01,stop=0.5",
        Sweep("scale", ("0", "0.5", "1", "2.8"), "slg:scale={},blocks=3,start=0.01,stop=0.5"),
    ),
    Entry("cfg-slg", "slg", "cfg:scale=3,slg:scale=1,blocks=3,start=0.01,stop=0.5"),
    Entry("s2", "s2", "cfg:scale=3,s2:scale=0.25,share=0.2"),
    Entry("tpg", "tpg", "tpg:scale=0.25,blocks=3"),
    Entry("swg", "swg", "swg:scale=1"),
    Entry("m-swg", "m-swg", "m-swg:scale=1"),
    Entry("tsg", "tsg", "tsg:scale=1.5"),
    Entry("icg", "icg", "icg:scale=2"),
    Entry(
        "cads", "cads", "cfg:scale=3,cads:noise=0.25", note="Its purpose is to make pictures of one prompt differ more."
    ),
    Entry(
        "dual",
        "dual",
        "dual:text_scale=3,image_scale=2,image_condition=typeface",
        note="The typeface takes the place of the image.",
    ),
    Entry(
        "renorm-text",
        "renorm-text",
        "renorm-text:text_scale=4,image_scale=2,image_condition=typeface,text_condition=character",
    ),
    Entry(
        "perp-neg",
        "perp-neg",
        "perp-neg:scale=3,conditions=[typeface],weights=[0.5]",
        note="It moves away from the typeface alone. This is an exercise, not a use case.",
    ),
    Entry(
        "multi-condition",
        "multi-condition",
        "cfg:scale=3,multi-condition:condition=character,weight=1",
        note="It also moves towards the character alone.",
    ),
    Entry(
        "universal",
        "universal",
        "CFG(3), Universal(bold, scale=1)",
        make=_universal,
        note="It asks for bold letters in any typeface; the scores do not.",
    ),
    Entry(
        "classifier",
        "classifier",
        "CFG(3), Classifier(dark, scale=1)",
        make=_classifier,
        note="Like `universal`, but judged on the noisy pictures.",
    ),
    Entry(
        "ltx2",
        "ltx2",
        "ltx2:cfg_scale=3,stg_scale=1,stg_blocks=0,modality_scale=3,rescale_scale=0.7",
        Sweep(
            "modality_scale",
            ("1", "2", "3", "5"),
            "ltx2:cfg_scale=3,stg_scale=1,stg_blocks=0,modality_scale={},rescale_scale=0.7",
        ),
        (KEYPAD,),
    ),
    Entry("keypad-cfg", "cfg", "cfg:scale=3", models=(KEYPAD,)),
    Entry(
        "keypad-stg",
        "ltx2",
        "ltx2:cfg_scale=3,stg_scale=1,stg_blocks=0,modality_scale=1,rescale_scale=0",
        models=(KEYPAD,),
        note="LTX-2's rule with only cfg and STG.",
    ),
    Entry(
        "keypad-modality",
        "ltx2",
        "ltx2:cfg_scale=3,stg_scale=0,modality_scale=3,rescale_scale=0",
        models=(KEYPAD,),
        note="LTX-2's rule with only cfg and modality guidance.",
    ),
)

CONTROLS: tuple[Entry, ...] = (
    Entry(
        "jitter",
        "",
        "cfg, its scale drawn anew around 3 each step",
        models=BOTH,
        make=lambda: Guidance([Jitter()]),
        note="It cannot help: the mean scale is the same.",
    ),
    Entry(
        "random-direction",
        "",
        "cfg:scale=3, and a random direction",
        models=BOTH,
        make=lambda: Guidance([RandomDirection()]),
        note="It cannot help: the noise is half as long as c − u.",
    ),
)

UNSHOWN: Mapping[str, str] = {
    "nag": "acts on cross-attention to a text, which none of the embedded models has.",
}
"Methods that no embedded model can show, with the reason."


def entry(name: str) -> Entry:
    """Return the row of a name."""
    return next(each for each in (*ENTRIES, *CONTROLS) if each.name == name)


def plain(scale: float) -> str:
    """Return plain cfg at a scale, as a spec."""
    return "" if scale == 1 else f"cfg:scale={scale:g}"


def nearest(scale: float) -> float:
    """Return the scale of plain cfg beside a method: in steps of 0.25 up to 5, of 0.5 up to 10, and then of 1."""
    grain = 0.25 if scale < 5 else 0.5 if scale < 10 else 1.0
    return min(max(round(scale / grain) * grain, 0.0), HIGHEST)


def of_model(model: str) -> tuple[Entry, ...]:
    """Return the rows of a model, controls last."""
    return tuple(each for each in (*ENTRIES, *CONTROLS) if model in each.models)
