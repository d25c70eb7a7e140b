"""Time as it passes on a device."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor


def now(device: torch.device) -> float:
    """Return the time in seconds at which a device has done all that it was given; waits for it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def device_in(value: Any) -> torch.device:
    """Return the device of the first tensor in a sample: a tensor, or several in a dict or tuple."""
    if isinstance(value, Tensor):
        return value.device
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((device_in(each) for each in inner), torch.device("cpu"))
