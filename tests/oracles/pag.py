"""PAG."""

from hypothesis import strategies as st

from guidance_plugins import PAG
from oracles._weakened import weakened

ORACLE = weakened(PAG, "identity", parameters={"blocks": st.sampled_from([None, 3, (1, 2)])})
