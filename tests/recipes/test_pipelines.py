"""`guide(pipe)` without a spec: the recipe of the pipeline's model gives what the pipeline computes by itself."""

from __future__ import annotations

import pytest
import torch

small = pytest.importorskip("small_pipelines", reason="diffusers is not installed", exc_type=ImportError)

OWN = [
    ("Wan 2.1", {"guidance_scale": 4.0}),
    ("Wan 2.2, two experts", {"guidance_scale": 5.0, "guidance_scale_2": 2.0}),
    ("Wan 2.2, two experts", {"guidance_scale": 6.0}),  # which is that of both experts
    ("LTX-2, type 2.3", {}),
]
"A pipeline, and arguments of its own that are not those of its case."


@pytest.mark.parametrize(("name", "own"), OWN)
def test_a_pipeline_guided_by_its_recipe_computes_what_it_does_by_itself(name, own):
    from guidance_core.hosts.diffusers import guide

    case = next(case for case in small.CASES if case.name == name)
    pipe = case.pipeline()
    given = {**case.inputs(1), **case.own, **own}

    def drawn(call):
        result = call(**given, generator=torch.Generator().manual_seed(3), return_dict=False)
        return [part for part in result if isinstance(part, torch.Tensor)]

    native, mine = drawn(pipe), drawn(guide(pipe))
    assert len(mine) == len(native) > 0
    for one, other in zip(mine, native, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
