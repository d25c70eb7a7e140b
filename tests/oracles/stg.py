"""STG."""

from hypothesis import strategies as st

from guidance_plugins import STG
from oracles._weakened import weakened

ORACLE = weakened(
    STG,
    "perturbed",
    differs="diffusers' `SkipLayerGuidance` leaves out the first step of its window, and without CFG counts from p.",
    parameters={"blocks": st.sampled_from([None, 3, (1, 2)]), "skip": st.sampled_from(["attention", "blocks"])},
)
