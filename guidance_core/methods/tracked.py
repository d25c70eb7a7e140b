"""A noisy sample by which a method differentiates."""

from __future__ import annotations

import attrs
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


@attrs.frozen(eq=False)
class Tracked:
    """A noisy sample in the graph of a forward, by which a method differentiates."""

    sample: Tensor
    "The sample, connected to the graph."
    edge: GradientEdge
    "Where it enters the graph, which stays known when the sample itself is no longer recorded."

    @classmethod
    def of(cls, sample: Tensor) -> Tracked:
        """Track a sample that requires gradients, while they are recorded."""
        return cls(sample.view_as(sample), get_gradient_edge(sample))

    def leads_to(self, prediction: Tensor) -> bool:
        """Whether the prediction was made from the sample."""
        waiting = [prediction.grad_fn]
        seen = set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            if node is self.edge.node:
                return True
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
        return False
