"""Warnings about a run that can be made, but is probably not what its host meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, TypeAlias

import attrs

from guidance_core.algebra.spaces import OTHER
from guidance_core.errors import TimestepWarning, UnguidedWarning, warn
from guidance_core.methods.weakened import Windowed
from guidance_core.parameters.schedules import Position, Schedule, Window
from guidance_core.steps.layout import Layout, OutputLayout
from guidance_core.steps.settings import RunSettings

Sigmas: TypeAlias = Mapping[str | None, tuple[float, ...]]
"Noise levels by output, one per step and the final one; under None those of all."

LOWEST, HIGHEST = 100, 1000
"Between which the largest of a list of timesteps lies; models are trained with 1000 of them."
NOISIEST = 700
"The highest noise level of a published model whose sample is x0 + sigma * noise: Stable Video Diffusion's."


def warn_of_timesteps(settings: RunSettings) -> None:
    """Warn with `TimestepWarning` where what was given as sigmas can only be timesteps."""
    if settings.prediction_type == OTHER:
        return
    adds_noise = settings.alphas is not None and set(settings.alphas) == {1.0}
    for output, levels in settings.sigmas.items():
        if max(levels) > (NOISIEST if adds_noise else LOWEST) and look_like_timesteps(levels):
            what = "sigmas" if output is None else f"sigmas of {output!r}"
            warn(
                f"{what} ({_listed(levels)}) look like timesteps, but are taken as noise levels: windows and schedules "
                "by sigma, and conversions, will be wrong. Give the noise level of each timestep t, such as "
                "(1 - alphas_cumprod[t]) ** 0.5 as sigma and alphas_cumprod[t] ** 0.5 in alphas.",
                TimestepWarning,
            )


def look_like_timesteps(levels: Sequence[float]) -> bool:
    """Whether numbers can only be timesteps of a model that was trained with 1000 of them.

    Timesteps are whole, or fall evenly, and half of them lie in the upper part of their range. Noise levels as high as
    that fall by about the same factor in every step, so that most of them are small: the median of EDM's is 3 % of the
    first one.
    """
    positive = sorted({level for level in levels if level > 0})
    if not positive or not LOWEST < positive[-1] <= HIGHEST:
        return False
    is_whole = all(level == round(level) for level in positive)
    if len(positive) < 3:
        return is_whole and positive[-1] > 0.9 * HIGHEST
    gaps = [high - low for low, high in pairwise(positive)]
    is_even = max(gaps) - min(gaps) <= 0.01 * max(gaps)
    return (is_whole or is_even) and median(positive) >= 0.3 * positive[-1]


def is_unguided(layouts: Iterable[Layout]) -> bool:
    """Whether no step runs a branch beside the base, changes the base, or makes anything else of it.

    Corrections that compare the sum with the base, as rescaling does, leave the base alone as it is.
    """
    return not any(
        len(layout.branches) > 1 or any(layout.amended.values()) or any(map(_is_guided, layout.outputs.values()))
        for layout in set(layouts)
    )


def _is_guided(output: OutputLayout) -> bool:
    compares = [acting.needs.reference or acting.needs.measured for acting in output.all_correcting]
    return bool(output.combining or output.combine_wrappers or not all(compares))


def warn_of_windows(plugins: Mapping[str, Any], layouts: Iterable[Layout], sigmas: Sigmas) -> None:
    """Warn with `UnguidedWarning` where no step is guided, and a window holds none of them.

    Where others guide, it warns of a method whose own window holds no step: the result would lack it without a word.
    """
    if not plugins:
        return
    unguided = is_unguided(layouts)
    said = [
        _said(name, plugin, window, sigmas)
        for name, plugin in plugins.items()
        if unguided or (isinstance(plugin, Windowed) and not _is_off(plugin))
        for window in missed_windows(plugin, sigmas)
        if unguided or window == plugin.window
    ]
    if said:
        what = "no step of this run is guided" if unguided else "a method guides no step of this run"
        warn(f"{what}: {'; '.join(dict.fromkeys(said))}.", UnguidedWarning)


def missed_windows(plugin: Any, sigmas: Sigmas) -> list[Window]:
    """Return the windows of a plugin that hold no step of any output."""
    positions = [
        Position(index, len(levels) - 1, level, levels[0])
        for levels in sigmas.values()
        for index, level in enumerate(levels[:-1])
    ]
    return [each for each in _windows(plugin) if not any(map(each.contains, positions))]


def _is_off(plugin: Any) -> bool:
    neutral = getattr(plugin, "neutral", None) or {}
    return any(getattr(plugin, name, None) == value for name, value in neutral.items())


def _said(name: str, plugin: Any, window: Window, sigmas: Sigmas) -> str:
    if window.by != "sigma":
        count = len(next(iter(sigmas.values()))) - 1
        steps = f"which hold none of the {count} steps" if count > 1 else "which do not hold the only step"
        moved = "; its start and stop set them" if isinstance(plugin, Windowed) else ""
        return f"plugin {name!r} acts in the fractions {window.lo:g} to {window.hi:g} of the steps, {steps}{moved}"
    made = [level for levels in sigmas.values() for level in levels[:-1]]
    return (
        f"plugin {name!r} acts at sigmas from {window.lo:g} to {window.hi:g}, but the steps have sigmas from "
        f"{min(made):g} to {max(made):g}"
    )


def _windows(plugin: Any) -> Iterator[Window]:
    """Yield the windows of a plugin, and those of the schedules that stand for its numbers."""
    if isinstance(plugin, Windowed):
        yield plugin.window
    for field in attrs.fields(type(plugin)):
        given = getattr(plugin, field.name, None)
        for value in given.values() if isinstance(given, Mapping) else (given,):
            window = getattr(value, "window", None) if isinstance(value, Schedule) else value
            if isinstance(window, Window):
                yield window


def _listed(levels: Sequence[float]) -> str:
    shown = [f"{level:g}" for level in levels]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])
