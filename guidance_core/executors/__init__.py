"""What runs a plan: one pass after another, batched, or spread over devices."""

from guidance_core.executors.all_gather import AllGatherExecutor
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.executors.auto import AutoExecutor
from guidance_core.executors.base import Denoiser, Executor, run_branch
from guidance_core.executors.batched import BatchedExecutor
from guidance_core.executors.serial import SerialExecutor
from guidance_core.executors.shards import Shards
from guidance_core.executors.tuning import Tuning
from guidance_core.executors.weights import ComparedWeights, compare_weights
from guidance_core.steps.plan import Sums

__all__ = [
    "AllGatherExecutor",
    "AllReduceExecutor",
    "AutoExecutor",
    "BatchedExecutor",
    "ComparedWeights",
    "Denoiser",
    "Executor",
    "SerialExecutor",
    "Shards",
    "Sums",
    "Tuning",
    "compare_weights",
    "run_branch",
]
