"""Diffusion guidance: methods are plugins, execution is a backend.

A method names the forward passes (branches) a denoising step needs; the core runs them through an
executor and adds `guided = cond + Σ strength·(cond − branch) + Σ deltas`, then the corrections.
"""

import warnings

from guidance_core.discovery.distributions import without_collections, without_unreadable

with without_unreadable(), without_collections(), warnings.catch_warnings():
    # Without NumPy, torch warns when it is first imported. Nothing here needs NumPy; a command that does says so.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
    import torch  # noqa: F401

    from guidance_core import tuner  # noqa: F401  which imports most of what follows

from guidance_core.algebra.planes import from_planes, planes
from guidance_core.algebra.pyramids import bands, collapsed, reweighted
from guidance_core.algebra.spaces import PredictionType, Space
from guidance_core.algebra.statistics import (
    Distance,
    Inner,
    Mean,
    Norm,
    Over,
    Quantile,
    Statistic,
    Std,
    inner,
    norm,
    ratio,
    std,
)
from guidance_core.catalog import Family, MethodInfo, ParameterInfo, catalog, parameter_infos
from guidance_core.discovery import register_executor, register_plugin, unregister_executor, unregister_plugin
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
    TimestepWarning,
    UnguidedWarning,
    UnknownNameError,
    suggest,
)
from guidance_core.executors import (
    AllGatherExecutor,
    AllReduceExecutor,
    AutoExecutor,
    BatchedExecutor,
    ComparedWeights,
    Denoiser,
    Executor,
    SerialExecutor,
    Shards,
    Sums,
    Tuning,
    compare_weights,
    run_branch,
)
from guidance_core.executors.degrees import Degrees
from guidance_core.guidance import Guidance
from guidance_core.hosts.stacked_denoiser import StackedDenoiser
from guidance_core.methods.attention import BlurredAttention, NormalizedAttention, SoftIdentityAttention
from guidance_core.methods.capabilities import Capabilities
from guidance_core.methods.fields import blocks, extent, grid
from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.perturbations import (
    Blocks,
    IdentityAttention,
    IsolateOutputs,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
    UseCondition,
)
from guidance_core.methods.pieces import chosen_inputs, nearest_scale, negative_pass, parallel, with_momentum
from guidance_core.methods.randomized import DropOut, NoisedTimestep, RandomPerturbation, ShuffledTokens
from guidance_core.methods.reference import Multiply, Reference
from guidance_core.methods.requests import Amend, Branch, Hold, Needs, Request
from guidance_core.methods.seen import Away, Predictions
from guidance_core.methods.sliding import SlidingWindows
from guidance_core.methods.step import Step
from guidance_core.methods.weakened import WeakenedPass, Windowed
from guidance_core.parameters.curves import Beta, Exponential
from guidance_core.parameters.documented import documented
from guidance_core.parameters.fields import Scale, Whole, choice, flag, function, names, number, numbers, text, whole
from guidance_core.parameters.phases import Counted, Phases
from guidance_core.parameters.schedules import (
    Axis,
    Cosine,
    Ends,
    Linear,
    Position,
    Schedule,
    Table,
    Window,
    WindowAxis,
    Within,
)
from guidance_core.parameters.settled import settle
from guidance_core.parameters.values import UNSET, PerOutput, Unset, aligned
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan
from guidance_core.trace import OutputTrace, StepTrace, Trace
from guidance_core.tuner import tune
from guidance_core.version import CONTRACT_VERSION, __version__

__all__ = [
    "CONTRACT_VERSION",
    "UNSET",
    "AllGatherExecutor",
    "AllReduceExecutor",
    "Amend",
    "AutoExecutor",
    "Away",
    "Axis",
    "BatchedExecutor",
    "Beta",
    "Blocks",
    "BlurredAttention",
    "BoundBranch",
    "Branch",
    "BranchConflictError",
    "Capabilities",
    "ComparedWeights",
    "ConfigurationError",
    "Cosine",
    "Counted",
    "Degrees",
    "Denoiser",
    "DenoiserError",
    "Distance",
    "DropOut",
    "Ends",
    "Executor",
    "ExecutorError",
    "Exponential",
    "Family",
    "Guidance",
    "GuidanceError",
    "Hold",
    "IdentityAttention",
    "Inner",
    "IsolateOutputs",
    "Linear",
    "Mean",
    "MethodInfo",
    "Multiply",
    "Needs",
    "NoisedTimestep",
    "NonFiniteError",
    "Norm",
    "NormalizedAttention",
    "OutputTrace",
    "Over",
    "OverwrittenError",
    "ParameterInfo",
    "PerOutput",
    "Perturbation",
    "Phases",
    "Plan",
    "PlanMismatchError",
    "PluginError",
    "Position",
    "PredictionType",
    "Predictions",
    "Quantile",
    "RandomPerturbation",
    "RankError",
    "RankFailedError",
    "RankLostError",
    "Reference",
    "Request",
    "Run",
    "Scale",
    "Schedule",
    "SerialExecutor",
    "Shards",
    "ShuffledTokens",
    "SkipBlocks",
    "SkipSelfAttention",
    "SlidingWindows",
    "SoftIdentityAttention",
    "Space",
    "SpecError",
    "StackedDenoiser",
    "Statistic",
    "Std",
    "Step",
    "StepTrace",
    "Sums",
    "Table",
    "TimestepWarning",
    "Trace",
    "Tuning",
    "UnguidedWarning",
    "UnknownNameError",
    "Unset",
    "UseCondition",
    "WeakenedPass",
    "Whole",
    "Window",
    "WindowAxis",
    "Windowed",
    "Within",
    "__version__",
    "aligned",
    "bands",
    "blocks",
    "catalog",
    "choice",
    "chosen_inputs",
    "collapsed",
    "compare_weights",
    "documented",
    "extent",
    "flag",
    "from_planes",
    "function",
    "grid",
    "hookimpl",
    "inner",
    "names",
    "nearest_scale",
    "negative_pass",
    "norm",
    "number",
    "numbers",
    "parallel",
    "parameter_infos",
    "planes",
    "ratio",
    "register_executor",
    "register_plugin",
    "reweighted",
    "run_branch",
    "settle",
    "std",
    "suggest",
    "text",
    "tune",
    "unregister_executor",
    "unregister_plugin",
    "whole",
    "with_momentum",
]
