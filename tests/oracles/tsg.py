"""TSG."""

from hypothesis import strategies as st

from guidance_plugins import TSG
from oracles._weakened import weakened

ORACLE = weakened(TSG, "timestep", neutral=1.0, parameters={"noise": st.sampled_from([1.0, 2.0])})
