"""ICG."""

from hypothesis import strategies as st

from guidance_plugins import ICG
from oracles._weakened import weakened

ORACLE = weakened(ICG, "random", neutral=1.0, parameters={"draw": st.sampled_from(["noise", "class"])})
