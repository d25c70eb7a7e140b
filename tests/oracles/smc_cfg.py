"""SMC-CFG, both forms."""

import torch
from hypothesis import strategies as st

from guidance_plugins import SMCCFG
from oracles import Oracle, norm


def formula(facts, predictions, scale, slope, gain, form):
    e = predictions["cond"] - predictions["uncond"]
    last = facts.memory.get("e", e)
    r = (e - last) + slope * last
    toward = r.sign() if form == "sign" else torch.where(norm(r) > 0, r / norm(r), 0.0)
    e = e - gain * toward
    facts.memory["e"] = e
    return predictions["uncond"] + scale * e


ORACLE = Oracle(
    stack=lambda **given: [SMCCFG(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 12),
            "slope": st.sampled_from([0.0, 0.05, 5.0]),
            "gain": st.sampled_from([0.0, 0.1, 0.2]),
            "form": st.sampled_from(["sign", "norm"]),
        }
    ),
    prediction_type="flow",
    units=64,
    aside=0.02,
)
