"""What guidance costs in the hosts that people use: whole runs, each host's own guidance beside ours, in turn.

Every host runs a small model with random weights. A run has inputs of its own. All contenders of a host take turns in
one process, and rank 1 waits while rank 0 runs what needs one process; with two ranks a run takes as long as on the
slower one.
"""

from guidance_core.bench.hosts.measuring import measure

__all__ = ["measure"]
