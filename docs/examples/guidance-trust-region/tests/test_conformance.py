"""The promises of guidance-core, and the formula on numbers."""

from collections.abc import Callable

import torch
from guidance_core import Guidance
from guidance_core.conformance import parametrize_with_checks
from guidance_trust_region import TrustRegion


@parametrize_with_checks([TrustRegion(), TrustRegion(scale=3.0, radius=0.1)])
def test_keeps_the_promises(check: Callable[[], None]) -> None:
    check()


def test_a_step_is_as_long_as_the_radius_allows() -> None:
    guidance = Guidance([TrustRegion(scale=11.0, radius=0.5)])
    run = guidance.start(conditions={"positive": {}, "negative": {}}, sigmas=[1.0, 0.0], prediction_type="x0")
    predictions = {"cond": torch.tensor([[3.0, 4.0]]), "uncond": torch.tensor([[0.0, 4.0]])}
    guided = run.step(0, torch.zeros(1, 2), lambda branch: predictions[branch.name])
    assert torch.allclose(guided, torch.tensor([[5.5, 4.0]]))
