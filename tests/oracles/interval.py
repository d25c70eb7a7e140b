"""The interval, over classifier-free guidance."""

from hypothesis import strategies as st

from guidance_plugins import CFG, Interval
from oracles import Oracle


def formula(facts, predictions, scale, lo, hi):
    c = predictions["cond"]
    return c + (scale - 1) * (c - predictions["uncond"]) if lo <= facts.sigma <= hi else c


ORACLE = Oracle(
    stack=lambda scale, lo, hi: [CFG(scale), Interval(lo=lo, hi=hi)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 12),
            "lo": st.sampled_from([0.0, 0.25, 0.4]),
            "hi": st.sampled_from([0.5, 0.75, 1.0]),
        }
    ),
)
