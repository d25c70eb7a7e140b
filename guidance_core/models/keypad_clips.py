"""Making clips with the Keypad model, to see, to hear and to measure what guidance does to two outputs at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.methods.capabilities import Capabilities
from guidance_core.methods.perturbations import Perturbation, UseCondition
from guidance_core.models.keypad import FRAMES, SIDE, KeypadTransformer, Streams, load_keypad_model, read_prompt
from guidance_core.models.keypad_changes import OUTPUTS, POSSIBLE
from guidance_core.models.keypad_judges import Scores, judge, load_digit_reader
from guidance_core.models.keypad_sounds import LATENTS
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.trace import Trace

PROMPTS = ("rising, quick", "falling, slow", "even, quick", "same, slow")
"Prompts to show."


@attrs.frozen(eq=False)
class Clips:
    """What one stack made."""

    video: Tensor
    "`[N, 6, 8, 8]`, about [-1, 1]: n clips of each prompt, prompt by prompt."
    audio: Tensor
    "The latents of the sounds, `[N, 6, 14]`; `keypad_sounds.decode` makes sound of them."
    prompts: tuple[str, ...]
    scores: Scores
    passes_per_step: float
    seconds: float
    trace: Trace | None = None
    "What each step did, where that was asked for."

    @property
    def per_prompt(self) -> int:
        """Number of clips of each prompt."""
        return len(self.video) // len(self.prompts)


class KeypadDenoiser:
    """One step's forward passes of the Keypad model, with one output each for `video` and `audio`.

    A branch's inputs have `text`, what `KeypadTransformer.embedded` makes of prompts. It takes rows of the batch, and
    runs branches with equal perturbations in one forward.
    """

    takes_rows = True

    def __init__(self, model: KeypadTransformer, x: Streams, sigma: float) -> None:
        self._model, self._x, self._sigma = model, x, sigma

    def __call__(self, branch: BoundBranch) -> Streams:
        """Run one branch."""
        return self._forward([branch])[0]

    def batch(self, branches: Sequence[BoundBranch]) -> list[Streams]:
        """Run several branches, as few forwards as their perturbations allow."""
        groups: dict[tuple[Perturbation, ...], list[int]] = {}
        for number, branch in enumerate(branches):
            groups.setdefault(branch.perturbations, []).append(number)
        made: dict[int, Streams] = {}
        for members in groups.values():
            made |= zip(members, self._forward([branches[number] for number in members]), strict=True)
        return [made[number] for number in range(len(branches))]

    def _forward(self, branches: Sequence[BoundBranch]) -> list[Streams]:
        rows = [branch.rows or slice(None) for branch in branches]
        size = len(self._x["video"])
        texts = [self._texts(branch, size) for branch in branches]
        x = {name: _joined([self._x[name][part] for part in rows]) for name in OUTPUTS}
        text = {name: _joined([each[name][part] for each, part in zip(texts, rows, strict=True)]) for name in OUTPUTS}
        flow = self._model(x, self._sigma, text, branches[0].perturbations)
        counts = [len(range(*part.indices(size))) for part in rows]
        parts = {name: flow[name].split(counts) for name in OUTPUTS}
        return [{name: parts[name][number] for name in OUTPUTS} for number in range(len(branches))]

    def _texts(self, branch: BoundBranch, size: int) -> Streams:
        """Return the text of each stream, that of another condition where a perturbation says so."""
        texts: Streams = dict.fromkeys(OUTPUTS, branch.inputs["text"])
        for each in branch.perturbations:
            if isinstance(each, UseCondition):
                theirs = branch.also[each.condition]["text"]
                texts |= {name: theirs for name in OUTPUTS if each.output in (None, name)}
        return {name: text.expand(size, -1) for name, text in texts.items()}


def make_clips(
    guidance: Guidance,
    prompts: Sequence[str] = PROMPTS,
    *,
    steps: int = 25,
    per_prompt: int = 1,
    seed: int = 0,
    executor: str | Executor = "serial",
    on_step: Callable[[], object] = lambda: None,
    trace: Trace | None = None,
) -> Clips:
    """Make clips with Euler steps over evenly falling sigmas, and judge them.

    A clip starts from noise that follows from the seed, its prompt's place and its own number alone.

    Args:
        guidance: the stack to use; its negative prompt leaves everything open.
        prompts: each a pattern and a tempo, such as `rising, quick`.
        steps: number of steps.
        per_prompt: clips of each prompt.
        seed: of the starting noise, and of what methods draw.
        executor: what runs the branches.
        on_step: called after each step.
        trace: is given what each step did.

    Raises:
        ConfigurationError: steps or per_prompt is not positive, there is no prompt or one cannot be read, or the stack
            asks for what the model cannot do.
    """
    for name, value in (("steps", steps), ("per_prompt", per_prompt), ("the number of prompts", len(prompts))):
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1; got {value}.")
    asked = torch.tensor([read_prompt(prompt) for prompt in prompts]).repeat_interleave(per_prompt, 0)
    model, reader = load_keypad_model(), load_digit_reader()
    seeds = [_seed(seed, place, number) for place in range(len(prompts)) for number in range(per_prompt)]
    noise = [_noise(each) for each in seeds]
    x: dict[str, Any] = {name: torch.stack([each[name] for each in noise]) for name in OUTPUTS}
    sigmas = [1 - number / steps for number in range(steps + 1)]
    with torch.no_grad():  # which, unlike inference mode, lets a method differentiate
        texts = {"positive": asked, "negative": torch.zeros_like(asked)}
        run = guidance.start(
            conditions={name: {"text": model.embedded(each)} for name, each in texts.items()},
            sigmas=sigmas,
            prediction_type="flow",
            outputs=OUTPUTS,
            executor=executor,
            seeds=seeds,
            supports=Capabilities(POSSIBLE, blocks=len(model.blocks), also=None),
            trace=trace,
        )
        start = time.perf_counter()
        for index, (sigma, following) in enumerate(pairwise(sigmas)):
            flow = run.step(index, x, KeypadDenoiser(model, x, sigma))
            x = {name: x[name] + (following - sigma) * flow[name] for name in OUTPUTS}
            on_step()
        seconds = time.perf_counter() - start
        scores = judge(x["video"], x["audio"], asked, reader)
    return Clips(x["video"], x["audio"], tuple(prompts), scores, run.passes / steps, seconds, trace)


def _seed(seed: int, place: int, number: int) -> int:
    return (seed * 1_000_003 + place * 100_003 + number) % 2**63


def _noise(seed: int) -> Streams:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"video": (FRAMES, SIDE, SIDE), "audio": (FRAMES, LATENTS)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
