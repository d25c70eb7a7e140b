"""A run's state as plain data, for an engine that puts a run aside and goes on with it later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError, brief, told
from guidance_core.methods.moment import Moment, States
from guidance_core.methods.noise import Seeds
from guidance_core.steps.held import HeldOutputs
from guidance_core.steps.program import Program
from guidance_core.steps.selection import Selection

FORMAT = 1


@attrs.frozen
class Saved:
    """What a run is made of beside its program."""

    states: States
    held: HeldOutputs
    last: Moment | None
    version: int
    passes: int
    seeds: Seeds
    rows: int | None
    selection: Selection | None
    "Which samples of the batch that the run began with it has now."


def to_dict(program: Program, saved: Saved) -> dict[str, Any]:
    """Return it as dicts, lists, numbers, text and tensors, and whatever objects plugins keep."""
    last = saved.last
    return {
        "format": FORMAT,
        "methods": list(program.identity.fingerprint[:2]),
        "last": None if last is None else {"index": last.index, "evaluation": last.evaluation, "model": last.model},
        "steps": saved.version,
        "passes": saved.passes,
        "rows": saved.rows,
        "selection": None if saved.selection is None else [list(saved.selection.indices), saved.selection.batch],
        "seeds": saved.seeds.given if isinstance(saved.seeds.given, int) else list(saved.seeds.given),
        "state": {
            name: {"" if output is None else output: dict(kept) for output, kept in by_output.items()}
            for name, by_output in saved.states.items()
        },
        "x0": saved.held.to_dict(),
    }


def from_dict(program: Program, data: Any) -> Saved:
    """Return what `to_dict` was given, for a run of the same methods with the same schedule.

    Raises:
        ConfigurationError: it is something else, or of a run with other methods, parameters or sigmas.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ConfigurationError(f"load_state_dict takes what run.state_dict() returned; got {brief(data)}.")
    try:
        return _read(program, data)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"this is not what run.state_dict() returned: {told(error)}.") from None


def _read(program: Program, data: Mapping[str, Any]) -> Saved:
    own = program.identity.fingerprint[:2]
    for what, mine, theirs in zip(("methods or parameters", "sigmas"), own, data["methods"], strict=True):
        if mine != theirs:
            raise ConfigurationError(
                f"the saved state is from a run with different {what}; start this run in the same way."
            )
    last, selected = data["last"], data["selection"]
    held = HeldOutputs(program.settings.prediction_type)
    held.load(data["x0"])
    return Saved(
        states={
            name: {output or None: dict(kept) for output, kept in by_output.items()}
            for name, by_output in data["state"].items()
        },
        held=held,
        last=None if last is None else attrs.evolve(program.steps[last["index"]].moment, **_without(last, "index")),
        version=data["steps"],
        passes=data["passes"],
        seeds=Seeds.of(data["seeds"]),
        rows=data["rows"],
        selection=None if selected is None else Selection(tuple(selected[0]), selected[1]),
    )


def _without(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}
