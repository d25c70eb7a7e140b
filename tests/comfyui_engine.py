"""ComfyUI without its server, as `make test-hosts` fetches it, and small models of its own classes.

    comfyui = loaded()
    import comfy.samplers

While it is imported, stand-ins take the place of missing packages (torchvision, torchaudio, av).
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from guidance_core.bench.hosts.comfyui_folder import FOLDER, on_path, stand_ins, with_comfyui
from guidance_core.bench.hosts.subject import NotInstalledError


def loaded() -> Path:
    """Have ComfyUI imported, on the CPU, or skip the test where it has not been fetched; return its folder."""
    try:
        return with_comfyui()
    except NotInstalledError as missing:
        pytest.skip(str(missing))


@functools.cache
def samplers() -> Any:
    """Return `k_diffusion.sampling`, without the training code of its package, or skip the test."""
    if not (FOLDER / "packages/k_diffusion").is_dir():
        pytest.skip("k-diffusion 0.1.1 is not here; `make test-hosts` fetches it")
    on_path(FOLDER / "packages")
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(FOLDER / "packages/k_diffusion")]
    sys.modules["k_diffusion"] = package
    with stand_ins(("torchvision", "dctorch", "skimage")):
        return importlib.import_module("k_diffusion.sampling")


def unet(kind: str = "EPS", seed: int = 0) -> Any:
    """Return a U-Net of Stable Diffusion's architecture, in a `ModelPatcher`; `kind` is a name of its `ModelType`."""
    import comfy.model_base
    import comfy.supported_models

    config = {
        "image_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 1],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1],
        "num_heads": 2,
        "use_spatial_transformer": True,
        "context_dim": 16,
        "use_linear_in_transformer": False,
        "legacy": False,
        "dtype": torch.float32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = comfy.model_base.BaseModel(
            comfy.supported_models.SD15(config), model_type=comfy.model_base.ModelType[kind]
        )
        return _patcher(model)


def wan(seed: int = 0) -> Any:
    """Return a transformer of Wan 2.1's architecture, which predicts a flow."""
    import comfy.model_base
    import comfy.supported_models

    config = {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": 48,
        "ffn_dim": 64,
        "num_heads": 2,
        "num_layers": 3,
        "in_dim": 16,
        "out_dim": 16,
        "text_dim": 16,
        "freq_dim": 32,
        "patch_size": (1, 2, 2),
        "text_len": 8,
        "dtype": torch.float32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _patcher(comfy.model_base.WAN21(comfy.supported_models.WAN21_T2V(config)))


def flux(seed: int = 0) -> Any:
    """Return a transformer of Flux's architecture, with two lists of blocks."""
    import comfy.model_base
    import comfy.supported_models

    config = {
        "image_model": "flux",
        "in_channels": 4,
        "out_channels": 4,
        "vec_in_dim": 16,
        "context_in_dim": 16,
        "hidden_size": 32,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],
        "dtype": torch.float32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _patcher(comfy.model_base.Flux(comfy.supported_models.Flux(config)))


def ltx2(seed: int = 0) -> Any:
    """Return a transformer of LTX-2's architecture, whose latents are of video and of audio."""
    import comfy.model_base
    import comfy.supported_models

    config = {
        "image_model": "ltxav",
        "in_channels": 16,
        "cross_attention_dim": 32,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "caption_channels": 16,
        "num_layers": 3,
        "audio_in_channels": 128,
        "audio_cross_attention_dim": 16,
        "audio_attention_head_dim": 8,
        "audio_num_attention_heads": 2,
        "num_audio_channels": 8,
        "dtype": torch.float32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _patcher(comfy.model_base.LTXAV(comfy.supported_models.LTXAV(config)))


def _patcher(model: Any) -> Any:
    import comfy.model_patcher

    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.08 if parameter.ndim > 1 else 0.05)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
