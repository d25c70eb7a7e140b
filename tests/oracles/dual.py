"""Guidance by text and image, both forms."""

from hypothesis import strategies as st

from guidance_plugins import Dual
from oracles import CONDITIONS, Oracle


def formula(facts, predictions, text_scale, image_scale, form):
    c, r, u, n = (predictions[name] for name in ("cond", "image", "uncond", "text"))
    if form == "pix2pix":
        return u + image_scale * (r - u) + text_scale * (c - r)
    return n + image_scale * (r + text_scale * (c - r) - n)


ORACLE = Oracle(
    stack=lambda **given: [Dual(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "text_scale": st.floats(0, 8),
            "image_scale": st.floats(0, 3),
            "form": st.sampled_from(["pix2pix", "bagel"]),
        }
    ),
    branches=("cond", "image", "uncond", "text"),
    conditions={**CONDITIONS, "image": {}, "text": {}},
    units=256,
)
