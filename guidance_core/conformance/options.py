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
    "For a check of average cost; costly ones make fewer."
    seed: int | None = None
    "Of the random choice of examples; None for another choice each time."
    ranks: int = 4
    "The most ranks that checks of several processes use; 0 leaves those checks out."
    time_limit: float = 60.0
    "Seconds that one check may take."
    replay: bool = True
    "Whether failing examples are kept in `.hypothesis` and tried first the next time."

    def __attrs_post_init__(self) -> None:
        if self.max_examples < 1:
            raise ConfigurationError(f"max_examples must be at least 1; got {self.max_examples}.")
        if self.ranks < 0 or self.ranks > 8:
            raise ConfigurationError(f"ranks must be 0 (none) to 8; got {self.ranks}.")
        if not 0 < self.time_limit <= DAY:
            raise ConfigurationError(f"time_limit must be above 0 and at most {DAY:g} seconds; got {self.time_limit}.")
