"""Diffusion guidance: methods are plugins, execution is a backend.

A method names the forward passes (branches) a denoising step needs; the core runs them through an
executor and adds `guided = cond + Σ strength·(cond − branch) + Σ deltas`, then the corrections.
"""

import warnings

with warnings.catch_warnings():
    # Without NumPy, torch warns when it is first imported. Nothing here needs NumPy; a command that does says so.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
    import torch  # noqa: F401

from guidance_core.algebra.statistics import inner, norm, ratio, std
from guidance_core.errors import (
    BranchConflictError,
    ConfigurationError,
    DenoiserError,
    ExecutorError,
    GuidanceError,
    NonFiniteError,
    OverwrittenError,
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
from guidance_core.hosts.stacked_denoiser import StackedDenoiser
from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.perturbations import (
    IdentityAttention,
    IsolateOutputs,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
)
from guidance_core.methods.reference import Multiply, Reference
from guidance_core.methods.requests import Branch, Hold, Needs
from guidance_core.methods.step import Step
from guidance_core.parameters.fields import Scale, choice, flag, number, text, whole
from guidance_core.parameters.schedules import Cosine, Linear, Schedule, Table, Window, Within
from guidance_core.parameters.settled import settle
from guidance_core.parameters.values import UNSET, PerOutput
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan
from guidance_core.version import CONTRACT_VERSION, __version__

__all__ = [
    "CONTRACT_VERSION",
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
    "OverwrittenError",
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
    "__version__",
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
