"""Keypad: a small model of picture and sound together, with the architecture of LTX-2 in little.

Its clips show handwritten digits one after another, while the telephone keypad tone of each sounds. The prompt leaves
the digits open ("rising, quick"), so picture and sound must agree with each other, and not only with the prompt. It was
trained by `training/train_keypad.py`; the weights ship with the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidance_core.errors import ConfigurationError
from guidance_core.methods.perturbations import Perturbation
from guidance_core.models.keypad_changes import OUTPUTS, UNCHANGED, Changes
from guidance_core.models.keypad_sounds import LATENTS
from guidance_core.models.transformer import fourier, loaded

FRAMES = 6
SIDE = 8
"Pixels along a side of a frame."
HALF = SIDE * SIDE // 2
"Values of a video token: the upper or the lower half of a frame."
PATTERNS = ("any", "rising", "falling", "even", "odd", "same")
TEMPOS = ("any", "quick", "slow")
ANY = 0
"The pattern, or the tempo, that the prompt leaves open."

Streams: TypeAlias = dict[str, Tensor]
"A tensor for `video` and one for `audio`."


def follows(digits: Tensor, pattern: int) -> Tensor:
    """Return which rows of digits `[N, n]` follow a pattern, `[N]` of bools."""
    step = digits.diff(dim=1)
    match PATTERNS[pattern]:
        case "rising":
            return (step > 0).all(1)
        case "falling":
            return (step < 0).all(1)
        case "even":
            return (digits % 2 == 0).all(1)
        case "odd":
            return (digits % 2 == 1).all(1)
        case "same":
            return (step == 0).all(1)
    return torch.ones(len(digits), dtype=torch.bool)


def read_prompt(text: str) -> tuple[int, int]:
    """Return the pattern and the tempo of a prompt such as `rising, quick`; what is not said is any.

    Raises:
        ConfigurationError: a word is neither a pattern nor a tempo, or there are two of one kind.
    """
    said: dict[str, int] = {}
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        if word == "any":  # of either kind, which is what leaving it out says too
            continue
        kind = "pattern" if word in PATTERNS else "tempo"
        if word not in PATTERNS + TEMPOS or kind in said:
            raise ConfigurationError(
                f"a prompt of the keypad model is a pattern ({', '.join(PATTERNS)}) and a tempo ({', '.join(TEMPOS)}), "
                f"such as 'rising, quick'; got {text[:60]!r}."
            )
        said[kind] = (PATTERNS if kind == "pattern" else TEMPOS).index(word)
    return said.get("pattern", ANY), said.get("tempo", ANY)


class Attention(nn.Module):
    """Multi-head attention of tokens `[B, n, width]` to tokens `[B, m, width]`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, to: Tensor, mixing: bool = True) -> Tensor:
        """Attend; without mixing, each token keeps its own value."""
        key, value = self.key_value(to).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if mixing:
            query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            value = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(value.transpose(1, 2).flatten(2))
        return result


