"""Guidance rescale, over classifier-free guidance."""

from hypothesis import strategies as st

from guidance_plugins import CFG, Rescale
from oracles import Oracle


def formula(facts, predictions, scale, phi, over):
    c = predictions["cond"]
    guided = c + (scale - 1) * (c - predictions["uncond"])
    dims = {"sample": tuple(range(1, c.ndim)), "tensor": tuple(range(c.ndim))}.get(over, over)
    return guided * (phi * c.std(dims, keepdim=True) / guided.std(dims, keepdim=True) + 1 - phi)


ORACLE = Oracle(
    stack=lambda scale, phi, over: [CFG(scale), Rescale(phi, over)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(0.5, 12),
            "phi": st.sampled_from([0.0, 0.3, 0.7, 1.0]),
            "over": st.sampled_from(["sample", "tensor", (-1, -2)]),
        }
    ),
    differs="ltx-core and sglang take the std over the whole batch: `over=tensor`.",
)
