"""SoftPAG."""

from hypothesis import strategies as st

from guidance_plugins import SoftPAG
from oracles._weakened import weakened

ORACLE = weakened(
    SoftPAG,
    "softened",
    parameters={"heads": st.sampled_from([(), ("L3H0", "L3H2", "L5H1")]), "weight": st.sampled_from([0.25, 1.0])},
)
