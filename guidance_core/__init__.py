"""Diffusion guidance: methods are plugins, execution is a backend.

A method names the forward passes (branches) a denoising step needs; the core runs them through an
executor and adds `guided = cond + Σ strength·(cond − branch) + Σ deltas`, then the corrections.
"""

from guidance_core.bound import BoundBranch
from guidance_core.branch import Branch, Hold, Needs
from guidance_core.errors import (
    BranchConflictError,
    ConfigurationError,
    DenoiserError,
    ExecutorError,
    GuidanceError,
    NonFiniteError,
    PlanMismatchError,
    PluginError,
    RankError,
    RankFailedError,
    RankLostError,
    SpecError,
    UnknownNameError,
    suggest,
)
from guidance_core.executors import (
    AllGatherExecutor,
    AllReduceExecutor,
    AutoExecutor,
    BatchedExecutor,
    Denoiser,
    Executor,
    SerialExecutor,
    Sums,
    run_branch,
)
from guidance_core.guidance import Guidance
from guidance_core.hookspecs import hookimpl
from guidance_core.parameters import Scale, choice, flag, number, text, whole
from guidance_core.perturbations import (
    IdentityAttention,
    IsolateOutputs,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
)
from guidance_core.plan import Plan
from guidance_core.presets import settle
from guidance_core.reference import Multiply, Reference
from guidance_core.run import Run
from guidance_core.schedules import Cosine, Linear, Schedule, Table, Window, Within
from guidance_core.stacking import StackedDenoiser
from guidance_core.statistics import inner, norm, ratio, std
from guidance_core.step import Step
from guidance_core.values import UNSET, PerOutput

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "AllGatherExecutor",
    "AllReduceExecutor",
    "AutoExecutor",
    "BatchedExecutor",
    "BoundBranch",
    "Branch",
    "BranchConflictError",
    "ConfigurationError",
    "Cosine",
    "Denoiser",
    "DenoiserError",
    "Executor",
    "ExecutorError",
    "Guidance",
    "GuidanceError",
    "Hold",
    "IdentityAttention",
    "IsolateOutputs",
    "Linear",
    "Multiply",
    "Needs",
    "NonFiniteError",
    "PerOutput",
    "Perturbation",
    "Plan",
    "PlanMismatchError",
    "PluginError",
    "RankError",
    "RankFailedError",
    "RankLostError",
    "Reference",
    "Run",
    "Scale",
    "Schedule",
    "SerialExecutor",
    "SkipBlocks",
    "SkipSelfAttention",
    "SpecError",
    "StackedDenoiser",
    "Step",
    "Sums",
    "Table",
    "UnknownNameError",
    "Window",
    "Within",
    "choice",
    "flag",
    "hookimpl",
    "inner",
    "norm",
    "number",
    "ratio",
    "run_branch",
    "settle",
    "std",
    "suggest",
    "text",
    "whole",
]
