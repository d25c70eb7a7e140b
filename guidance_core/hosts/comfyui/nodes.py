"""The nodes: a guider for SamplerCustomAdvanced, and what makes its stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import ComfyExtension, io

from guidance_core.catalog import Family, catalog, parameter_infos
from guidance_core.errors import ConfigurationError, GuidanceError
from guidance_core.guidance import Guidance
from guidance_core.hosts.comfyui.fields import input_of, spec_of
from guidance_core.hosts.comfyui.guider import NEGATIVE, POSITIVE, Guider
from guidance_core.recipes import find_recipes, recipe_named

CATEGORY = "guidance"
FAMILIES: Mapping[Family, tuple[str, str, str]] = {
    "cfg": ("GuidanceCFG", "Guidance: CFG and Its Forms", "CFG and methods that take its place."),
    "weakened": ("GuidanceWeakened", "Guidance: Weakened Pass", "Moves away from a pass of a weakened model."),
    "correction": ("GuidanceCorrection", "Guidance: Correction", "Corrects the guided result: rescale, norms, …"),
    "other": ("GuidanceSteps", "Guidance: Steps and Conditions", "Acts on steps, conditions or several passes."),
}
"For each family: id, name and description of its node."
EXAMPLE = "cfg:scale=7,rescale:phi=0.7"

Stack = io.Custom("GUIDANCE")
Conditions = io.Custom("GUIDANCE_CONDITIONS")


class FromSpec(io.ComfyNode):  # type: ignore[misc]
    """A stack from its one-line form."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="GuidanceSpec",
            display_name="Guidance: Spec",
            category=CATEGORY,
            description="Methods with their parameters, such as " + EXAMPLE,
            search_aliases=["guidance", "cfg", *(method.name for method in catalog())],
            inputs=[io.String.Input("spec", default=EXAMPLE), _before()],
            outputs=[Stack.Output(display_name="guidance")],
        )

    @classmethod
    def validate_inputs(cls, spec: str) -> bool | str:
        """Return what is wrong with the spec, before anything runs."""
        return _wrong_with(spec)

    @classmethod
    def execute(cls, spec: str, before: Guidance | None = None) -> Any:
        """Return the stack."""
        return io.NodeOutput(_after(before, spec))


class FromRecipe(io.ComfyNode):  # type: ignore[misc]
    """The guidance rule of a published model, under the model's own parameter names."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        options = [
            io.DynamicCombo.Option(each.name, [input_of(one) for one in parameter_infos(each.recipe.cls)])
            for each in find_recipes()
            if each.recipe is not None
        ]
        return io.Schema(
            node_id="GuidanceRecipe",
            display_name="Guidance: Recipe of a Model",
            category=CATEGORY,
            description="The guidance rule of a published model, with the model's own parameters and defaults.",
            search_aliases=["guidance", "recipe", *(option.key for option in options)],
            inputs=[io.DynamicCombo.Input("recipe", options=options, tooltip="the model")],
            outputs=[Stack.Output(display_name="guidance")],
        )

    @classmethod
    def execute(cls, recipe: dict[str, Any]) -> Any:
        """Return the stack."""
        name = recipe["recipe"]
        spec = spec_of(f"@{name}", parameter_infos(recipe_named(name).cls), recipe)
        return io.NodeOutput(Guidance.from_spec(spec))


class Method(io.ComfyNode):  # type: ignore[misc]
    """A method of a family, with its parameters as inputs; a class for each family inherits it."""

    family: Family = "other"

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        node_id, name, about = FAMILIES[cls.family]
        methods = [
            method
            for method in catalog()
            if method.family == cls.family and not any(one.kind == "function" for one in method.parameters)
        ]
        options = [io.DynamicCombo.Option(each.name, list(map(input_of, each.parameters))) for each in methods]
        lines = "\n".join(f"{method.name}: {method.summary}" for method in methods)
        return io.Schema(
            node_id=node_id,
            display_name=name,
            category=CATEGORY,
            description=f"{about}\n\n{lines}",
            search_aliases=["guidance", *(method.name for method in methods)],
            inputs=[io.DynamicCombo.Input("method", options=options, tooltip=lines), _before()],
            outputs=[Stack.Output(display_name="guidance")],
        )

    @classmethod
    def execute(cls, method: dict[str, Any], before: Guidance | None = None) -> Any:
        """Return the stack."""
        (found,) = (each for each in catalog() if each.name == method["method"])
        return io.NodeOutput(_after(before, spec_of(found.name, found.parameters, method)))


class Condition(io.ComfyNode):  # type: ignore[misc]
    """One more condition, for methods that need others than `positive` and `negative`."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="GuidanceCondition",
            display_name="Guidance: Further Condition",
            category=CATEGORY,
            description="A condition under the name that a method gives it, such as image, text or empty.",
            inputs=[
                io.String.Input("name", default="extra", tooltip="the name that a method gives it"),
                io.Conditioning.Input("conditioning"),
                Conditions.Input("others", optional=True, tooltip="conditions to add it to"),
            ],
            outputs=[Conditions.Output(display_name="conditions")],
        )

    @classmethod
    def execute(cls, name: str, conditioning: Any, others: Mapping[str, Any] | None = None) -> Any:
        """Return all conditions by name."""
        known = {POSITIVE, NEGATIVE, *(others or {})}
        if name in known:
            raise ConfigurationError(f"the condition {name!r} is given twice; each needs a name of its own.")
        return io.NodeOutput({**(others or {}), name: conditioning})


