"""Random stacks of everything that ships, with values of every kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import attrs
import torch
from small_methods import Blurred, FirstTokens

from guidance_core import Cosine, Linear, Needs, Table, Within, hookimpl
from guidance_plugins import (
    APG,
    CADS,
    CFG,
    EPCFG,
    ICG,
    LTX2,
    NAG,
    PAG,
    S2,
    SEG,
    SLG,
    SMCCFG,
    STG,
    SWG,
    TAG,
    TCFG,
    TPG,
    TSG,
    Adaptive,
    APGMix,
    Autoguidance,
    CFGPlusPlus,
    CFGZeroStar,
    Classifier,
    Dual,
    DynamicThresholding,
    FreSca,
    Gate,
    Interval,
    MamboG,
    Momentum,
    MultiCondition,
    Normalize,
    PerpNeg,
    Renorm,
    RenormText,
    Rescale,
    Skimmed,
    SoftPAG,
)

FURTHER = "further"
"The condition beside `positive` and `negative`."

OTHER = "other"
"The prediction type that cannot be converted."


@attrs.frozen
class Jittered:
    """Adds noise of the run to the result."""

    size: float = 0.1

    @hookimpl
    def build_branches(self, step):
        return [Needs()]

    @hookimpl
    def postprocess(self, step, guided, reference):
        return guided + self.size * step.noise_like(guided.float(), "jitter")


def likely(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return what stands for a classifier, `[B]`."""
    return x.sigmoid().flatten(1).sum(1)


