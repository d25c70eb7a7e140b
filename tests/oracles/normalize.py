"""Norm corrections, over classifier-free guidance."""

from hypothesis import strategies as st

from guidance_plugins import CFG, Normalize
from oracles import Oracle


def formula(facts, predictions, scale, form, limit):
    c = predictions["cond"]
    guided = c + (scale - 1) * (c - predictions["uncond"])
    dims = tuple(range(1, c.ndim)) if form == "clamp" else (-1,)
    norm_c, norm_g = ((x * x).sum(dims, keepdim=True).sqrt() for x in (c, guided))
    return guided * (limit * norm_c / norm_g).clamp(max=1) if form == "clamp" else guided * norm_c / norm_g


ORACLE = Oracle(
    stack=lambda scale, form, limit: [CFG(scale), Normalize(form, limit)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(0.5, 12),
            "form": st.sampled_from(["clamp", "match"]),
            "limit": st.sampled_from([0.9, 1.0, 1.5]),
        }
    ),
)
