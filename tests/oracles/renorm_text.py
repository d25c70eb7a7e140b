"""Guidance by text and image with the part by the text limited."""

from hypothesis import strategies as st

from guidance_plugins import RenormText
from oracles import CONDITIONS, Oracle


def formula(facts, predictions, text_scale, image_scale, least):
    c, r, n = (predictions[name] for name in ("cond", "image", "text"))
    h = r + text_scale * (c - r)
    sizes = [(x * x).sum(-1, keepdim=True).sqrt() for x in (c, h)]
    return n + image_scale * ((sizes[0] / sizes[1]).clamp(least, 1) * h - n)


ORACLE = Oracle(
    stack=lambda **given: [RenormText(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "text_scale": st.floats(1.1, 8),
            "image_scale": st.floats(0, 3),
            "least": st.sampled_from([0.0, 0.4, 1.0]),
        }
    ),
    branches=("cond", "image", "text"),
    conditions={**CONDITIONS, "image": {}, "text": {}},
    units=256,
)