@attrs.define
class Stacks:
    """Draws stacks for one sort of samples, and notes what they consist of."""

    chosen: Random
    outputs: tuple[str, ...]
    rows: int
    dimensions: int
    "Of the output with the fewest."
    tokens: int
    prediction_type: str
    adds_up: bool
    "Whether no method may look at predictions, as all-reduce demands."
    seen: list[tuple[str, str]] = attrs.field(factory=list)

    def stack(self) -> list[Any]:
        """Return a method or none, and what may stand beside it, in any order."""
        makers = [self._nothing, self._nothing, self.cfg, self.cfg, self.stg, self.weakened, self.conditions]
        if not self.adds_up:
            makers += [self.apg, self.apg, self.cfg_zero_star, self.cfg_zero_star, self.form, self.form]
        if self._converts and len(self.outputs) > 1:
            makers += [self.ltx2, self.ltx2, self.ltx2]
        plugins = self.chosen.choice(makers)()
        beside = [self.rescale, self.normalize, self.interval, self.gate, self.blurred, self.cads, self.nag]
        beside += [self.jittered, self.correction]
        if not self.adds_up:
            beside += [self.adaptive, self.classifier] if self._converts else [self.adaptive]
        if self.dimensions > 2:
            beside.append(self.first_tokens)
        made = self.chosen.sample(beside, self.chosen.choice([0, 0, 1, 1, 2, 2, 3]))
        if self.gate in made and self.adaptive in made:  # which exclude each other
            made.remove(self.gate)
        for make in made:
            plugins.insert(self.chosen.randint(0, len(plugins)), make())
        if not plugins:
            self.seen.append(("method", "none"))
        return plugins

    @property
    def _converts(self) -> bool:
        return self.prediction_type != OTHER

    def _nothing(self) -> list[Any]:
        return []

    def _note(self, name: str) -> None:
        self.seen.append(("method", name))

    def scale(self, low: float = -2.0, high: float = 6.0, neutral: float = 1.0, *, tensors: bool = True) -> Any:
        """Return a value in one of the ways that a parameter takes."""

        def one() -> float:
            return round(self.chosen.uniform(low, high), 2)

        kinds: dict[str, Callable[[], Any]] = {
            "number": one,
            "neutral": lambda: neutral,
            "linear": lambda: Linear(one(), one(), self.chosen.choice(["fraction", "sigma"])),
            "cosine": lambda: Cosine(one(), one()),
            "within": lambda: Within(one(), 0.3, 0.8, otherwise=neutral),
            "table": lambda: Table({0.4: one(), 0.7: neutral, 1.0: one()}),
        }
        if tensors:
            kinds["tensor by sample"] = lambda: torch.tensor([one() for _ in range(self.rows)])
        if len(self.outputs) > 1:
            kinds["by output"] = lambda: {name: self.chosen.choice([one(), neutral]) for name in self.outputs}
        kind = self.chosen.choice(["number", *kinds])
        self.seen.append(("value", kind))
        return kinds[kind]()

    def _over(self, *names: str) -> Any:
        return self.chosen.choice(["sample", *(names if self.dimensions > 2 else ())])

    def _window(self) -> dict[str, Any]:
        low, high = sorted(round(self.chosen.random(), 2) for _ in range(2))
        return {"lo": low, "hi": high, "by": self.chosen.choice(["sigma", "fraction"])}

    # Methods.

    def cfg(self) -> list[Any]:
        self._note("cfg")
        return [CFG(self.scale()), *(self.stg() if self.chosen.random() < 0.4 else [])]

    def stg(self) -> list[Any]:
        self._note("stg")
        blocks = self.chosen.choice([None, (1,), (2, 3)])
        skip = self.chosen.choice(["attention", "blocks"])
        start, stop = self.chosen.choice([(0.0, 1.0), (0.0, 0.5), (0.25, 1.0)])
        return [STG(self.scale(-1, 3, 0.0), blocks=blocks, skip=skip, start=start, stop=stop)]

    def weakened(self) -> list[Any]:
        """Return methods with weakened passes of their own, random ones among them."""
        self._note("weakened")
        scale = self.scale(-1, 3, 0.0)
        makers: list[Callable[[], Any]] = [
            lambda: PAG(scale, (1, 2)),
            lambda: SEG(scale, sigma=2.0, stop=0.5),
            lambda: TPG(scale),
            lambda: TSG(scale, start=0.25),
            lambda: S2(scale, count=6, share=0.4),
            lambda: Autoguidance(scale, dropout=0.3),
            lambda: ICG(scale),
            lambda: SLG(scale, stop=0.6),
            lambda: SoftPAG(scale, (1, 2), weight=0.5),
            lambda: SWG(scale, size=0.75),
        ]
        return [make() for make in self.chosen.sample(makers, self.chosen.choice([1, 1, 2, 3]))]

    def apg(self) -> list[Any]:
        self._note("apg")
        momentum = self.chosen.choice([0.0, -0.5, 0.3])
        return [
            APG(
                self.scale(),
                eta=self.scale(0, 1, 1.0),
                momentum=momentum,
                threshold=self.chosen.choice([0.0, 0.7, 3.0]),
                over=self._over("token", "channel"),
                form=self.chosen.choice(["paper", "diffusers"]),
                space=self.chosen.choice(["x0", None, "v", "epsilon"]) if self._converts else None,
            )
        ]

    def cfg_zero_star(self) -> list[Any]:
        self._note("cfg-zero-star")
        return [CFGZeroStar(self.scale(), zero_steps=self.chosen.choice([0, 1, 2]))]

    def form(self) -> list[Any]:
        """Return one of the other forms of cfg."""
        self._note("form of cfg")
        scale, space = self.scale(), self.chosen.choice([None, "x0", "v"]) if self._converts else None
        makers: list[Callable[[], Any]] = [
            lambda: TCFG(scale),
            lambda: MamboG(scale, alpha=self.scale(0, 8, 0.0)),
            lambda: APGMix(scale, self.scale(), start_step=self.chosen.choice([0, 2, 5])),
            lambda: SMCCFG(scale, form=self.chosen.choice(["sign", "norm"]), space=space),
            lambda: DynamicThresholding(scale, self.scale(), percentile=self.chosen.choice([0.9, 1.0]), space=space),
        ]
        if self._converts:
            makers.append(lambda: Skimmed(scale, self.scale(0, 5), space=self.chosen.choice(["x0", None])))
            makers.append(lambda: CFGPlusPlus(self.scale(0, 1)))
        if self.dimensions > 3:
            makers.append(lambda: FreSca(scale, cutoff=self.chosen.choice([1, None])))
        return [self.chosen.choice(makers)()]

    def conditions(self) -> list[Any]:
        """Return a method with a further condition; those that look at predictions where that is allowed."""
        self._note("further condition")
        makers: list[Callable[[], list[Any]]] = [
            lambda: [CFG(self.scale()), MultiCondition(FURTHER, self.scale(-1, 2, 0.0))],
            lambda: [Dual(self.scale(), self.scale(), image_condition=FURTHER)],
        ]
        if not self.adds_up:
            makers.append(lambda: [PerpNeg(self.scale(), weights=[0.7], empty=FURTHER)])
            makers.append(lambda: [RenormText(4.0, 2.0, image_condition=FURTHER, text_condition="negative")])
        return self.chosen.choice(makers)()

    def ltx2(self) -> list[Any]:
        self._note("ltx2")
        given = {
            "cfg_scale": self.scale(1, 7),
            "stg_scale": self.scale(0, 2, 0.0),
            "modality_scale": self.scale(1, 4),
            "rescale_scale": self.scale(0, 1, 0.0),
            "stg_blocks": [self.chosen.randint(0, 3)],
            "skip_step": self.chosen.choice([0, 1, {"video": 1, "audio": 2}]),
        }
        names = self.chosen.sample(sorted(given), self.chosen.randint(1, len(given)))
        return [LTX2(negative=self.chosen.choice(["both", "guided"]), **{name: given[name] for name in names})]

    # What stands beside a method.

    def rescale(self) -> Any:
        self._note("rescale")
        space = self.chosen.choice([None, None, "x0", "v"]) if self._converts else None
        return Rescale(self.scale(0, 1, 0.0), over=self._over("channel", "token", "tensor"), space=space)

    def normalize(self) -> Any:
        self._note("normalize")
        over = self.chosen.choice([None, self._over("token", "channel")])
        return Normalize(self.chosen.choice(["clamp", "match"]), self.scale(0.3, 2, 1.0), over=over)

    def interval(self) -> Any:
        self._note("interval")
        return Interval(**self._window())

    def gate(self) -> Any:
        self._note("gate")
        return Gate(**self._window())

    def blurred(self) -> Any:
        self._note("blurred")
        return Blurred(self.scale(-1, 3, 0.0))

    def correction(self) -> Any:
        """Return one of the other corrections of the sum."""
        self._note("correction")
        space = self.chosen.choice([None, "flow"]) if self.prediction_type in ("flow", "x0") else None
        makers: list[Callable[[], Any]] = [
            lambda: Renorm(self._norm_form(), self.scale(0, 1)),
            lambda: Momentum(self.scale(0, 1, 0.0), self.chosen.choice([0.0, 0.6]), space=space),
        ]
        if not self.adds_up:  # which elements count may change with a rounding
            makers.append(lambda: EPCFG(*self.chosen.choice([(0.0, 1.0), (0.25, 0.75)])))
        if self._converts:
            makers.append(lambda: TAG(self.scale(0.5, 1.5)))
        return self.chosen.choice(makers)()

    def _norm_form(self) -> Any:
        return self.chosen.choice(["global", *(["channel"] if self.dimensions > 2 else [])])

    def adaptive(self) -> Any:
        self._note("adaptive")
        return Adaptive(self.chosen.choice([-0.2, 0.2, 0.99]), form=self.chosen.choice(["reuse", "paper"]))

    def classifier(self) -> Any:
        self._note("classifier")
        return Classifier(likely, round(self.chosen.uniform(0.1, 1.0), 2))

    def cads(self) -> Any:
        self._note("cads")
        low, high = self.chosen.choice([(0.0, 1.0), (0.2, 0.7)])
        return CADS(round(self.chosen.uniform(0.1, 1.0), 2), low, high, mixing=self.chosen.choice([0.0, 0.5, 1.0]))

    def nag(self) -> Any:
        self._note("nag")
        return NAG(2.0)

    def jittered(self) -> Any:
        self._note("jittered")
        return Jittered()

    def first_tokens(self) -> Any:
        self._note("first tokens")
        return FirstTokens(self.chosen.randint(1, self.tokens))


def shown(plugins: Sequence[Any]) -> str:
    """Write a stack as the code that makes it."""
    return "[" + ", ".join(map(repr, plugins)) + "]"
