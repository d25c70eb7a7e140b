"""APG after plain guidance, with momentum from the start."""

from hypothesis import strategies as st

from guidance_plugins import APGMix
from oracles import Oracle, inner, norm


def formula(facts, predictions, scale, apg_scale, start_step, eta, momentum, threshold, form):
    c, u = predictions["cond"], predictions["uncond"]
    m = facts.memory["m"] = c - u + momentum * facts.memory.get("m", 0.0)
    if facts.index <= start_step:
        return u + scale * (c - u)
    if threshold:
        m = m * (threshold / norm(m)).clamp(max=1)
    along = inner(m, c) / inner(c, c) * c
    d = m - along + eta * along
    return u + apg_scale * d if form == "diffusers" else c + (apg_scale - 1) * d


ORACLE = Oracle(
    stack=lambda **given: [APGMix(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 12),
            "apg_scale": st.floats(1.1, 12),
            "start_step": st.integers(0, 3),
            "eta": st.sampled_from([0.0, 0.5, 1.0]),
            "momentum": st.sampled_from([0.0, -0.5, 0.3]),
            "threshold": st.sampled_from([0.0, 3.0]),
            "form": st.sampled_from(["paper", "diffusers"]),
        }
    ),
    units=64,
)
