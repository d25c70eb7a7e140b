"""The predictions that a `combine` sees, and what it may return beside a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

from guidance_core.algebra.arithmetic import Weight
from guidance_core.algebra.statistics import Distance, Inner, Norm, Statistic
from guidance_core.errors import PluginError
from guidance_core.methods.requests import BASE

Asked: TypeAlias = tuple[Statistic, *tuple[str, ...]]
"A statistic, and the names of the predictions it is formed from."

_NORM, _DISTANCE, _INNER = Norm(), Distance(), Inner()


class Away(NamedTuple):  # torch.compile traces it, and not a frozen attrs class
    """A delta `Σ strength·(c − branch) + base·c` of predictions alone; strengths may depend on predictions.

    If a plugin returns this instead of the sum, the core computes it in its single pass over memory. The differences
    are the same in every space; `base` applies in the plugin's space.
    """

    strengths: Mapping[str, Weight]
    "By branch: a number, or a float32 tensor with as many dimensions as the prediction, such as a statistic."
    base: Weight = 0.0
    "How much of c to add: a number or a tensor as above."


class Predictions(Mapping[str, Tensor]):
    """The predictions that a `combine` may look at: `cond` and its plugin's branches, in its space, float32."""

    def __init__(
        self,
        plugin: str,
        names: tuple[str, ...],
        convert: Callable[[str], Tensor],
        measure: Callable[[Sequence[Asked]], list[Tensor]],
    ) -> None:
        self._plugin = plugin
        self._names = names
        self._convert = convert
        self._measure = measure

    def __getitem__(self, branch: str) -> Tensor:
        self._check(branch)
        return self._convert(branch)

    def measure(self, statistic: Statistic, *branches: str) -> Tensor:
        """Return a statistic of predictions, with the dimensions kept, as `step.measure` does for tensors.

        Large predictions are read block by block, and never stored in float32 or in another space.

        Args:
            statistic: such as `Norm()`, or `Inner()` and `Distance()` of two predictions.
            branches: names of the predictions.

        Raises:
            PluginError: the plugin cannot see such a branch.
            ConfigurationError: the statistic does not fit the predictions or their number.
        """
        return self.measure_all((statistic, *branches))[0]

    def measure_all(self, *asked: Asked) -> list[Tensor]:
        """Return several statistics of predictions, each as `measure` does, in the order given.

        Large predictions are read once for all statistics, which is faster than one `measure` after another.

            product, square = predictions.measure_all((Inner(), "cond", "uncond"), (Inner(), "uncond", "uncond"))

        Args:
            asked: tuples of a statistic and the names of the predictions that it is formed from.

        Raises:
            PluginError: the plugin cannot see such a branch.
            ConfigurationError: a statistic does not fit the predictions or their number.
        """
        for _, *branches in asked:
            for branch in branches:
                self._check(branch)
        return self._measure(asked) if asked else []

    def norm(self, branch: str) -> Tensor:
        """Return the Euclidean norm of each sample of a prediction, `[B, 1, ...]`."""
        return self.measure(_NORM, branch)

    def distance(self, branch: str, other: str) -> Tensor:
        """Return the norm of the difference of two predictions for each sample, `[B, 1, ...]`."""
        return self.measure(_DISTANCE, branch, other)

    def inner(self, branch: str, other: str) -> Tensor:
        """Return the inner product of two predictions for each sample, `[B, 1, ...]`."""
        return self.measure(_INNER, branch, other)

    def _check(self, branch: str) -> None:
        if branch not in self._names:
            raise PluginError(
                f"plugin {self._plugin!r} looked for the prediction {branch!r}, but it can see "
                f"{', '.join(self._names)}. It sees the branches it returned from build_branches in this step; "
                "one of strength 0 has to be required=True."
            )

    def __contains__(self, branch: object) -> bool:
        return branch in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def written_out(away: Away, predictions: Mapping[str, Tensor]) -> Tensor:
    """Return what an `Away` stands for, in the space of the predictions."""
    c = predictions[BASE]
    total = c * away.base
    for branch, strength in away.strengths.items():
        total = total + (c - predictions[branch]) * strength
    return total
