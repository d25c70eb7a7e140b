"""Perp-Neg with two negative prompts."""

from hypothesis import strategies as st

from guidance_plugins import PerpNeg
from oracles import CONDITIONS, Oracle, inner


def formula(facts, predictions, scale, weights):
    u = predictions["empty"]
    d = predictions["cond"] - u
    total = d
    for name, weight in zip(("uncond", "second"), weights, strict=True):
        away = predictions[name] - u
        total = total - weight * (away - inner(away, d) / inner(d, d) * d)
    return u + scale * total


ORACLE = Oracle(
    stack=lambda scale, weights: [PerpNeg(scale, ["negative", "second"], weights)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(0.5, 12),
            "weights": st.sampled_from([[1.0, 0.5], [0.0, 2.0], [-1.0, 1.0]]),
        }
    ),
    branches=("cond", "empty", "uncond", "second"),
    conditions={**CONDITIONS, "empty": {}, "second": {}},
    units=64,
)
