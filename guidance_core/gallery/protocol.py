"""How much the gallery draws, and from which seeds: fixed before anything is measured."""

from __future__ import annotations

import attrs


@attrs.frozen
class Protocol:
    """One size of the gallery."""

    name: str
    steps: int
    "Euler steps of a letter."
    per_character: int
    "Pictures of each of the 47 characters; sweeps have one."
    points: int
    "Points of each class of the mixture."
    clips: int
    "Clips of each of Keypad's ten prompts."
    characters: int = 47
    "How many of the characters to draw, the first ones."
    seed: int = 0
    "Of all noise. The first samples of this seed are shown and measured; they are not chosen."
    draws: int = 200
    "How often the bootstrap draws the samples anew."

    def to_dict(self) -> dict[str, object]:
        """Return plain data, ready for JSON."""
        return attrs.asdict(self)


FULL = Protocol("full", steps=16, per_character=2, points=300, clips=10)
"What the pages of the documentation show."
QUICK = Protocol("quick", steps=8, per_character=1, points=100, clips=2)
"A few minutes on two cores."
TINY = Protocol("tiny", steps=2, per_character=1, points=10, clips=1, characters=4, draws=20)
"For tests: pages and pictures, and no numbers worth reading."