class MakeGuider(io.ComfyNode):  # type: ignore[misc]
    """A guider for SamplerCustomAdvanced that runs a stack."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="GuidanceGuider",
            display_name="Guidance: Guider",
            category=CATEGORY,
            description="A guider for SamplerCustomAdvanced that runs a stack of guidance methods.",
            search_aliases=["guider", "cfg guider", "guidance"],
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.String.Input("spec", default="", placeholder=EXAMPLE, tooltip=f"methods, such as {EXAMPLE}"),
                io.Conditioning.Input("negative", optional=True),
                Stack.Input("guidance", optional=True, tooltip="methods from other nodes; they come before the spec's"),
                Conditions.Input("conditions", optional=True, tooltip="further conditions"),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def validate_inputs(cls, spec: str = "") -> bool | str:
        """Return what is wrong with the spec, before anything runs."""
        return _wrong_with(spec)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        spec: str = "",
        negative: Any = None,
        guidance: Guidance | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the guider."""
        guider = Guider(model, _after(guidance, spec) if spec.strip() else guidance or Guidance())
        guider.set_conditions({POSITIVE: positive, NEGATIVE: negative, **(conditions or {})})
        return io.NodeOutput(guider)


class Extension(ComfyExtension):  # type: ignore[misc]
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type]:
        """Return the nodes; a family without methods has none."""
        present = {method.family for method in catalog()}
        families = [
            type(FAMILIES[family][0], (Method,), {"family": family}) for family in FAMILIES if family in present
        ]
        return [MakeGuider, FromSpec, FromRecipe, *families, Condition]


def comfy_entrypoint() -> Extension:
    """Return what ComfyUI loads."""
    return Extension()


def _before() -> Any:
    return Stack.Input("before", optional=True, tooltip="methods that come before; their corrections apply first")


def _wrong_with(spec: str) -> bool | str:
    try:
        Guidance.from_spec(spec)
    except GuidanceError as error:
        return str(error)
    return True


def _after(before: Guidance | None, spec: str) -> Guidance:
    """Return a stack with the methods of a spec behind those of another."""
    added = Guidance.from_spec(spec)
    if before is None:
        return added
    return Guidance.from_dict([*before.to_dict()["guidance"], *added.to_dict()["guidance"]])
