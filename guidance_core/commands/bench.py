"""`guidance-core bench`: measurements of the library against its peers and its floor."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from guidance_core.commands.command import GuidanceGroup, add_command
from guidance_core.commands.options import AsJson, print_json

bench_app = typer.Typer(
    cls=GuidanceGroup,
    help="Compare overhead with other libraries and hand-written code.",
    epilog="guidance-core bench dispatch",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def bench_dispatch(
    rounds: Annotated[int, typer.Option(min=2, help="Timed runs of each contender.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Time runs of 40 steps with a no-op model, input shape [1, 16, 8], one thread."""
    from guidance_core.bench import dispatch

    _report(dispatch.measure(rounds), as_json)


def bench_combine(
    rounds: Annotated[int, typer.Option(min=3, help="Timed steps of each contender.")] = 7, as_json: AsJson = False
) -> None:
    """Time LTX-2's combination of four branches with rescale, one thread, against written-out formulas."""
    from guidance_core.bench import combine

    _report(combine.measure(rounds), as_json)


def bench_methods(
    methods: Annotated[list[str] | None, typer.Argument(help="Names of methods (none: all that ship).")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Timed steps of each contender.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Time each method's arithmetic in half precision, one thread, against diffusers' guider, cfg and a copy."""
    from guidance_core.bench import methods as measured

    _report(measured.measure(rounds, methods or ()), as_json)


def bench_hosts(
    hosts: Annotated[list[str] | None, typer.Argument(help="Names of hosts (none: all).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each contender.")] = 7,
    tiny: Annotated[bool, typer.Option("--tiny", help="Models that cost next to nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time runs in diffusers, sglang, vLLM-Omni and ComfyUI, each host's own guidance beside ours."""
    from guidance_core.bench import hosts as measured

    _report(measured.measure(rounds, hosts or (), tiny=tiny), as_json)


def bench_parallel(
    rounds: Annotated[int, typer.Option(min=2, help="Timed steps of each contender.")] = 15, as_json: AsJson = False
) -> None:
    """Time and count LTX-2's branches on several ranks, one thread each, against serial and the engines' dispatch."""
    from guidance_core.bench import parallel

    _report(parallel.measure(rounds), as_json)


def bench_scaling(
    branches: Annotated[int, typer.Option(help="Passes per step.")] = 4,
    forward_ms: Annotated[float, typer.Option(help="Time of one forward pass, which sleeps.")] = 50.0,
    elements: Annotated[int, typer.Option(help="Numbers in a prediction, float32.")] = 65536,
    ranks: Annotated[int, typer.Option(help="Largest number of ranks.")] = 6,
    dispatch_ms: Annotated[
        float | None, typer.Option(help="Time of a step besides forward passes and messages (default: measured).")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Time that each additional rank adds (default: measured).")
    ] = None,
    bandwidth_gbs: Annotated[
        float | None, typer.Option(help="Gigabytes per second between two ranks (default: measured).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed steps of each contender.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Compare a formula for the time of a step with measurements on ranks whose forward passes sleep."""
    from guidance_core.bench import scaling

    report = scaling.measure(
        branches=branches,
        forward=forward_ms / 1e3,
        elements=elements,
        ranks=ranks,
        dispatch=None if dispatch_ms is None else dispatch_ms / 1e3,
        latency=None if latency_ms is None else latency_ms / 1e3,
        bandwidth=None if bandwidth_gbs is None else bandwidth_gbs * 1e9,
        rounds=rounds,
    )
    _report(report, as_json)


def bench_import(
    rounds: Annotated[int, typer.Option(min=1, help="Processes to start for each contender.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Time what `import guidance_core` adds to `import torch`, in fresh processes, and sum what is installed."""
    from guidance_core.bench import importing

    _report(importing.measure(rounds), as_json)


def _report(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)


for _function, _name, *_examples in (
    (bench_dispatch, "dispatch", "guidance-core bench dispatch", "guidance-core bench dispatch --rounds 20 --json"),
    (bench_combine, "combine", "guidance-core bench combine"),
    (bench_methods, "methods", "guidance-core bench methods", "guidance-core bench methods cfg apg --rounds 5"),
    (bench_hosts, "hosts", "guidance-core bench hosts", "guidance-core bench hosts --tiny --rounds 3 --json"),
    (bench_parallel, "parallel", "guidance-core bench parallel --rounds 5"),
    (bench_scaling, "scaling", "guidance-core bench scaling --branches 4 --forward-ms 100 --ranks 4"),
    (bench_import, "import", "guidance-core bench import --rounds 3"),
):
    add_command(bench_app, _function, *_examples, name=_name)
