"""How thoroughly to check."""

from __future__ import annotations

import attrs

from guidance_core.errors import ConfigurationError

DAY = 86_400.0
"Seconds."


@attrs.frozen
class Options:
    """How thoroughly to check."""

    max_examples: int = 20
    "Examples per check; costly checks use fewer."
    seed: int | None = None
    "Of the choice of examples; None leaves it to hypothesis (`--hypothesis-seed`, profiles)."
    ranks: int = 4
    "Maximum processes; 0 skips multi-process checks."
    time_limit: float = 60.0
    "Seconds of CPU time that one check may take; one that sleeps or waits may take four times as long by the clock."
    replay: bool = True
    "Whether hypothesis keeps failing examples in its database, and tries them first the next time."

    def __attrs_post_init__(self) -> None:
        if self.max_examples < 1:
            raise ConfigurationError(f"max_examples must be at least 1; got {self.max_examples}.")
        if self.ranks < 0 or self.ranks > 8:
            raise ConfigurationError(f"ranks must be 0 (none) to 8; got {self.ranks}.")
        if not 0 < self.time_limit <= DAY:
            raise ConfigurationError(f"time_limit must be above 0 and at most {DAY:g} seconds; got {self.time_limit}.")
