"""A module that changes a setting of the whole process when it is imported."""

from __future__ import annotations

import attrs
import torch

from zoo.entry import broken
from zoo.sound import Linear

torch.set_grad_enabled(False)


@broken("quiet-import", "gradient mode")
@attrs.frozen
class SwitchesGradientsOff(Linear):
    """Switches gradients off for the whole process when it is imported."""
