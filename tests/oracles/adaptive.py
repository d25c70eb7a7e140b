"""CFG with adaptive guidance: each sample has its own crossing."""

import torch
from hypothesis import strategies as st

from guidance_plugins import CFG, Adaptive
from oracles import Oracle, inner, norm


def formula(facts, predictions, scale, threshold, form):
    c, u = predictions["cond"], predictions["uncond"]
    before, delta = facts.memory.get("agreed", torch.zeros_like(norm(c)).bool()), facts.memory.get("delta", 0.0)
    fresh = (scale - 1) * (c - u)
    facts.memory["delta"] = torch.where(before, delta, fresh)
    facts.memory["agreed"] = before | (inner(c, u) / (norm(c) * norm(u)) >= threshold)
    return c + torch.where(before, facts.memory["delta"] if form == "reuse" else 0.0, fresh)


ORACLE = Oracle(
    stack=lambda scale, **given: [CFG(scale), Adaptive(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(0.5, 12),
            "threshold": st.sampled_from([0.6, 0.9, 0.999]),
            "form": st.sampled_from(["reuse", "paper"]),
        }
    ),
)
