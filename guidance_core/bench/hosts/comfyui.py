"""ComfyUI's CFG guider beside the guider that runs a stack, with a small transformer of Wan's architecture."""

from __future__ import annotations

from typing import Any

import torch

from guidance_core.bench.hosts.comfyui_folder import with_comfyui
from guidance_core.bench.hosts.subject import Counted, Subject, Way, drawn, saving, with_weights
from guidance_core.guidance import Guidance

STEPS, SCALE = 5, 4.0


def comfyui(tiny: bool) -> Subject:
    """Return ComfyUI's custom sampling; it batches the passes of a step itself, and knows no ranks."""
    with_comfyui()
    import comfy.model_base
    import comfy.model_patcher
    import comfy.samplers
    import comfy.supported_models
    import comfyui_version

    from guidance_core.hosts.comfyui.guider import Guider

    dim, layers, size = (48, 2, 8) if tiny else (384, 6, 24)
    config = {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": dim,
        "ffn_dim": 4 * dim,
        "num_heads": 2 if tiny else 8,
        "num_layers": layers,
        "in_dim": 16,
        "out_dim": 16,
        "text_dim": 32,
        "freq_dim": 32,
        "patch_size": (1, 2, 2),
        "text_len": 16,
        "dtype": torch.float32,
    }
    model = with_weights(lambda: comfy.model_base.WAN21(comfy.supported_models.WAN21_T2V(config)))
    filled = drawn(1, **{str(number): each.shape for number, each in enumerate(model.parameters())})
    for parameter, noise in zip(model.parameters(), filled.values(), strict=True):
        parameter.data = noise * (0.5 / dim**0.5)  # ComfyUI leaves weights as memory was
    device = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
    counted = Counted()
    counted.watch(model.diffusion_model, "x")

    def call(guider: Any, seed: int) -> Any:
        sampling = patcher.get_model_object("model_sampling")
        return guider.sample(
            noise := drawn(seed, noise=(1, 16, 3, size, size))["noise"],
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("euler"),
            comfy.samplers.calculate_sigmas(sampling, "normal", STEPS),
            disable_pbar=True,
            seed=seed,
        )

    def conditioning(seed: int) -> list[Any]:
        texts = drawn(seed, positive=(1, 16, 32), negative=(1, 16, 32))
        return [[[text, {}]] for text in texts.values()]

    def own(seed: int) -> Any:
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(*conditioning(seed))
        guider.set_cfg(SCALE)
        return call(guider, seed)

    def ours(spec: str, way: Way, seed: int) -> Any:
        guider = Guider(patcher, Guidance.from_spec(spec))
        guider.set_conditions(dict(zip(("positive", "negative"), conditioning(seed), strict=True)))
        return call(guider, seed)

    version = comfyui_version.__version__
    return Subject(
        "ComfyUI, Wan 2.1", version, STEPS, own, ours, saving(f"cfg:scale={SCALE:g}"), counted, takes_ranks=False
    )
