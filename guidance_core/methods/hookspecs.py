"""The three hooks. A plugin is a frozen attrs class that implements any of them."""

from __future__ import annotations

import pluggy
from torch import Tensor

from guidance_core.methods.reference import Multiply, Reference
from guidance_core.methods.requests import Request
from guidance_core.methods.seen import Away, Predictions
from guidance_core.methods.step import Step

PROJECT = "guidance_core"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"Marks a plugin's hooks; `@hookimpl(wrapper=True)` makes a wrapper."


@hookspec
def build_branches(step: Step) -> list[Request]:  # type: ignore[empty-body]
    """Name the branches to move away from in this step, each with a strength.

    Called before any forward, and once for every step when a run starts. Returns `Branch`,
    `Needs` and `Hold` objects. A wrapper's `yield` gives the list of everything the plugins asked
    for, each with `.plugin`; it returns the list to use instead.
    """


@hookspec
def combine(step: Step, predictions: Predictions) -> Tensor | Away | None:
    """Return a delta to add to the base prediction of one output, or None.

    `predictions` holds `cond` and the branches this plugin asked for, `[B, ...]`, float32, in the
    space it needs, and `predictions.measure` forms statistics of them. A delta of predictions alone may be returned as
    `Away`. A wrapper's `yield` gives the sum of all deltas (or None); it returns a tensor.
    """


@hookspec
def postprocess(step: Step, guided: Tensor, reference: Reference) -> Tensor | Multiply | None:
    """Correct the guided prediction of one output; None leaves it as it is.

    `guided` is `[B, ...]`, float32, in the space the plugin needs; `reference` is the base
    prediction. Corrections are chained in the order the plugins were given. A wrapper's `yield`
    gives the result of the chain.
    """
