"""APG, both forms, over samples or dimensions."""

from hypothesis import strategies as st

from guidance_plugins import APG
from oracles import Oracle

DIMS = {"sample": None, (-1, -2): (-1, -2)}


def formula(facts, predictions, scale, eta, momentum, threshold, over, form):
    c, u = predictions["cond"], predictions["uncond"]
    dims = DIMS[over] or tuple(range(1, c.ndim))
    d = c - u + momentum * facts.memory.get("d", 0.0)
    facts.memory["d"] = d
    if threshold:
        d = d * (threshold / (d * d).sum(dims, keepdim=True).sqrt()).clamp(max=1)
    along = (d * c).sum(dims, keepdim=True) / (c * c).sum(dims, keepdim=True) * c
    d = d - along + eta * along
    return c + (scale - 1) * d if form == "paper" else u + scale * d


ORACLE = Oracle(
    stack=lambda **given: [APG(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 12),
            "eta": st.sampled_from([0.0, 0.5, 1.0]),
            "momentum": st.sampled_from([0.0, -0.5, 0.3]),
            "threshold": st.sampled_from([0.0, 3.0]),
            "over": st.sampled_from(list(DIMS)),
            "form": st.sampled_from(["paper", "diffusers"]),
        }
    ),
    units=32,
    differs="diffusers counts from u (`form=diffusers`), in the space of the model (`space=none`).",
)
