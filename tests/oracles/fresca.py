"""FreSca with the whole spectrum, centred, and the authors' square of low frequencies."""

import torch
from hypothesis import strategies as st

from guidance_plugins import FreSca
from oracles import Oracle


def filtered(d, low, high, cutoff):
    """`[H, W]`"""
    height, width = d.shape
    middle = height // 2, width // 2
    k = min(cutoff, *middle)
    gain = torch.full(d.shape, high, dtype=torch.float64)
    gain[middle[0] - k : middle[0] + k, middle[1] - k : middle[1] + k] = low
    return torch.fft.ifft2(torch.fft.ifftshift(torch.fft.fftshift(torch.fft.fft2(d)) * gain)).real


def found(planes, share):
    """The cutoff of one sample, `[M, H, W]`."""
    height, width = planes.shape[-2:]
    size = torch.fft.fftshift(torch.fft.fft2(planes), dim=(-2, -1)).abs().mean(0)
    reached = []
    for line in (size[height // 2], size[:, width // 2]):
        total = line.cumsum(0)
        reached.append(min(int((total >= share * total[-1]).nonzero()[0]), min(height, width) // 4))
    return max(3, sum(reached) // 2)


def formula(facts, predictions, scale, low, high, cutoff, energy):
    c, u = predictions["cond"], predictions["uncond"]
    d = (c - u).flatten(1, -3)
    samples = []
    for each in d:
        k = found(each, energy) if cutoff is None else cutoff
        samples.append(torch.stack([filtered(plane, low, high, k) for plane in each]))
    return u + scale * torch.stack(samples).reshape(c.shape)


ORACLE = Oracle(
    stack=lambda **given: [FreSca(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(1.1, 12),
            "low": st.floats(0, 2),
            "high": st.floats(0, 2),
            "cutoff": st.sampled_from([None, 0, 1, 3, 20]),
            # Not a share that the sum of a row reaches exactly.
            "energy": st.sampled_from([0.0, 0.137, 0.211]),
        }
    ),
    shapes=((2, 4, 8, 8), (1, 2, 5, 7), (2, 1, 24, 25), (3, 2, 3, 4, 6)),
    units=64,
)
