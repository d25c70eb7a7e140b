"""Dynamic thresholding, its forms and measures."""

import torch
from hypothesis import strategies as st

from guidance_plugins import DynamicThresholding
from oracles import Oracle


def formula(facts, predictions, scale, mimic, percentile, start, measure, separate, phi):
    c, u = predictions["cond"], predictions["uncond"]
    shape = (*c.shape[:2], -1)
    g, m = (((u + k * (c - u)).reshape(shape)) for k in (scale, mimic))
    mean = g.mean(2, keepdim=True)
    around, wide = g - mean, m - m.mean(2, keepdim=True)
    rows = (lambda x: x) if separate else (lambda x: x.flatten(1)[:, None])
    if measure == "std":
        a, t = (rows(x).std(2, keepdim=True, correction=0) for x in (wide, around))
        around = around * a / t
    else:
        a, t = rows(wide).abs().amax(2, keepdim=True), torch.quantile(rows(around).abs(), percentile, 2, keepdim=True)
        most = torch.maximum(a, t)
        around = torch.minimum(torch.maximum(around, -most), most) * a / most
    result = g * a / t if start == "zero" else mean + around
    return (phi * result + (1 - phi) * g).reshape(c.shape)


ORACLE = Oracle(
    stack=lambda **given: [DynamicThresholding(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 20),
            "mimic": st.sampled_from([1.0, 4.0, 7.0]),
            "percentile": st.sampled_from([0.9, 0.995, 1.0]),
            "start": st.sampled_from(["mean", "zero"]),
            "measure": st.sampled_from(["largest", "std"]),
            "separate": st.booleans(),
            "phi": st.sampled_from([0.5, 1.0]),
        }
    ),
    units=64,
)
