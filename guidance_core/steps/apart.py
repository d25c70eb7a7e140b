"""What a step needs of memory: no forward overwrites the sample, or the prediction of another branch.

torch counts writes into a tensor, but not those of code outside torch, such as a CUDA graph, and not into inference
tensors. So predictions that overlap are refused even if nothing seems to have been written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from torch import Tensor

from guidance_core.algebra.memory import overlap
from guidance_core.errors import OverwrittenError

REMEDY = (
    "Return a new tensor from each forward, or set denoise.reuses_memory = True, so that each prediction is copied as "
    "it returns; a host that runs the forwards itself calls plan.copied(prediction) after each."
)


def check_apart(predictions: Mapping[str, Mapping[str, Tensor]], where: str) -> None:
    """Check that no two branches' predictions have an element in common; views of one whole may interleave.

    Args:
        predictions: by output, then by branch.
        where: which step it is.

    Raises:
        OverwrittenError: two have; it names both branches and their outputs.
    """
    found = [(branch, output, each) for output, given in predictions.items() for branch, each in given.items()]
    for (branch, output, one), (other, also, another) in combinations(found, 2):
        if branch != other and overlap(one, another):
            outputs = f"output {output!r}" if output == also else f"outputs {output!r} and {also!r}"
            raise OverwrittenError(
                f"the predictions of branches {branch!r} and {other!r} of {where} overlap in memory ({outputs}), so "
                f"one forward overwrites what the other returned. {REMEDY}"
            )


def writes_to(samples: Iterable[Tensor]) -> int:
    """Return torch's count of the writes into a step's samples; -1 where one is an inference tensor."""
    count = 0
    try:
        for sample in samples:
            count += sample._version
    except RuntimeError:
        return -1
    return count


def check_unwritten(samples: Iterable[Tensor], writes: int, when: str) -> None:
    """Check that the count of the writes into the samples is still the same.

    Raises:
        OverwrittenError: it is not; the error says `when`.
    """
    if writes >= 0 and writes_to(samples) != writes:
        raise OverwrittenError(
            f"the sample, or a tensor that it is a view of, was written to {when}. A denoiser must leave its sample as "
            "it is: compute on a copy, or pass a copy to the step."
        )
