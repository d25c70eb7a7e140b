"""LTX-2's guidance of one output."""

from hypothesis import strategies as st

from guidance_plugins import LTX2
from oracles import Oracle, std


def formula(facts, predictions, scale, stg, modality, rescale):
    c = predictions["cond"]
    guided = c + (scale - 1) * (c - predictions["neg"])
    guided = guided + stg * (c - predictions["perturbed"]) + (modality - 1) * (c - predictions["modality"])
    return guided * (rescale * std(c) / std(guided) + 1 - rescale)


ORACLE = Oracle(
    stack=lambda scale, stg, modality, rescale: [
        LTX2(cfg_scale=scale, stg_scale=stg, modality_scale=modality, rescale_scale=rescale, stg_blocks=28)
    ],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1, 8),
            "stg": st.floats(0, 2),
            "modality": st.floats(1, 4),
            "rescale": st.sampled_from([0.0, 0.45, 1.0]),
        }
    ),
    branches=("cond", "neg", "perturbed", "modality"),
)
