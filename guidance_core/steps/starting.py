"""Checks what a run is started with, before anything is made of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import KeysView, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch

from guidance_core.algebra.spaces import OTHER, SPACES, PredictionType, check_space
from guidance_core.errors import ConfigurationError, brief, did_you_mean
from guidance_core.methods.capabilities import Supports
from guidance_core.methods.split import Split
from guidance_core.methods.stack import Stack

MOST_STEPS = 100_000


def checked_flag(what: str, given: Any) -> bool:
    """Return a flag, or raise `ConfigurationError`."""
    try:
        return bool(given)
    except Exception:
        raise ConfigurationError(f"{what} must be true or false; got {brief(given)}.") from None


def checked_call(given: Any) -> Any:
    """Return the function that says what else ranks compare or None; raise `ConfigurationError` for anything else."""
    if given is not None and not callable(given):
        raise ConfigurationError(f"given must be a function that returns a dict of values; got {brief(given)}.")
    return given


def checked_trace(trace: Any) -> Any:
    """Return the function that gets a record of each step or None; raise `ConfigurationError` for anything else."""
    if trace is not None and (not callable(trace) or isinstance(trace, type)):
        raise ConfigurationError(
            f"trace must be a function of the record of a step, such as Trace(); got {brief(trace)}."
        )
    return trace


def checked_count(what: str, given: Any, most: int) -> int:
    """Return a whole number, or raise `ConfigurationError`."""
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
        raise ConfigurationError(f"{what} must be a whole number from 1 to {most:,}; got {brief(given)}.")
    return given


def checked_conditions(conditions: Any) -> Mapping[str, Mapping[str, Any] | None]:
    """Return the model inputs by condition, which nobody can change, or raise `ConfigurationError`."""
    if not isinstance(conditions, Mapping):
        raise ConfigurationError(
            "conditions must be a dict of model inputs by name, as in {'positive': {'text': p}}; "
            f"got {type(conditions).__name__}."
        )
    for name, inputs in conditions.items():
        if inputs is not None and not isinstance(inputs, Mapping):
            raise ConfigurationError(
                f"condition {brief(name)} must be a dict of model inputs, as in {{'text': embedding}}; "
                f"got {type(inputs).__name__}."
            )
    return {
        str(name): inputs if inputs is None else MappingProxyType(dict(inputs)) for name, inputs in conditions.items()
    }


def checked_sigmas(sigmas: Any, *, may_rise: bool = False) -> Mapping[str | None, tuple[float, ...]]:
    """Return the noise levels by output; under None those of all, or raise `ConfigurationError`."""
    if not isinstance(sigmas, Mapping):
        return {None: _sigma_list("sigmas", sigmas, may_rise)}
    if not sigmas:
        raise ConfigurationError(
            "sigmas must be a list of noise levels, or a dict of lists by output; got an empty dict."
        )
    lists: dict[str | None, tuple[float, ...]] = {
        str(output): _sigma_list(f"sigmas of {output!r}", levels, may_rise) for output, levels in sigmas.items()
    }
    if len({len(levels) for levels in lists.values()}) != 1:
        raise ConfigurationError(
            "every output needs the same number of sigmas; got "
            + ", ".join(f"{len(levels)} for {name}" for name, levels in lists.items())
        )
    return dict(lists.items())


def checked_alphas(given: Any, steps: int) -> tuple[float, ...]:
    """Return a signal level for each step, perhaps with the final one, or raise `ConfigurationError`."""
    if isinstance(given, bool):
        raise ConfigurationError(f"alphas must be a number or a list of numbers; got {given!r}.")
    is_one = isinstance(given, (int, float)) or (isinstance(given, torch.Tensor) and given.ndim == 0)
    return _numbers("alphas", [given] * steps if is_one else given)


def _sigma_list(what: str, given: Any, may_rise: bool) -> tuple[float, ...]:
    levels = _numbers(what, given)
    if len(levels) < 2:
        raise ConfigurationError(
            f"{what} must have one value per step and the final one, so at least 2; got {len(levels)}."
        )
    if min(levels) < 0:
        raise ConfigurationError(f"{what} must not be negative; got {min(levels):g}.")
    pairs = list(pairwise(levels))
    is_sorted = all(one >= other for one, other in pairs) or all(one <= other for one, other in pairs)
    if not is_sorted and not may_rise:
        raise ConfigurationError(
            f"{what} must be sorted (falling for sampling, rising for inversion); got {brief(list(levels))}. For a "
            "sampler that goes back in noise, call start(may_rise=True)."
        )
    return levels


def _numbers(what: str, given: Any) -> tuple[float, ...]:
    if isinstance(given, torch.Tensor) and given.ndim != 1:
        raise ConfigurationError(f"{what} must be one-dimensional; got a tensor of shape {tuple(given.shape)}.")
    try:
        given = given.tolist() if isinstance(given, torch.Tensor) else given
        items = [] if isinstance(given, str | bytes | Mapping) else list(itertools.islice(given, MOST_STEPS + 2))
        kinds = {type(given), *map(type, items)}
        if any(issubclass(kind, (str, bytes, bool, Mapping)) for kind in kinds):
            raise TypeError
        levels = tuple(map(float, items))
    except Exception:
        raise ConfigurationError(f"{what} must be a list of numbers; got {brief(given)}.") from None
    if len(levels) > MOST_STEPS + 1:
        raise ConfigurationError(f"a run has at most {MOST_STEPS:,} steps; {what} has more.")
    if not all(math.isfinite(level) for level in levels):
        raise ConfigurationError(f"{what} must be finite; got {brief(list(levels))}.")
    return levels


def checked_type(given: Any) -> PredictionType:
    """Return a prediction type, or raise `ConfigurationError`."""
    check_space("prediction_type", given, (*SPACES, OTHER))
    checked: PredictionType = given
    return checked


def checked_shards(shards: Any, stack: Stack) -> Split | None:
    """Return which outputs are pieces or None; raise `ConfigurationError` for anything else."""
    if shards is None:
        return None
    if not isinstance(shards, Split):
        raise ConfigurationError(
            f"shards must be Shards(group, dims=...), which names the outputs that are split; got {brief(shards)}."
        )
    for name, plugin in stack.plugins.items():
        if not getattr(type(plugin), "shardable", True):
            raise ConfigurationError(
                f"plugin {name!r} needs whole tensors (shardable = False), but this run has pieces: {shards}."
            )
    return shards


def checked_supports(supports: Any) -> Supports | None:
    """Return the function that says what a model cannot run or None; raise `ConfigurationError` for anything else."""
    if supports is None or callable(supports):
        checked: Supports | None = supports
        return checked
    raise ConfigurationError(
        "supports must be a function of a pass that returns None or the reason why the model cannot run it, such as "
        f"Capabilities(perturbations=(SkipBlocks,), blocks=28); got {brief(supports)}."
    )


def checked_word(what: str, given: Any, allowed: Sequence[str]) -> str:
    """Return one of the allowed words, or raise `ConfigurationError`."""
    if not isinstance(given, str) or given not in allowed:
        hint = did_you_mean(given, allowed) if isinstance(given, str) else ""
        raise ConfigurationError(f"{what} must be one of {', '.join(allowed)}; got {brief(given)}.{hint}")
    return given


def checked_outputs(outputs: Any) -> tuple[str, ...] | None:
    """Return the names of the outputs or None; raise `ConfigurationError` for anything else."""
    if outputs is None:
        return None
    is_list = isinstance(outputs, tuple | list | KeysView)
    if not is_list or not all(isinstance(name, str) and name for name in outputs):
        raise ConfigurationError(f"outputs must be a list of names, such as ('video', 'audio'); got {brief(outputs)}.")
    names = tuple(outputs)
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"outputs must be distinct names, at least one; got {brief(names)}.")
    return names
