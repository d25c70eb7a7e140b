"""EP-CFG after CFG."""

import torch
from hypothesis import strategies as st

from guidance_plugins import CFG, EPCFG
from oracles import Oracle, per_sample


def energy(x, lo, hi):
    squares = (x * x).flatten(1)
    low, high = (torch.quantile(squares.sqrt(), q, 1, keepdim=True) for q in (lo, hi))
    return per_sample((squares * ((squares.sqrt() >= low) & (squares.sqrt() <= high))).sum(1), x)


def formula(facts, predictions, scale, ends):
    c, u = predictions["cond"], predictions["uncond"]
    g = u + scale * (c - u)
    return g * (energy(c, *ends) / energy(g, *ends)).sqrt()


ORACLE = Oracle(
    stack=lambda scale, ends: [CFG(scale), EPCFG(*ends)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {"scale": st.floats(1.1, 12), "ends": st.sampled_from([(0.45, 0.55), (0.2, 0.8), (0.0, 1.0)])}
    ),
)
