"""What spreading branches over ranks gains, costs and sends, with LTX-2's architecture.

Every contender makes the same steps of the same model in the same processes, in turn. Before each
step all ranks meet at a barrier; the step takes as long as its slowest rank. The serial step runs on
one rank while the others wait at the next barrier.

The control exchanges' time in a step is that of the rank that waited least, since the others' includes
waiting for a slower rank's forward. What a dispatch costs altogether is measured apart, in steps whose
forwards return at once: with control exchanges and without, their difference being all that these cost.
"""

from guidance_core.bench.parallel.jobs import FOUR, THREE, TINY
from guidance_core.bench.parallel.measure import measure

__all__ = ["FOUR", "THREE", "TINY", "measure"]
