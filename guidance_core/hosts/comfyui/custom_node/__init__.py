"""Guidance methods as nodes of ComfyUI. This folder belongs into ComfyUI's `custom_nodes`."""

from guidance_core.hosts.comfyui.nodes import comfy_entrypoint as comfy_entrypoint
