"""Guidance in a limited interval of the noise levels."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import attrs

from guidance_core import (
    Amend,
    Branch,
    Ends,
    Needs,
    PerOutput,
    Request,
    Step,
    UnknownNameError,
    Window,
    WindowAxis,
    choice,
    documented,
    hookimpl,
    names,
    suggest,
)


@documented
@attrs.frozen
class Interval:
    """Guidance only while the noise level is in [lo, hi]; outside it, the other methods are neutral.

    It limits all methods of the stack, before and after it: outside the window their branches are not run and their
    corrections are not applied. By the fraction of the steps before a step the window is [lo, hi), and by the fraction
    done after it (`by=done`) it is (lo, hi]. With `ends=floored` both ends of a fraction are rounded down to whole
    steps, as in diffusers' guiders; `ends=inside` also leaves out the first of these steps, as in its skip-layer
    guidance.

    Source: Kynkäänniemi et al., arXiv:2404.07724, eq. 5.
    """

    lo: float = attrs.field(default=0.0, metadata={"help": "lower end: the noise level at which guidance ends"})
    hi: float = attrs.field(default=1.0, metadata={"help": "upper end: the noise level at which guidance begins"})
    by: WindowAxis = choice(
        "sigma",
        ("sigma", "fraction", "done"),
        help="whether lo and hi are sigmas, or fractions of the steps before or after a step",
    )
    methods: Sequence[str] = names(help="names of the methods to limit (none: all)")
    ends: Ends = choice(
        "exact", ("exact", "floored", "inside"), help="whether fractions are rounded down to whole steps"
    )
    window: Window = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: Window(self.lo, self.hi, self.by, self.ends), takes_self=True),
    )

    @hookimpl(wrapper=True)
    def build_branches(self, step: Step) -> Generator[None, list[Request], list[Request]]:
        """Drop what the limited methods asked for, for the outputs that are outside."""
        self._check_methods(step.plugins)
        asked = yield
        inside = step.inside(self.window)
        if len(inside) == len(step.outputs):
            return asked
        kept = (self._limited(request, inside, step.outputs) if self._covers(request) else request for request in asked)
        return [request for request in kept if request is not None]

    def _check_methods(self, plugins: tuple[str, ...]) -> None:
        """Raise an error if a name is not in the stack."""
        known = {*plugins, *(name.partition("#")[0] for name in plugins)}
        for method in self.methods:
            if method not in known:
                raise UnknownNameError(f"methods has {method!r}, which is not in the stack.{suggest(method, known)}")

    def _covers(self, request: Request) -> bool:
        name = request.plugin.partition("#")[0]
        return not self.methods or name in self.methods or request.plugin in self.methods

    def _limited(self, request: Request, inside: tuple[str, ...], outputs: tuple[str, ...]) -> Request | None:
        if isinstance(request, Needs) and request.fixed:
            return request
        if not inside:
            return None
        if isinstance(request, Amend):
            return request
        if isinstance(request, Branch):
            mask = PerOutput({output: 1.0 if output in inside else 0.0 for output in outputs})
            return attrs.evolve(request, strength=mask * request.strength)
        wanted = outputs if request.outputs is None else request.outputs
        return attrs.evolve(request, outputs=tuple(output for output in wanted if output in inside))
