"""EP-CFG after CFG."""

import math

import torch
from hypothesis import assume
from hypothesis import strategies as st

from guidance_plugins import CFG, EPCFG
from oracles import Oracle, per_sample


def energy(x, lo, hi):
    squares = (x * x).flatten(1)
    low, high = (torch.quantile(squares.sqrt(), q, 1, keepdim=True) for q in (lo, hi))
    return per_sample((squares * ((squares.sqrt() >= low) & (squares.sqrt() <= high))).sum(1), x)


def is_clear(x, q):
    """Return whether rounding to float32 leaves it as it is which elements lie below a percentile."""
    ordered = x.abs().flatten(1).sort(1).values
    place = q * (ordered.shape[1] - 1)
    around = ordered[:, max(math.floor(place) - 1, 0) : math.ceil(place) + 2]
    return bool((around.diff(dim=1) > 1e-5 * ordered[:, -1:]).all())


def formula(facts, predictions, scale, ends):
    c, u = predictions["cond"], predictions["uncond"]
    g = u + scale * (c - u)
    assume(all(is_clear(g, q) for q in ends if 0 < q < 1))
    return g * (energy(c, *ends) / energy(g, *ends)).sqrt()


ORACLE = Oracle(
    stack=lambda scale, ends: [CFG(scale), EPCFG(*ends)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {"scale": st.floats(1.1, 12), "ends": st.sampled_from([(0.45, 0.55), (0.2, 0.8), (0.0, 1.0)])}
    ),
)
