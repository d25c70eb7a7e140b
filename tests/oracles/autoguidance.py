"""Autoguidance, by another model or by dropping, with either condition."""

from hypothesis import strategies as st

from guidance_plugins import Autoguidance
from oracles._weakened import weakened

ORACLE = weakened(
    Autoguidance,
    "weak",
    neutral=1.0,
    parameters={
        "model": st.sampled_from([None, "small"]),
        "dropout": st.sampled_from([0.1, 1.0]),
        "form": st.sampled_from(["paper", "diffusers"]),
    },
)
