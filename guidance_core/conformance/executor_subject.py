"""An executor to check, and the methods that its checks run on it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.statistics import ratio, std
from guidance_core.conformance.case import Case
from guidance_core.conformance.lookup import with_parameters
from guidance_core.discovery import executor_class
from guidance_core.discovery.places import imported
from guidance_core.errors import ConfigurationError, GuidanceError, UnknownNameError, suggest
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.reference import Multiply, Reference
from guidance_core.methods.requests import Branch, Hold, Needs, Request
from guidance_core.run import Run

EXTRAS = ("nothing", "corrects", "compares", "holds")
"What may stand beside the branches of a case."


@attrs.frozen
class Moves:
    """Moves away from one branch for each strength; 0 runs none."""

    strengths: tuple[float, ...] = (1.5,)

    @hookimpl
    def build_branches(self, step: Any) -> list[Request]:
        """Ask for them."""
        return [
            Branch(f"b{number}", condition="negative", overrides={"number": number}, strength=strength)
            for number, strength in enumerate(self.strengths)
        ]


@attrs.frozen
class Corrects:
    """Gives the sum the spread of the base prediction."""

    @hookimpl
    def build_branches(self, step: Any) -> list[Request]:
        """Ask for the spread."""
        return [Needs(std="sample")]

    @hookimpl
    def postprocess(self, step: Any, guided: Tensor, reference: Reference) -> Multiply:
        """Scale."""
        return Multiply(ratio(reference.std(), std(guided)))


@attrs.frozen
class Compares:
    """Takes the mean of the sum and the base prediction, which it asks for as a whole."""

    @hookimpl
    def build_branches(self, step: Any) -> list[Request]:
        """Ask for it."""
        return [Needs(reference=True)]

    @hookimpl
    def postprocess(self, step: Any, guided: Tensor, reference: Reference) -> Tensor:
        """Take the mean."""
        return 0.5 * guided + 0.5 * reference.tensor


@attrs.frozen
class Holds:
    """Keeps the last x0 at every other step."""

    @hookimpl
    def build_branches(self, step: Any) -> list[Request]:
        """Hold at odd steps."""
        return [Hold()] if step.index % 2 else []


@attrs.frozen
class Looks:
    """A delta that looks at the predictions, at their signs too: a difference in the last bit may show."""

    @hookimpl
    def build_branches(self, step: Any) -> list[Request]:
        """Ask for a branch of its own."""
        return [Branch("seen", condition="negative", required=True)]

    @hookimpl
    def combine(self, step: Any, predictions: Mapping[str, Tensor]) -> Tensor:
        """Return it."""
        difference = predictions["cond"] - predictions["seen"]
        return torch.where(difference > 0, difference, 0.25 * difference)


@attrs.frozen(eq=False)
class ExecutorSubject:
    """An executor to check."""

    kind: ClassVar[str] = "executor"

    cls: type[Executor]
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    "What it is made with besides the group."

    @property
    def name(self) -> str:
        """Its name among executors."""
        name = str(getattr(self.cls, "name", ""))
        with contextlib.suppress(GuidanceError):
            if executor_class(name) is self.cls:
                return name
        return self.cls.__name__

    @property
    def key(self) -> str:
        """What distinguishes it from other subjects."""
        return f"{self.cls.__module__}:{self.cls.__qualname__} {dict(self.parameters)}"

    @property
    def title(self) -> str:
        """What a table about it is headed with."""
        return f"{self.cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.parameters.items())})"

    @property
    def code(self) -> str:
        """The call that makes the subject."""
        given = f", {dict(self.parameters)!r}" if self.parameters else ""
        return f"executor_subject_of({self.cls.__name__}{given})"

    @property
    def imports(self) -> list[str]:
        """The lines that import what `code` uses."""
        return [f"from {self.cls.__module__} import {self.cls.__qualname__.partition('.')[0]}"]

    @functools.cached_property
    def takes_group(self) -> bool:
        """Whether it is made with a process group."""
        return "group" in inspect.signature(self.cls).parameters

    @property
    def gathers(self) -> bool:
        """Whether every prediction reaches every process."""
        return bool(self.cls.gathers_predictions)

    def make(self, group: Any) -> Executor:
        """Return one, for a process group where it takes one."""
        make: Any = self.cls
        return make(group, **self.parameters) if self.takes_group else make(**self.parameters)  # type: ignore[no-any-return]

    def start(self, case: Case, executor: Executor | str = "serial", *, extra: Any = None) -> Run:
        """Start a run of a case."""
        beside = {"corrects": Corrects(), "compares": Compares(), "holds": Holds()}
        moves = Moves(tuple(case.parameters.get("strengths", (1.5,))))
        others = [beside.get(case.parameters.get("beside", "nothing")), extra]
        guidance = Guidance([moves, *(plugin for plugin in others if plugin is not None)])
        return guidance.start(
            conditions={name: {"condition": name} for name in ("positive", "negative")},
            sigmas=case.sigmas,
            alphas=case.alphas,
            prediction_type=case.prediction_type,
            outputs=case.outputs or None,
            executor=executor,
        )


def executor_subject_of(given: Any, parameters: Mapping[str, Any] | None = None) -> ExecutorSubject:
    """Return the subject for an executor given by name, as `module:Class`, or as a class.

    Args:
        given: which executor; a name may come with parameters, as in a spec: `batched:max_rows=2`.
        parameters: it is made with besides the process group.

    Raises:
        UnknownNameError: no executor of that name is installed, or it takes no such parameter.
        ConfigurationError: it cannot be imported, or is not an executor.
    """
    cls = given
    parameters = dict(parameters or {})
    if isinstance(given, str):
        name, own = with_parameters(given)
        parameters = own | parameters
        cls = imported(name) if ":" in name else executor_class(name)
    if not isinstance(cls, type) or not issubclass(cls, Executor):
        raise ConfigurationError(f"{given!r} is not an executor: a subclass of guidance_core.Executor.")
    if cls.execute is Executor.execute and cls.for_run is Executor.for_run:
        raise ConfigurationError(f"{cls.__name__} runs no branch: it has no execute(plan, denoise).")
    if not isinstance(getattr(cls, "name", None), str):
        raise ConfigurationError(f"{cls.__name__} has no name; give it a class attribute, name = 'mine'.")
    known = [name for name in inspect.signature(cls).parameters if name not in ("group", "mesh_dim")]
    for name in parameters:
        if name not in known:
            raise UnknownNameError(f"{cls.__name__} has no parameter {name!r}.{suggest(name, known)}")
    subject = ExecutorSubject(cls, parameters)
    if not subject.takes_group:
        try:
            subject.make(None)
        except GuidanceError:
            raise
        except Exception as error:
            what = f"{cls.__name__} cannot be made with {parameters}: {type(error).__name__}: {error}"
            raise ConfigurationError(what) from error
    return subject
