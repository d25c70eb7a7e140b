"""The embedded model as a host that can do whatever a method may ask of one, and runs of it."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core import ConfigurationError, Guidance, GuidanceError, IdentityAttention, SkipBlocks, SkipSelfAttention
from guidance_core.models import ANY_CHARACTER, load_small_letters_model
from pairs.usual import CONDITIONS, made

STEPS = 4
SIGMAS = tuple(1 - index / STEPS for index in range(STEPS + 1))
SAMPLES = 2
KNOWN = (IdentityAttention, SkipBlocks, SkipSelfAttention)
SIDE = 28
TYPEFACES = (1, 2)
CHARACTERS = {"positive": (3, 17), "negative": (ANY_CHARACTER, ANY_CHARACTER)}


@functools.cache
def model() -> Any:
    """Return the smaller transformer of letters: nothing here looks at pictures."""
    return load_small_letters_model()


@functools.cache
def drawn(purpose: str, *shape: int) -> Tensor:
    """Return normal noise that follows from a text."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(purpose.encode())))


@functools.cache
def conditions() -> dict[str, dict[str, Tensor]]:
    """Return model inputs of each condition: a character, and numbers that a method may edit."""
    others = [name for name in CONDITIONS if name not in CHARACTERS]
    characters = CHARACTERS | {name: (number, number + 1) for number, name in enumerate(others)}
    return {
        name: {"character": torch.tensor(character), "text": drawn(f"text {name}", SAMPLES, SIDE**2)}
        for name, character in characters.items()
    }


def forward(x: Tensor, sigma: float, branch: Any) -> Tensor:
    """Return the flow that the model predicts for a branch.

    What the transformer is not asked for here changes the prediction in a way of its own: the text, another model,
    other perturbations. The change follows the noise level, so that no step's guidance is that of another step.
    """
    inputs, known = branch.inputs, [each for each in branch.perturbations if isinstance(each, KNOWN)]
    prediction: Tensor = model()(x, inputs.get("sigma", sigma), inputs["character"], torch.tensor(TYPEFACES), known)
    prediction = prediction + 0.05 * inputs["text"].view_as(x)
    for each in branch.perturbations:
        if each not in known:
            prediction = prediction + 0.2 * (0.5 + sigma) * drawn(repr(each), *x.shape)
    for name, also in branch.also.items():
        prediction = prediction + 0.1 * drawn(name, *x.shape) * also["text"].view_as(x)
    return prediction if branch.model is None else 0.9 * prediction + 0.2 * sigma * drawn(branch.model, *x.shape)


def play(stack: Sequence[str], executor: Any = "serial") -> Tensor | GuidanceError:
    """Return the sample after each step, `[steps, B, 1, 28, 28]`, or why the stack is refused."""
    try:
        run = Guidance([made(name) for name in stack]).start(
            conditions=conditions(), sigmas=SIGMAS, prediction_type="flow", executor=executor, seeds=7
        )
    except GuidanceError as error:
        return error
    x, found = drawn("sample", SAMPLES, 1, SIDE, SIDE), []
    for index in range(STEPS):
        velocity = run.step(index, x, functools.partial(forward, x, SIGMAS[index]))
        x = (x + (SIGMAS[index + 1] - SIGMAS[index]) * velocity).detach()
        found.append(x)
    return torch.stack(found)


def play_on_ranks(group: Any, stacks: Sequence[Sequence[str]]) -> list[Tensor | str]:
    """Play many stacks as one of several ranks; an error as its text."""
    from guidance_core import AllGatherExecutor

    results: list[Tensor | str] = []
    for stack in stacks:
        played = play(stack, AllGatherExecutor(group=group))
        results.append(str(played) if isinstance(played, ConfigurationError) else played)
    return results