class StreamBlock(nn.Module):
    """What a block does to one stream: self-attention, cross-attention to the other stream, MLP.

    Each is modulated as in PixArt-α and LTX-2 (adaLN-single, arXiv:2310.00426): one projection of the conditions for
    all blocks of the stream, and a table for each block.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.table = nn.Parameter(torch.zeros(9, width))


class Stream(nn.Module):
    """The parts of one stream that stand around its blocks."""

    def __init__(self, values: int, parts: int, width: int) -> None:
        super().__init__()
        self.parts = parts
        self.embed = nn.Linear(values, width)
        self.frame = nn.Parameter(0.2 * torch.randn(FRAMES, 1, width))
        self.part = nn.Parameter(0.2 * torch.randn(parts, width))
        self.slot = nn.Parameter(0.2 * torch.randn(FRAMES, 1, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 9 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, values)
        for layer in (self.modulation, self.last, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def places(self) -> Tensor:
        """Return what is added to the tokens, `[tokens, width]`."""
        return (self.frame + self.part).flatten(0, 1)

    def slots(self) -> Tensor:
        """Return where in time the tokens are, for the attention between streams, `[tokens, width]`."""
        return self.slot.expand(-1, self.parts, -1).flatten(0, 1)


class KeypadTransformer(nn.Module):
    """Predicts the flow `ε − x0` of `x = (1 − σ)·x0 + σ·ε` for video and audio at once.

    Video is `[B, 6, 8, 8]` in [-1, 1], audio `[B, 6, 14]`: see `guidance_core.models.keypad_sounds`. Each block has,
    for each stream, self-attention, cross-attention to the other stream, and an MLP. No operation crosses samples.
    """

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.width = width
        self.pattern = nn.Embedding(len(PATTERNS), width)
        self.tempo = nn.Embedding(len(TEMPOS), width)
        self.streams = nn.ModuleDict({"video": Stream(HALF, 2, width), "audio": Stream(LATENTS, 1, width)})
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: StreamBlock(width, heads) for name in OUTPUTS}) for _ in range(depth)
        )

    def forward(
        self,
        x: Mapping[str, Tensor],
        sigma: float | Tensor,
        text: Tensor | Mapping[str, Tensor],
        perturbations: Sequence[Perturbation] = (),
        crossing: Tensor | None = None,
    ) -> Streams:
        """Return the flow of `video` and of `audio`, in their dtypes; computed in the dtype of the weights.

        Args:
            x: `video` `[B, 6, 8, 8]` and `audio` `[B, 6, 14]`.
            sigma: a number in [0, 1], or a tensor `[B]` of them.
            text: what `embedded` makes of prompts, `[B, width]`, for both streams or one for each.
            perturbations: what the pass changes, of the kinds in `guidance_core.models.keypad_changes.POSSIBLE`.
            crossing: how much of the attention between streams each sample keeps, `[B]`; training cuts it in some.

        Raises:
            ConfigurationError: a perturbation is of another kind, or names an output or a block that this model does
                not have.
        """
        changes = Changes.of(perturbations, len(self.blocks)) if perturbations else UNCHANGED
        dtype = self.pattern.weight.dtype
        sigma = torch.as_tensor(sigma, dtype=dtype, device=x["video"].device).expand(len(x["video"]))
        waves = fourier(sigma, self.width)
        said = text if isinstance(text, Mapping) else dict.fromkeys(OUTPUTS, text)
        keep = 1.0 if crossing is None else crossing[:, None, None]
        tokens, shifts, ends = {}, {}, {}
        streams = {name: cast("Stream", self.streams[name]) for name in OUTPUTS}
        for name, stream in streams.items():
            tokens[name] = stream.embed(x[name].to(dtype).flatten(2).reshape(len(sigma), -1, stream.embed.in_features))
            tokens[name] = tokens[name] + stream.places()
            condition = F.silu(stream.time(waves) + said[name].to(dtype))
            shifts[name] = stream.modulation(condition).unflatten(-1, (9, -1))
            ends[name] = stream.last(condition)[:, None].chunk(2, -1)
        slots = {name: stream.slots() for name, stream in streams.items()}
        for index, block in enumerate(self.blocks):
            parts = {name: cast("StreamBlock", block.get_submodule(name)) for name in OUTPUTS}
            tokens = _through(parts, changes.at(index), tokens, shifts, slots, keep)
        flow = {}
        for name, stream in streams.items():
            shift, scale = ends[name]
            flow[name] = stream.head(stream.norm(tokens[name]) * (1 + scale) + shift)
            flow[name] = flow[name].reshape(x[name].shape).to(x[name].dtype)
        return flow

    def embedded(self, prompts: Tensor) -> Tensor:
        """Return the embeddings `[B, width]` of prompts `[B, 2]`: the pattern and the tempo of each."""
        embeddings: Tensor = self.pattern(prompts[:, 0]) + self.tempo(prompts[:, 1])
        return embeddings


def _through(
    parts: Mapping[str, StreamBlock],
    changes: Changes,
    tokens: Streams,
    shifts: Streams,
    slots: Streams,
    keep: float | Tensor,
) -> Streams:
    """Take the tokens of both streams through a block."""
    said = {name: (shifts[name] + parts[name].table)[:, :, None].unbind(1) for name in OUTPUTS}
    after = dict(tokens)
    for name in OUTPUTS:
        if changes.skips(name):
            continue
        part, (shift, scale, gate, *_) = parts[name], said[name]
        h = part.norm(tokens[name]) * (1 + scale) + shift
        after[name] = tokens[name] + gate * part.attention(h, h, mixing=not changes.skips_attention(name))
    # Both streams look at what the other was before either changed.
    seen = {name: parts[name].norm(after[name]) for name in OUTPUTS}
    result = dict(after)
    for name, other in zip(OUTPUTS, reversed(OUTPUTS), strict=True):
        if changes.skips(name):
            continue
        part, (_, _, _, shift, scale, gate, shift2, scale2, gate2) = parts[name], said[name]
        if not changes.isolates(name):
            h = seen[name] * (1 + scale) + shift + slots[name]
            result[name] = after[name] + keep * gate * part.cross(h, seen[other] + slots[other])
        h = part.norm(result[name]) * (1 + scale2) + shift2
        result[name] = result[name] + gate2 * part.mlp(h)
    return result


def load_keypad_model() -> KeypadTransformer:
    """Return the trained model: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = KeypadTransformer()
    return loaded(model, "keypad.safetensors")
