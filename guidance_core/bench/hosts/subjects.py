"""The hosts that are measured, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from guidance_core.bench.hosts.classic import ltx2, stable_diffusion, wan
from guidance_core.bench.hosts.comfyui import comfyui
from guidance_core.bench.hosts.engines import sglang, vllm_omni
from guidance_core.bench.hosts.loop import ltx2_loop
from guidance_core.bench.hosts.modular import modular_wan
from guidance_core.bench.hosts.subject import Subject

SUBJECTS: Mapping[str, Callable[[bool], Subject]] = {
    "stable-diffusion": stable_diffusion,
    "wan": wan,
    "ltx2": ltx2,
    "modular": modular_wan,
    "loop": ltx2_loop,
    "sglang": sglang,
    "vllm-omni": vllm_omni,
    "comfyui": comfyui,
}
"What makes each host, with a tiny model or one whose passes take some ten milliseconds."
