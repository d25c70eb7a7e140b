"""Two further conditions beside cfg: one with a mask or a number, one with a ramp over frames."""

import torch
from hypothesis import strategies as st

from guidance_plugins import CFG, MultiCondition
from oracles import CONDITIONS, Oracle


def stack(scale, weight, first, last):
    frames = MultiCondition("extra", first, last, frames=8, frame_dim=2)
    return [CFG(scale), MultiCondition("style", torch.tensor(weight)), frames]


def formula(facts, predictions, scale, weight, first, last):
    c, u = predictions["cond"], predictions["uncond"]
    weight = torch.tensor(weight, dtype=torch.float64)
    weight = weight.view(*weight.shape, *(1,) * (c.ndim - weight.ndim))
    ramp = torch.linspace(first, last, 8, dtype=torch.float64).view(1, 1, 8, *(1,) * (c.ndim - 3))
    return u + scale * (c - u) + weight * (predictions["style"] - u) + ramp * (predictions["extra"] - u)


ORACLE = Oracle(
    stack=stack,
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(0, 8),
            "weight": st.sampled_from([[2.0], [[[0.0, 1.0, 0.0, 0.5, 1.0, 1.0, -1.0, 0.0]]]]),
            "first": st.floats(0, 2),
            "last": st.floats(0, 3),
        }
    ),
    branches=("cond", "uncond", "style", "extra"),
    conditions={**CONDITIONS, "style": {}, "extra": {}},
    shapes=((1, 16, 8), (2, 4, 8, 8), (3, 2, 8, 4, 4)),
    units=64,
)
