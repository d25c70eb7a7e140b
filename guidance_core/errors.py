"""Every error this library raises on purpose, under one base class."""

from __future__ import annotations

import contextlib
import difflib
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

LONGEST = 4000
"Characters of an error's text; longer ones are cut in the middle."


class GuidanceError(Exception):
    """Base class of all errors that guidance-core raises on purpose."""

    def __init__(self, text: str = "") -> None:
        super().__init__(shortened(text, LONGEST))


def shortened(text: str, longest: int) -> str:
    """Cut the middle of a long text."""
    if len(text) <= longest:
        return text
    left_out = f" ... ({len(text) - longest:,} characters left out) ... "
    return text[: longest * 2 // 3] + left_out + text[-longest // 3 :]


def brief(value: object, longest: int = 200, *, written: Callable[[Any], str] = repr) -> str:
    """Write a value that somebody gave, however large it is, and whatever happens where it is written."""
    try:
        return shortened(written(value), longest)
    except (ValueError, RecursionError):  # of whole numbers Python writes some thousand digits only
        return f"a {type(value).__name__} that is too large to write"
    except Exception as error:
        return f"a {type.__repr__(type(value))} that cannot be written ({type(error).__name__})"


def told(error: BaseException) -> str:
    """Write class and text of an error that the code of others raised, whatever its text does."""
    try:
        return shortened(f"{type(error).__name__}: {error}".removesuffix(": "), 1000)
    except Exception:
        return f"{type.__repr__(type(error))}, whose text cannot be read"


def text_of(error: BaseException) -> str:
    """Return an error's text, whatever its class makes of it."""
    try:
        return str(error)
    except Exception as unreadable:
        return f"(its text cannot be read: {type(unreadable).__name__})"


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error, whatever its class makes of them."""
    try:
        return [str(note) for note in getattr(error, "__notes__", None) or ()]
    except Exception:
        return []


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, unless its class forbids that."""
    with contextlib.suppress(Exception):
        error.add_note(note)


class ConfigurationError(GuidanceError, ValueError):
    """A parameter, a stack, a condition or a sigma list cannot be used as given."""


class SpecError(ConfigurationError):
    """A spec string, dict, JSON or TOML text cannot be read."""


class UnknownNameError(ConfigurationError):
    """A plugin, parameter, preset, executor or condition of that name does not exist."""


class BranchConflictError(ConfigurationError):
    """Plugins want different content under one branch name, or perturbations that exclude each other."""


class PluginError(GuidanceError):
    """A plugin's hook raised an exception, or returned something that is not allowed."""


class DenoiserError(GuidanceError):
    """The denoiser returned something that does not fit the sample or the base branch."""


class NonFiniteError(DenoiserError):
    """A prediction holds NaN or infinity, and the run was started with `check_finite=True`."""


class OverwrittenError(DenoiserError):
    """A forward pass overwrites the prediction of another one, or the sample."""


class ExecutorError(GuidanceError):
    """An executor cannot run the plan that it was given."""


class PlanMismatchError(ExecutorError):
    """The ranks of a group are about to do different things: another step, other branches or shapes."""


class RankError(ExecutorError):
    """One rank of a group failed. All its ranks raise this error."""

    ranks: tuple[int, ...] = ()
    "The ranks that failed, counted within the group; empty if they are not known."


class RankFailedError(RankError):
    """The denoiser of a rank, or the code that runs it, raised an exception. The group can go on with the next step."""


class RankLostError(RankError):
    """A rank does not answer: it died, its connection broke, or the group's timeout passed.

    The group can no longer be used.
    """

    _group: object = None
    "The control group whose rank it is."


class UnguidedWarning(UserWarning):
    """A stack, or one of its methods, guides no step of a run: a window holds none of them, or a scale is neutral."""


class TimestepWarning(UserWarning):
    """The values given as noise levels can only be timesteps."""


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the first frame outside this library, so that the warning names the user's line."""
    level, frame = 1, sys._getframe(1)
    ours = ("guidance_core", "contextlib", "torch", "diffusers")  # the others wrap functions of ours, or call them
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in ours:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level + 1)


def did_you_mean(name: str, known: Iterable[str], *, nearness: float = 0.5) -> str:
    """Return `" Did you mean 'x'?"` for an unknown `name` that is near a known one in any case, or nothing."""
    lowered = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=5, cutoff=nearness)
    if not close:
        return ""
    letters = sorted(name.lower())

    def distance(each: str) -> tuple[float, bool, bool]:
        ratio = difflib.SequenceMatcher(None, each, name.lower()).ratio()
        return -ratio, sorted(each) != letters, each[:1] != name[:1].lower()

    return f" Did you mean {lowered[min(close, key=distance)]!r}?"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"`, or the known names, for an unknown `name`."""
    known = sorted(known)
    hint = did_you_mean(name, known)
    if hint:
        return hint
    if known:
        return f" There is: {', '.join(known)}."
    return " There is none."
