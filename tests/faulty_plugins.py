"""Plugins that the conformance suite cannot even begin to check, or only within a time limit."""

from __future__ import annotations

import time
from typing import ClassVar

import attrs

from guidance_core import Branch, ConfigurationError, hookimpl


@attrs.frozen
class NoHooks:
    scale: float = 1.0


class NoAttrs:
    @hookimpl
    def build_branches(self, step):
        return []


@attrs.frozen
class UnknownArgument:
    @hookimpl
    def build_branches(self, step, sigma):
        return []


@attrs.frozen
class Needy:
    """Cannot be made without its parameter."""

    strength: float

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", strength=step.value(self.strength))]


@attrs.frozen
class Hangs:
    @hookimpl
    def build_branches(self, step):
        while True:
            time.sleep(0.01)


@attrs.frozen
class EpsilonOnly:
    """Is for one kind of model."""

    neutral: ClassVar = None

    @hookimpl
    def build_branches(self, step):
        if step.prediction_type != "epsilon":
            raise ConfigurationError("EpsilonOnly is for models that predict noise.")
        return [Branch("uncond", condition="negative", strength=1.0)]


@attrs.frozen
class WantsAnImage:
    """Uses a condition that none of its branches names, where the host has it."""

    @hookimpl
    def build_branches(self, step):
        if "image" not in step.conditions:
            raise RuntimeError("no image")
        return [Branch("uncond", condition="negative", strength=1.0)]


@attrs.frozen
class OnlyImages:
    """Takes samples of three dimensions."""

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True)]

    @hookimpl
    def combine(self, step, predictions):
        channels, height, width = predictions["cond"].shape[1:]
        return (predictions["cond"] - predictions["uncond"]).view(-1, channels, height, width)
