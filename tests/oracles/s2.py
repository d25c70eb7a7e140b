"""S², whose branches are named by the blocks that they skip."""

from hypothesis import strategies as st

from guidance_plugins import S2
from oracles._weakened import weakened

ORACLE = weakened(
    S2,
    "without",
    parameters={"share": st.sampled_from([0.1, 0.5]), "count": st.just(8), "seed": st.integers(0, 3)},
    branch_of=lambda name: name.partition("-")[0],
)
