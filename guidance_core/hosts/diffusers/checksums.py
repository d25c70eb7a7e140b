"""What ranks must share for a guided call, in a few numbers: pipeline, weights, noise and prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.algebra.digest import digest

SAMPLES = 8
"Elements of each weight that are compared: a model has thousands of weights."


def checksums(
    pipe: Any,
    models: Sequence[Any],
    sample: Sequence[Tensor],
    conditions: Mapping[str, Mapping[str, Any]],
    generator: Any,
) -> dict[str, int]:
    """Return a number for each thing that every rank must be given equally, by its name.

    Waits for the device once, so it is for the first step of a run.
    """
    scheduler = pipe.scheduler
    kinds = [type(pipe).__name__, *(type(model).__name__ for model in models), type(scheduler).__name__]
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {
        "pipeline": digest([*kinds, _plain(settings)]),
        "weights": digest([_sampled(model) for model in models]),
        "adapters": digest([_plain(dict(_adapters(model))) for model in models]),
        "noise": digest([each.detach().cpu() for each in sample]),
        **{name: digest(list(_tensors(inputs))) for name, inputs in conditions.items()},
        **({"randomness": digest(_states(generator, sample[0].device))} if draws_noise(scheduler) else {}),
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


def _sampled(model: Any) -> Tensor:
    """Return a few elements of every weight, one after another, on the CPU."""
    parts = []
    for weight in model.parameters():
        flat = weight.detach().reshape(-1)
        if flat.numel() and flat.device.type != "meta":  # those of an offloaded model are elsewhere
            parts.append(flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].float())
    return torch.cat([part.cpu() for part in parts]) if parts else torch.empty(0, device="cpu")


def _adapters(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what changes a model besides its weights: which LoRA are on and how far, and the scale of IP-Adapters."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scaling", None), Mapping):
            on = getattr(module, "active_adapters", None), getattr(module, "disable_adapters", False)
            yield name, [dict(module.scaling), *on]
        scale = getattr(getattr(module, "processor", None), "scale", None)
        if scale is not None:
            yield f"{name}.processor", scale


def _tensors(value: Any) -> Iterator[Any]:
    """Yield everything in the arguments of a call, tensors on the CPU."""
    if isinstance(value, Tensor):
        yield value.detach().cpu()
    elif isinstance(value, Mapping):
        for name in sorted(value):
            yield name
            yield from _tensors(value[name])
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    else:
        yield _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
