"""STG."""

from hypothesis import strategies as st

from guidance_plugins import STG
from oracles._weakened import weakened

ORACLE = weakened(
    STG,
    "perturbed",
    parameters={"blocks": st.sampled_from([None, 3, (1, 2)]), "skip": st.sampled_from(["attention", "blocks"])},
)
