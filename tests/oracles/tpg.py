"""TPG."""

from hypothesis import strategies as st

from guidance_plugins import TPG
from oracles._weakened import weakened

ORACLE = weakened(TPG, "shuffled", parameters={"blocks": st.sampled_from([None, 3, (1, 2)])})
