"""What ranks must share for a guided call besides the sample: pipeline, weights, prompts, random states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SAMPLES = 8
"Elements of each weight that are compared: a model has thousands of weights."


def shared(
    pipe: Any, models: Sequence[Any], device: torch.device, conditions: Mapping[str, Mapping[str, Any]], generator: Any
) -> dict[str, Any]:
    """Return what every rank must be given equally besides the sample, by its name; nothing is waited for."""
    scheduler = pipe.scheduler
    kinds = [type(pipe).__name__, *(type(model).__name__ for model in models), type(scheduler).__name__]
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {
        "pipeline": [*kinds, settings],
        "weights": [_sampled(model) for model in models],
        "adapters": [list(_adapters(model)) for model in models],
        **conditions,
        **({"randomness": _states(generator, device)} if draws_noise(scheduler) else {}),
    }


def draws_noise(scheduler: Any) -> bool:
    """Whether a scheduler draws noise in its steps, so that ranks need the same random state."""
    config, name = scheduler.config, type(scheduler).__name__
    return (
        "Ancestral" in name
        or name.startswith(("DDPM", "DDIM"))  # DDIM with eta, which is an argument of the call
        or str(config.get("algorithm_type", "")).startswith("sde")
        or bool(config.get("stochastic_sampling", False))
    )


def _states(generator: Any, device: torch.device) -> list[Tensor]:
    """Return the state of what a pipeline draws noise from: its generators, or torch's own."""
    if generator is not None:
        return [each.get_state() for each in (generator if isinstance(generator, (list, tuple)) else [generator])]
    own = [torch.cuda.get_rng_state(device).cpu()] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def _sampled(model: Any) -> list[Tensor]:
    """Return a few elements of every weight, one after another, of each device."""
    parts: dict[torch.device, list[Tensor]] = {}
    for weight in model.parameters():
        flat = weight.detach().reshape(-1)
        if flat.numel() and flat.device.type != "meta":  # those of an offloaded model are elsewhere
            some = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].float()
            parts.setdefault(flat.device, []).append(some)
    return [torch.cat(some) for some in parts.values()]


def _adapters(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what changes a model besides its weights: which LoRA are on and how far, and the scale of IP-Adapters."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scaling", None), Mapping):
            on = getattr(module, "active_adapters", None), getattr(module, "disable_adapters", False)
            yield name, [dict(module.scaling), *on]
        scale = getattr(getattr(module, "processor", None), "scale", None)
        if scale is not None:
            yield f"{name}.processor", scale
