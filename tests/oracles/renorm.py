"""Renorm after cfg."""

from hypothesis import strategies as st

from guidance_plugins import CFG, Renorm
from oracles import Oracle, norm


def formula(facts, predictions, scale, form, least):
    c, u = predictions["cond"], predictions["uncond"]
    g = c + (scale - 1) * (c - u)
    sizes = [norm(x) if form == "global" else (x * x).sum(-1, keepdim=True).sqrt() for x in (c, g)]
    return g * (sizes[0] / sizes[1]).clamp(least, 1)


ORACLE = Oracle(
    stack=lambda scale, **given: [CFG(scale), Renorm(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 12),
            "form": st.sampled_from(["global", "channel"]),
            "least": st.sampled_from([0.0, 0.4, 1.0]),
        }
    ),
)
