"""SEG."""

from hypothesis import strategies as st

from guidance_plugins import SEG
from oracles._weakened import weakened

ORACLE = weakened(
    SEG, "blurred", parameters={"blocks": st.sampled_from([None, 3, (1, 2)]), "sigma": st.sampled_from([0.5, 3.0, 1e6])}
)
