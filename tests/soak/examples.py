"""Examples: what is run, on how many ranks, in which way, and move by move."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import torch
from rank_jobs import EXECUTORS

from guidance_core import BatchedExecutor, Executor
from soak.stacks import OTHER, Stacks, shown

STEPS = 8
"Steps of a run."
SIGMAS = [0.95 - 0.85 * i / (STEPS - 1) for i in range(STEPS)] + [0.0]
DTYPES = {str(each).removeprefix("torch."): each for each in (torch.float32, torch.bfloat16, torch.float16)}
DTYPES["float64"] = torch.float64
TYPES = ("flow", "epsilon", "v", "x0", OTHER)
MOVES = {
    "next": 10,
    "by sigma": 2,
    "again": 2,
    "skip": 2,
    "back": 2,
    "fork": 1,
    "select": 1,
    "raise in a forward": 1,
    "raise in the block": 1,
}
"By kind of move, how often it is drawn."
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "split_rows": {"split_rows": True},
    "lockstep": {"lockstep": True},
    "batched": {"batched": True},
    "split_rows batched": {"split_rows": True, "batched": True},
    "without control": {"control": False},
}


@attrs.frozen
class Way:
    """How an example is played beside serially."""

    executor: str
    options: str = "plain"
    in_halves: bool = False
    "Whether the host runs the forwards, between `plan` and `finish`."

    @property
    def adds_up(self) -> bool:
        return self.executor == "all_reduce"

    @property
    def tells(self) -> bool:
        """Whether ranks tell each other of a failure in every step."""
        return self.options != "without control"

    def make(self, group: Any, kinds: dict[str, Any] = EXECUTORS) -> Executor:
        """Return the executor on a group."""
        return BatchedExecutor() if self.executor == "batched" else kinds[self.executor](group, **OPTIONS[self.options])


@attrs.frozen
class Move:
    """What is done with one of the runs."""

    kind: str
    run: int
    "Which, of those that there are by then."
    draw: int
    "For what else is to be chosen."


@attrs.frozen
class Example:
    """Runs that take turns, and the moves that are made with them."""

    seed: int
    number: int
    ranks: int
    way: Way
    stacks: tuple[tuple[Any, ...], ...]
    "One for each run."
    structure: str
    shapes: dict[str, tuple[int, ...]]
    "By output, without the batch."
    rows: int
    dtype: torch.dtype
    predicted: torch.dtype
    "Of the predictions."
    prediction_type: str
    settings: dict[str, Any]
    "Further arguments of `start`."
    moves: tuple[Move, ...]
    seen: tuple[tuple[str, str], ...]
    "The features that occur: kind and name."

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    def __str__(self) -> str:
        halves = " in halves" if self.way.in_halves else ""
        runs = " and ".join(map(shown, self.stacks))
        moves = ", ".join(f"{move.kind} {move.run}" for move in self.moves)
        return (
            f"{self.ranks} ranks, {self.way.executor} {self.way.options}{halves}; {self.rows} rows of {self.shapes} as "
            f"{self.structure}; {self.dtype}, predictions {self.predicted}, {self.prediction_type}; {self.settings}; "
            f"runs {runs}; moves {moves}"
        )


def drawn(seed: int, number: int, search: str) -> Example:
    """Return an example, the same in every process."""
    chosen = Random(f"{seed} {search} {number}")
    way = _way(chosen, on_ranks=search == "faults")
    structure = chosen.choice(["tensor", "tuple", "dict", "dict"])
    names = ("output",) if structure == "tensor" else ("video", "audio")
    dimensions = {name: chosen.randint(1, 4) for name in names}
    shapes = {
        name: (*(chosen.randint(2, 4) for _ in range(count - 1)), chosen.randint(2, 7))
        for name, count in dimensions.items()
    }
    rows = chosen.randint(1, 4)
    dtype = chosen.choice(list(DTYPES))
    predicted = dtype if chosen.random() < 0.8 else chosen.choice(["float32", "bfloat16"])
    prediction_type = chosen.choice(TYPES)
    stacks = Stacks(
        chosen,
        names,
        rows,
        dimensions=1 + min(dimensions.values()),
        tokens=min([shape[-2] for shape in shapes.values() if len(shape) > 1], default=1),
        prediction_type=prediction_type,
        adds_up=way.adds_up,
    )
    made = [stacks.stack() for _ in range(chosen.choice([1, 1, 2]))]
    settings: dict[str, Any] = {
        "seeds": chosen.choice([chosen.randrange(2**31), [chosen.randrange(2**31) for _ in range(rows)]]),
        "check_finite": chosen.random() < 0.3,
        "check_inputs": chosen.choice(["first", "always", "never"]),
    }
    seen = [
        ("ranks", str(2 + number % 3)),
        ("executor", way.executor),
        ("option", way.options),
        ("forwards", "in halves" if way.in_halves else "in one step"),
        ("structure", structure),
        ("dimensions", str(1 + dimensions[names[0]])),
        ("rows", str(rows)),
        ("dtype", dtype),
        ("predictions", "of the sample's dtype" if predicted == dtype else "of another dtype"),
        ("prediction type", prediction_type),
        ("runs", str(len(made))),
        ("seeds", type(settings["seeds"]).__name__),
        *stacks.seen,
    ]
    return Example(
        seed,
        number,
        2 + number % 3,
        way,
        tuple(map(tuple, made)),
        structure,
        shapes,
        rows,
        DTYPES[dtype],
        DTYPES[predicted],
        prediction_type,
        settings,
        _moves(chosen, way),
        tuple(seen),
    )


def _way(chosen: Random, *, on_ranks: bool) -> Way:
    executor = chosen.choice(["all_gather"] * 5 + ["all_reduce"] * 3 + ([] if on_ranks else ["batched"]))
    if executor == "batched":
        return Way(executor)
    options = chosen.choice(["plain", *(name for name in OPTIONS if not (on_ranks and name == "without control"))])
    return Way(executor, options, chosen.random() < 0.3)


def _moves(chosen: Random, way: Way) -> tuple[Move, ...]:
    kinds = dict(MOVES)
    if not way.tells:  # a rank that only receives does not hear of a failure
        del kinds["raise in a forward"], kinds["raise in the block"]
    drawn = chosen.choices(list(kinds), list(kinds.values()), k=chosen.randint(4, 8))
    return tuple(Move(kind, chosen.randrange(4), chosen.randrange(2**31)) for kind in drawn)
