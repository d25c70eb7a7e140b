"""Skip-layer guidance."""

from hypothesis import strategies as st

from guidance_plugins import SLG
from oracles._weakened import weakened

ORACLE = weakened(
    SLG,
    "skipped",
    parameters={"blocks": st.sampled_from([None, 3, (1, 2)])},
    differs="diffusers' `SkipLayerGuidance` leaves out the first step of its window, and without CFG counts from p.",
)
