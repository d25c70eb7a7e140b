"""SWG."""

from hypothesis import strategies as st

from guidance_plugins import SWG
from oracles._weakened import weakened

ORACLE = weakened(SWG, "windows", parameters={"size": st.sampled_from([0.5, 0.75])})
