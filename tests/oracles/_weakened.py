"""What the oracles of methods with a weakened pass have in common."""

from __future__ import annotations

from hypothesis import strategies as st

from oracles import Oracle

windows = st.sampled_from([(0.0, 1.0), (0.25, 1.0), (0.0, 0.5), (0.3, 0.8)])


def weakened(plugin, branch, *, neutral=0.0, delta=None, parameters=None, **settings):
    """Return the oracle of c + (s − neutral)·(c − p) within a window of the steps.

    Args:
        plugin: the class.
        branch: of its pass.
        neutral: the scale at which it is off.
        delta: makes what to move by, given c, p and the parameters; c − p if there is none.
        parameters: strategies of the further parameters.
        settings: of the `Oracle`.
    """

    def stack(window, **given):
        return [plugin(**given, start=window[0], stop=window[1])]

    def formula(facts, predictions, scale, window, **given):
        c, p = predictions["cond"], predictions[branch]
        if not window[0] <= facts.index / facts.count < window[1]:
            return c
        return c + (scale - neutral) * (c - p if delta is None else delta(c, p, **given))

    strategies = {"scale": st.floats(-2, 12), "window": windows, **(parameters or {})}
    return Oracle(
        stack=stack,
        formula=formula,
        parameters=st.fixed_dictionaries(strategies),
        branches=("cond", branch),
        **settings,
    )
