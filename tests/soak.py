"""Thousands of steps on three ranks, with random plans and random faults: nothing may hang, grow or differ.

    python tests/soak.py [--steps 2000] [--ranks 3] [--seed N]

Every rank draws the same plans and faults from the seed. A step with a fault must raise the same error
on all ranks; the same step is then made again without it, and must give what one process gives.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import time
from typing import Any

import torch
from fault_jobs import Breaks, Faulty
from rank_jobs import EXECUTORS, Case, Counting, bits, flat

from guidance_core import Guidance, GuidanceError
from guidance_core.ranks import Ranks

LINEAR = (
    "",
    "cfg:scale=3",
    "cfg:scale=3,stg:scale=1,blocks=3",
    "cfg:scale=-2,rescale:phi=0.7",
    "cfg:scale=5,normalize:limit=0.9",
    "cfg:scale=4,interval:lo=0.3,hi=0.8",
    "ltx2:preset=2.3,stg_blocks=3",
    "ltx2:preset=2.3,stg_blocks=3,skip_step={video: 1, audio: 2}",
    "cfg:scale=3,rescale:phi=0.5,gate:lo=0.5",
)
LOOKING = ("apg:scale=4,momentum=-0.5", "cfg-zero-star:scale=3,zero_steps=1", "apg:scale=3,momentum=0.3,gate:lo=0.6")
FAULTS = ("forward raises", "other shape", "other dtype", "nan", "hook build_branches", "hook postprocess")
RUN_STEPS = 6
FAULT_SHARE = 0.2


def soak(group: Any, steps: int, seed: int) -> dict[str, Any]:
    """Make `steps` steps; return what was seen on this rank."""
    executors = {name: cls(group) for name, cls in EXECUTORS.items()}
    chosen = random.Random(seed)
    done, faults, worst, memory = 0, 0, 0.0, []
    digests = []
    while done < steps:
        name = chosen.choice(list(executors))
        spec = chosen.choice(LINEAR + (LOOKING if name == "all_gather" else ()))
        batch = chosen.randint(1, 3)
        case = Case(
            seed=chosen.randrange(2**31),
            shapes={"video": (batch, chosen.randint(1, 12), 8), "audio": (batch, chosen.randint(2, 20))},
            dtype=chosen.choice([torch.float32, torch.bfloat16]),
            strengths=(),
            steps=RUN_STEPS,
        )
        armed = {"here": False}
        hook = chosen.choice(["build_branches", "postprocess"])
        guidance = Guidance([*Guidance.from_spec(spec).plugins, Breaks(hook, armed)])
        settings = {
            "conditions": {"positive": {}, "negative": {}},
            "sigmas": [1 - 0.9 * i / RUN_STEPS for i in range(RUN_STEPS)] + [0.0],
            "prediction_type": "flow",
            "outputs": ("video", "audio"),
            "check_finite": True,
        }
        serial = guidance.start(**settings)
        parallel = guidance.start(**settings, executor=executors[name])
        for i in range(RUN_STEPS):
            sample = case.tensors("sample", i)
            fault, victim = chosen.choice(FAULTS), chosen.randrange(group.size())
            if chosen.random() < FAULT_SHARE:
                here = group.rank() == victim
                armed["here"] = here and fault == f"hook {hook}"
                try:
                    parallel.step(i, sample, Faulty(case, i, fault if here else "", slow=0.0))
                except GuidanceError as error:
                    digests.append(f"{type(error).__name__}: {error}")
                    faults += 1
                else:  # the victim had no branch to run, or its hook does not act in this run
                    serial.step(i, sample, Counting(case, i))
                    continue
                finally:
                    armed["here"] = False
            expected, result = serial.step(i, sample, Counting(case, i)), parallel.step(i, sample, Counting(case, i))
            digests.append(bits(result))
            if name == "all_gather":
                assert bits(result) == bits(expected), f"{spec}: step {i} differs from serial"
            else:
                for output, mine in flat(result).items():
                    other = flat(expected)[output].double()
                    allowed = (2.0**-7 if case.dtype == torch.bfloat16 else 2.0**-18) * other.abs().max()
                    worst = max(worst, float((mine.double() - other).abs().max() / allowed))
        done += RUN_STEPS
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    half = len(memory) // 2
    return {
        "steps": done,
        "faults": faults,
        "largest_all_reduce_error": worst,
        "grown_mib": memory[-1] - memory[half],
        "seen": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    }


def main() -> None:
    """Soak and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="a new one each time by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}; the same again: python tests/soak.py --seed {options.seed}", flush=True)
    with Ranks(options.ranks, timeout=30, outlives_failures=True, patience=120) as pool:
        start = time.monotonic()
        pool.start(soak, options.steps, options.seed)
        found = pool.results(seconds=60 + options.steps)
        seconds = time.monotonic() - start
    check(found)
    first, grown = found[0], max(rank["grown_mib"] for rank in found)
    print(f"{first['steps']} steps on {options.ranks} ranks in {seconds:.0f} s, {first['faults']} with a fault.")
    print("Every rank saw the same, and what one process gives (all-gather bit for bit).")
    print(f"All-reduce errors up to {first['largest_all_reduce_error']:.2f} of what is allowed.")
    print(f"Memory grew by {grown:.1f} MiB in the second half.")


def check(found: list[dict[str, Any]]) -> None:
    """Raise unless the ranks agree and nothing grew."""
    assert len({rank["seen"] for rank in found}) == 1, "ranks saw different things"
    assert max(rank["largest_all_reduce_error"] for rank in found) <= 1
    assert max(rank["grown_mib"] for rank in found) < 16, "memory grows"
    assert found[0]["faults"] > 0


if __name__ == "__main__":
    main()
