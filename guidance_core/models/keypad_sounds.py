"""The sounds of a telephone keypad: each digit is two sines, and fourteen amplitudes describe a frame of sound.

The amplitudes are the latents that the Keypad model denoises, as LTX-2 denoises the latents of an audio autoencoder.
Here the autoencoder is linear: least squares on the sines and cosines of the keypad's seven frequencies.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

RATE = 8000
"Samples per second."
FRAME = 960
"Samples in a frame: 0.12 seconds."
LOW = (697.0, 770.0, 852.0, 941.0)
"Frequencies of the keypad's rows, in hertz."
HIGH = (1209.0, 1336.0, 1477.0)
"Frequencies of its columns."
ROW = (3, 0, 0, 0, 1, 1, 1, 2, 2, 2)
"The row of each digit, 0 to 9."
COLUMN = (1, 0, 1, 2, 0, 1, 2, 0, 1, 2)
"The column of each digit."
LATENTS = 2 * (len(LOW) + len(HIGH))
"Values that tell a frame: a cosine's and a sine's amplitude for each frequency."
UNIT = 0.2
"The amplitude that a latent of 1 stands for, so that latents are about as large as noise."


@functools.cache
def waves() -> Tensor:
    """Return the cosine and the sine of each frequency over one frame, `[14, 960]` in float32."""
    seconds = torch.arange(FRAME, dtype=torch.float64) / RATE
    angles = 2 * math.pi * torch.tensor(LOW + HIGH, dtype=torch.float64)[:, None] * seconds
    return torch.stack((angles.cos(), angles.sin()), 1).flatten(0, 1).float()


@functools.cache
def _least_squares() -> Tensor:
    inverse: Tensor = torch.linalg.pinv(waves().double()).float()
    return inverse


def _frames(sound: Tensor) -> Tensor:
    return sound.reshape(*sound.shape[:-1], -1, FRAME)


def encode(sound: Tensor) -> Tensor:
    """Return the latents `[..., frames, 14]` of a sound `[..., samples]` in [-1, 1]; whole frames, float32."""
    return _frames(sound) @ _least_squares() / UNIT


def decode(latents: Tensor) -> Tensor:
    """Return the sound `[..., samples]` of latents `[..., frames, 14]`; it may exceed [-1, 1]."""
    return (latents.float() * UNIT @ waves()).flatten(-2)


def goertzel(sound: Tensor) -> Tensor:
    """Return the amplitude of each frequency in each frame, `[..., frames, 7]`, of a sound `[..., samples]`.

    Goertzel's filter at one frequency is one term of the discrete Fourier transform. Computed in float32.
    """
    cosines, sines = (_frames(sound.float()) @ waves()[part::2].T for part in (0, 1))
    return 2 / FRAME * torch.hypot(cosines, sines)
