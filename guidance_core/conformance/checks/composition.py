"""A method composes with others: in any order, with itself as documented, switched off by an interval."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from guidance_core.conformance.case import Case
from guidance_core.conformance.case_runs import ROUNDING_ONLY, agree, played, predictions_of, steps_of
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, Violation, require
from guidance_core.discovery import plugin_class
from guidance_core.errors import BranchConflictError, ConfigurationError, GuidanceError
from guidance_core.guidance import Guidance
from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.requests import Branch

PARTNERS = {"cfg": {"scale": 3.0}, "rescale": {"phi": 0.5}, "interval": {"lo": 0.0, "hi": 0.6}}


def partners(subject: Subject) -> dict[str, Any]:
    """Return the methods to stack it with, of those that are installed, and are not itself."""
    found = {}
    for name, parameters in PARTNERS.items():
        with contextlib.suppress(GuidanceError):
            cls = plugin_class(name)
            if cls is not subject.cls:
                found[name] = cls(**parameters)
    return found


def _excluded(subject: Subject) -> tuple[str, ...]:
    form = getattr(subject.cls, "form_of", None)
    return (*getattr(subject.cls, "excludes", ()), *(() if form is None else (form,)))


@check(
    "composes",
    "It stacks with cfg, rescale and interval, before or after each, without an error; one with branches of its own "
    "leaves those of cfg; methods that it excludes are refused, naming both.",
    draw=cases(varied=False, steps=(2, 3), smallest=4),
    share=0.25,
)
def composes(subject: Subject, case: Case) -> None:
    found = partners(subject)
    if not found:
        raise NotApplicable("none of cfg, rescale and interval is installed")
    for name, partner in found.items():
        for order in ([partner, subject.plugin], [subject.plugin, partner]):
            shown = ", ".join(type(each).__name__ for each in order)
            try:
                guidance = Guidance(order)
            except ConfigurationError as error:
                require(name in _excluded(subject), f"[{shown}] is refused: {error}")
                require(
                    name in str(error) and subject.name in str(error),
                    f"The error about [{shown}] does not name both: {error}",
                )
                continue
            require(name not in _excluded(subject), f"{subject.name} excludes {name}, but [{shown}] is accepted.")
            run = subject.start(case, guidance)
            asked = {plugin for layout in run.layouts for plugins in layout.asked.values() for plugin in plugins}
            require(
                name != "cfg" or not subject.branches or name in asked,
                f"[{shown}] drops what {name} asks for at every step. A wrapper of build_branches returns the requests "
                "that it got and its own; a method that it stands for is excluded by name.",
            )
            results = steps_of(run, case)
            for step, named in enumerate(results):
                for output, tensor in named.items():
                    require(
                        bool(torch.isfinite(tensor).all()),
                        f"[{shown}] gives a result that is not finite, at step {step} in output {output!r}.",
                    )


@check(
    "with-itself",
    "Twice in one stack it either works, or is refused with an error that names it.",
    draw=cases(varied=False, steps=(1, 2)),
    share=0.2,
)
def with_itself(subject: Subject, case: Case) -> None:
    plugins = subject.stacked(subject.plugin)
    try:
        played(subject, case, Guidance([*plugins, subject.plugin]))
    except (ConfigurationError, BranchConflictError) as error:
        require(subject.name in str(error), f"Twice in a stack it is refused, but not by name: {error}")
    except GuidanceError as error:
        raise Violation(f"Twice in one stack it fails: {error}") from error


@check(
    "interval-switches-off",
    "Outside an interval it does nothing: one pass runs and its prediction is the result, bit for bit. Where it asks "
    "with `fixed`, it acts as without the interval.",
    draw=cases(types=("flow", "x0")),
    applies=lambda subject: None if subject.branches or not subject.is_wrapper else "it acts on other methods alone",
    share=0.5,
)
def interval_switches_off(subject: Subject, case: Case) -> None:
    try:
        outside = plugin_class("interval")(lo=2.0, hi=3.0)
    except GuidanceError:
        raise NotApplicable("interval is not installed") from None
    guidance = subject.guidance(case, after=[outside])
    run = subject.start(case, guidance)
    expected = predictions_of(case)
    acting = [[act for output in layout.outputs.values() for act in output.all_acting] for layout in run.layouts]
    if any(act.needs.fixed for each in acting for act in each):
        alone = played(subject, case)
        fixed = [any(act.needs.fixed for act in each) for each in acting]
        expected = [own if is_fixed else base for is_fixed, own, base in zip(fixed, alone, expected, strict=True)]
    for step, layout in enumerate(run.layouts):
        names = [branch.name for branch in layout.branches]
        require(names in ([], ["cond"]), f"Outside the interval step {step} runs {', '.join(names)}.")
    agree(played(subject, case, guidance), expected, "Outside the interval the result is not the base prediction.")


@attrs.frozen
class Shadow:
    """Asks for passes that another plugin asks for too, at strength 0 and in another order."""

    branches: tuple[Branch, ...] = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step: Any) -> list[Branch]:
        """Ask for them."""
        return [
            Branch("shadow", condition="negative", overrides={"shadow": True}, required=True),
            *(attrs.evolve(branch, strength=0.0, required=True, plugin="") for branch in reversed(self.branches)),
        ]


@check(
    "by-name",
    "It finds predictions by branch name, not by their place: another method that asks for the same passes in "
    "another order, and for one of its own, changes nothing.",
    draw=cases(dtypes=("float64",)),
    applies=lambda subject: None if subject.branches else "it asks for no branch of its own",
)
def by_name(subject: Subject, case: Case) -> None:
    guidance = subject.guidance(case)
    run = subject.start(case, guidance)
    asked: Mapping[str, Branch] = {
        branch.name: branch for layout in run.layouts for branch in layout.branches if branch.name != "cond"
    }
    if not asked:
        return
    try:
        beside = Guidance([Shadow(tuple(asked.values())), *guidance.plugins])
        got = played(subject, case, beside)
    except BranchConflictError as error:
        raise Violation(f"The content of one branch name differs between steps: {error}") from error
    agree(
        got,
        played(subject, case, guidance),
        "Beside a method that asks for the same passes in another order, the result is another.",
        ulps=ROUNDING_ONLY,
    )
