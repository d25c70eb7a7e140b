"""Spatio-temporal and skip-layer guidance."""

from hypothesis import strategies as st

from guidance_plugins import STG
from oracles import Oracle


def formula(facts, predictions, scale, start, stop):
    c = predictions["cond"]
    return c + scale * (c - predictions["perturbed"]) if start <= facts.index / facts.count < stop else c


ORACLE = Oracle(
    stack=lambda scale, start, stop: [STG(scale, blocks=1, start=start, stop=stop)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(-1, 4),
            "start": st.sampled_from([0.0, 0.25, 0.3]),
            "stop": st.sampled_from([0.5, 0.75, 1.0]),
        }
    ),
    branches=("cond", "perturbed"),
    differs="diffusers' `SkipLayerGuidance` leaves out the first step of its window, and without CFG counts from p.",
)
