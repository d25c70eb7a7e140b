"""Perturbations of single passes in a batch of several, where ComfyUI lets a model's blocks be replaced.

All passes of a step share one `calc_cond_batch`, so that ComfyUI batches them and shares them out over its devices as
usual. Which rows belong to which pass stands in `transformer_options["cond_or_uncond"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention as attention
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.comfyui.anatomy import OUTPUTS, Anatomy, Place
from guidance_core.methods.attention import SoftIdentityAttention
from guidance_core.methods.perturbations import Perturbation, SkipBlocks


class Weakening:
    """What the blocks of a step's passes are replaced with."""

    def __init__(self, anatomy: Anatomy, changes: Mapping[int, Sequence[Perturbation]]) -> None:
        """Describe it.

        Args:
            anatomy: of the model.
            changes: the perturbations of each pass, by its number in the batch.
        """
        self._anatomy = anatomy
        self._at: dict[Place, dict[int, list[Perturbation]]] = {}
        self._seen: set[Place] = set()
        for number, several in changes.items():
            for change in several:
                for place in anatomy.of_change(change):
                    self._at.setdefault(place, {}).setdefault(number, []).append(change)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return ComfyUI's model options with the replacements; what others replaced stays, below them."""
        if not self._at:
            return dict(given)
        transformer = dict(given.get("transformer_options", {}))
        replaced = dict(transformer.get("patches_replace", {}))
        kind = self._anatomy.kind
        own = dict(replaced.get(kind, {}))
        make = self._block if kind == "dit" else self._attention
        for place in self._at:
            own[place] = make(place, own.get(place, own.get(place[:2]) if kind == "attn1" else None))
        replaced[kind] = own
        return {**given, "transformer_options": {**transformer, "patches_replace": replaced}}

    def check(self) -> None:
        """Raise `ConfigurationError` if the model did not ask for the replacements."""
        if missed := self._at.keys() - self._seen:
            raise ConfigurationError(
                f"{self._anatomy.name} does not let its blocks be replaced ({len(missed)} of {len(self._at)} were not "
                "looked up), so ComfyUI cannot weaken a pass of it. Leave out methods with a weakened pass."
            )

    def _rows(self, place: Place, options: Mapping[str, Any], count: int) -> list[tuple[slice, list[Perturbation]]]:
        """Return the rows of a batch that a place changes, with the changes."""
        passes = options["cond_or_uncond"]
        size = count // len(passes)
        found = self._at[place]
        return [
            (slice(at * size, (at + 1) * size), found[number]) for at, number in enumerate(passes) if number in found
        ]

    def _block(self, place: Place, below: Callable[..., Any] | None) -> Callable[..., Any]:
        def replaced(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            self._seen.add(place)
            original = extra["original_block"]
            run = original if below is None else lambda given: below(given, {**extra, "original_block": original})
            streams = {name: value for name, value in args.items() if name in ("img", "txt", "x")}
            main = next(value for name, value in streams.items() if name != "txt")
            count = (main[0] if isinstance(main, tuple) else main).shape[0]
            rows = self._rows(place, args["transformer_options"], count)
            skipped = [(part, each) for part, several in rows for each in several if isinstance(each, SkipBlocks)]
            of_attention = [
                (part, each) for part, several in rows for each in several if not isinstance(each, SkipBlocks)
            ]
            if sum(part.stop - part.start for part, each in skipped if each.output is None) == count:
                return streams
            # blocks may write into their input
            kept = [
                (part, each, {name: _copied(value, part) for name, value in streams.items()}) for part, each in skipped
            ]
            if of_attention:
                args = {**args, "transformer_options": self._within(args["transformer_options"], of_attention)}
            made: dict[str, Any] = run(args)
            for part, each, before in kept:
                for name in made.keys() & before.keys():
                    made[name] = _put_back(made[name], before[name], part, each.output)
            return made

        return replaced

    def _within(self, options: Mapping[str, Any], changes: Sequence[tuple[slice, Perturbation]]) -> dict[str, Any]:
        """Return the options of one block, whose first attention is changed."""
        below = options.get("optimized_attention_override")
        calls = 0

        def override(function: Callable[..., Tensor], *args: Any, **named: Any) -> Tensor:
            nonlocal calls
            calls += 1
            made = function(*args, **named) if below is None else below(function, *args, **named)
            if calls > 1 and not self._anatomy.all_are_self:
                return made
            return _changed(made, args[2], int(named.get("heads", args[3] if len(args) > 3 else 0)), changes, named)

        return {**options, "optimized_attention_override": override}

    def _attention(self, place: Place, below: Callable[..., Any] | None) -> Callable[..., Any]:
        def replaced(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            self._seen.add(place)
            if below is not None:
                made = below(q, k, v, extra)
            else:
                made = attention.optimized_attention(
                    q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"], transformer_options=extra
                )
            rows = [(part, each) for part, several in self._rows(place, extra, q.shape[0]) for each in several]
            return _changed(made, v, extra["n_heads"], rows, {})

        return replaced


def _changed(
    made: Tensor,
    values: Tensor,
    heads: int,
    changes: Sequence[tuple[slice, Perturbation]],
    named: Mapping[str, Any],
) -> Tensor:
    """Return the result of an attention in which some rows attend to themselves alone, or partly so."""
    if named.get("skip_reshape", False) != named.get("skip_output_reshape", False):
        values = _in_heads(values, heads) if values.ndim == 3 else values.transpose(1, 2).flatten(2)
    if values.shape != made.shape:
        raise ConfigurationError(
            "the model's attention has fewer heads of keys and values than of queries, or another number of them, so "
            f"that no pass can attend to itself alone: values {tuple(values.shape)}, result {tuple(made.shape)}."
        )
    made = made.clone()
    for part, change in changes:
        if isinstance(change, SoftIdentityAttention):
            split = [each[part] if each.ndim == 4 else _in_heads(each[part], heads) for each in (made, values)]
            mixed = change.mixed(*split)
            made[part] = mixed if made.ndim == 4 else mixed.transpose(1, 2).flatten(2)
        else:
            made[part] = values[part]
    return made


def _in_heads(values: Tensor, heads: int) -> Tensor:
    """Return `[B, heads, tokens, width]` of `[B, tokens, heads * width]`."""
    return values.view(*values.shape[:2], heads, -1).transpose(1, 2)


def _copied(stream: Any, rows: slice) -> Any:
    return tuple(each[rows].clone() for each in stream) if isinstance(stream, tuple) else stream[rows].clone()


def _put_back(made: Any, before: Any, rows: slice, output: str | None) -> Any:
    if isinstance(made, tuple):
        return tuple(
            _put_back(new, old, rows, None) if output in (None, name) else new
            for name, new, old in zip(OUTPUTS, made, before, strict=True)
        )
    return torch.cat([made[: rows.start], before, made[rows.stop :]])
