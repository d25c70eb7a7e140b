"""The nodes: ComfyUI finds them, their inputs are the methods' parameters, and the example workflow runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import comfyui_engine as engine
import pytest
import torch

from guidance_core import Family, Guidance, GuidanceError, catalog
from guidance_core.hosts.comfyui.install import SOURCE, install

WORKFLOW = SOURCE / "example_workflows/guidance.json"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The node classes by id, found by ComfyUI in the folder that the installer wrote."""
    engine.loaded()
    import nodes as comfyui

    root = tmp_path_factory.mktemp("ComfyUI")
    (root / "custom_nodes").mkdir()
    before = set(comfyui.NODE_CLASS_MAPPINGS)
    for each in (install(root), engine.FOLDER / "ComfyUI/comfy_extras/nodes_custom_sampler.py"):
        assert asyncio.run(comfyui.load_custom_node(str(each)))
    found = {name: comfyui.NODE_CLASS_MAPPINGS[name] for name in set(comfyui.NODE_CLASS_MAPPINGS) - before}
    return {name: node for name, node in found.items() if name.startswith("Guidance")}


def result(node, **given):
    """Run a node as ComfyUI does, with the inputs of a prompt (`method.scale`)."""
    from comfy_api.latest import _io

    _, _, dynamic = _io.get_finalized_class_inputs(node.INPUT_TYPES(), given)
    (made,) = node.execute(**_io.build_nested_inputs(given, dynamic)).result
    return made


def fields_of(node, choice, name):
    """Return the inputs of one option by id, as ComfyUI's frontend is told them."""
    _, about = node.GET_NODE_INFO_V1()["input"]["required"][choice]
    (option,) = (each for each in about["options"] if each["key"] == name)
    return {**option["inputs"]["required"], **option["inputs"].get("optional", {})}


def test_there_is_a_node_for_every_family_and_they_are_found_by_the_names_of_methods(nodes):
    assert set(nodes) == {
        *("GuidanceGuider", "GuidanceSpec", "GuidanceRecipe", "GuidanceCondition"),
        *("GuidanceCFG", "GuidanceWeakened", "GuidanceCorrection", "GuidanceSteps"),
    }
    families = {method.family for method in catalog()}
    assert families == set(get_args(Family))
    found = [name for node in nodes.values() for name in node.GET_NODE_INFO_V1().get("search_aliases") or ()]
    for method in catalog():
        if not any(each.kind == "function" for each in method.parameters):
            assert method.name in found


@pytest.mark.parametrize("method", catalog(), ids=lambda method: method.name)
def test_an_untouched_node_makes_the_method_with_its_defaults(nodes, method):
    """What the frontend sends where nothing was changed: the defaults of all inputs."""
    if any(each.kind == "function" for each in method.parameters):
        pytest.skip("it takes a function, which no node can give")
    from guidance_core.hosts.comfyui.nodes import FAMILIES

    node = nodes[FAMILIES[method.family][0]]
    fields = fields_of(node, "method", method.name)
    assert set(fields) == {each.name for each in method.parameters}
    for each in method.parameters:
        assert fields[each.name][1].get("tooltip", "") == each.help
    sent = {f"method.{name}": about["default"] for name, (_, about) in fields.items()}
    assert result(node, method=method.name, **sent) == Guidance.from_spec(method.name)


def test_changed_inputs_reach_the_method_and_stacks_join(nodes):
    stack = result(nodes["GuidanceCFG"], method="apg", **{"method.scale": 5.5, "method.momentum": -0.5})
    both = result(
        nodes["GuidanceWeakened"], method="slg", before=stack, **{"method.blocks": "[2, 3]", "method.scale": 1e-05}
    )
    assert both == Guidance.from_spec("apg:scale=5.5,momentum=-0.5,slg:blocks=[2, 3],scale=1e-05")
    spec = result(nodes["GuidanceSpec"], spec="rescale:phi=0.3", before=both)
    assert spec.to_spec() == f"{both.to_spec()},rescale:phi=0.3"
    with pytest.raises(GuidanceError, match="blocks"):
        result(nodes["GuidanceWeakened"], method="slg", **{"method.blocks": "seven"})


def test_a_recipe_has_the_models_own_parameters(nodes):
    fields = fields_of(nodes["GuidanceRecipe"], "recipe", "z-image")
    assert {"guidance_scale", "cfg_normalization"} <= set(fields)
    sent = {f"recipe.{name}": about["default"] for name, (_, about) in fields.items()}
    assert result(nodes["GuidanceRecipe"], recipe="z-image", **sent) == Guidance.recipe("z-image")
    changed = result(nodes["GuidanceRecipe"], recipe="z-image", **sent | {"recipe.guidance_scale": 3.5})
    assert changed == Guidance.recipe("z-image", guidance_scale=3.5)


@pytest.mark.parametrize(("spec", "what"), [("cfgg:scale=3", "cfg"), ("cfg:scale=", "scale"), ("cfg,apg", "exclude")])
def test_a_wrong_spec_is_told_before_the_workflow_runs(nodes, spec, what):
    for name in ("GuidanceSpec", "GuidanceGuider"):
        assert what in nodes[name].validate_inputs(spec=spec)
        assert nodes[name].validate_inputs(spec="cfg:scale=3") is True


def test_further_conditions_have_names_of_their_own(nodes):
    one = result(nodes["GuidanceCondition"], name="image", conditioning=["a"])
    assert result(nodes["GuidanceCondition"], name="text", conditioning=["b"], others=one) == {
        "image": ["a"],
        "text": ["b"],
    }
    for taken in ("image", "negative"):
        with pytest.raises(GuidanceError, match="given twice"):
            result(nodes["GuidanceCondition"], name=taken, conditioning=["c"], others=one)


def as_prompt(workflow, classes):
    """Return what the frontend sends for a workflow: each input's value, or the output that it is linked to."""
    links = {number: [str(source), slot] for number, source, slot, *_ in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        values = iter(node["widgets_values"])
        linked = {each["name"]: links.get(each["link"]) for each in node["inputs"]}
        given = {name: link for name, link in linked.items() if link is not None}
        for name in widgets(classes[node["type"]], node["widgets_values"]):
            value = next(values)
            if name != "control_after_generate":
                given[name] = value
        assert next(values, None) is None, f"{node['type']} has more values than widgets"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": given}
    return prompt


def widgets(node, values):
    """Yield the names of a node's widgets in order, those of a chosen option after it."""
    types = node.INPUT_TYPES()
    for name, about in {**types.get("required", {}), **types.get("optional", {})}.items():
        kind, more = about[0], about[1] if len(about) > 1 else {}
        if kind == "COMFY_DYNAMICCOMBO_V3":
            yield name
            (option,) = (each for each in more["options"] if each["key"] == values[0])
            inputs = option["inputs"]
            yield from (f"{name}.{each}" for each in {**inputs["required"], **inputs.get("optional", {})})
        elif isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
            yield name
            if more.get("control_after_generate"):
                yield "control_after_generate"


def test_the_example_workflow_runs_in_comfyuis_executor(nodes, monkeypatch):
    """With a small model in the place of the checkpoint: what is saved equals the same stack without nodes."""
    import comfy.samplers
    import execution
    import nodes as comfyui

    from guidance_core.hosts.comfyui.guider import Guider

    model, saved = engine.unet(), []
    text = {name: torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(len(name))) for name in "pn"}

    def node(returns, run, inputs, **more):
        members = {
            "INPUT_TYPES": classmethod(lambda cls: {"required": inputs}),
            "RETURN_TYPES": returns,
            "CATEGORY": "t",
        }
        return type("Node", (), {**members, "FUNCTION": "run", "run": staticmethod(run), **more})

    small = {
        "CheckpointLoaderSimple": node(
            ("MODEL", "CLIP", "VAE"), lambda ckpt_name: (model, None, None), {"ckpt_name": ("STRING", {})}
        ),
        "CLIPTextEncode": node(
            ("CONDITIONING",),
            lambda clip, text: ([[encoded(text), {}]],),
            {"text": ("STRING", {}), "clip": ("CLIP",)},
        ),
        "VAEDecode": node(
            ("IMAGE",), lambda samples, vae: (samples["samples"],), {"samples": ("LATENT",), "vae": ("VAE",)}
        ),
        "SaveImage": node(
            (),
            lambda images, filename_prefix: saved.append(images) or {},
            {"images": ("IMAGE",), "filename_prefix": ("STRING", {})},
            OUTPUT_NODE=True,
        ),
    }

    def encoded(prompt):
        return text["n" if "blurry" in prompt else "p"]

    classes = {**comfyui.NODE_CLASS_MAPPINGS, **small}
    for name, each in small.items():
        monkeypatch.setitem(comfyui.NODE_CLASS_MAPPINGS, name, each)
    workflow = json.loads(WORKFLOW.read_text())
    prompt = as_prompt(workflow, classes)
    for each in prompt.values():
        if each["class_type"] == "EmptyLatentImage":
            each["inputs"].update(width=64, height=64)
        if each["class_type"] == "BasicScheduler":
            each["inputs"]["steps"] = 4
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None, last_prompt_id=None)

    async def run():
        valid, error, outputs, _ = await execution.validate_prompt("1", prompt, None)
        assert valid, error
        executor = execution.PromptExecutor(server, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0})
        await executor.execute_async(prompt, "1", {}, outputs)
        return executor

    executor = asyncio.run(run())
    assert executor.success, executor.status_messages
    guider = Guider(model, Guidance.from_spec("apg:scale=7.5,momentum=-0.5,rescale:phi=0.5"))
    guider.set_conditions({"positive": [[text["p"], {}]], "negative": [[text["n"], {}]]})
    latent = torch.zeros(1, 4, 8, 8)
    expected = guider.sample(
        comfyui_noise(latent),
        latent,
        comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4),
        disable_pbar=True,
        seed=1,
    )
    assert torch.equal(saved[0], expected)


def comfyui_noise(latent):
    import comfy.sample

    return comfy.sample.prepare_noise(latent, 1)


def test_the_installer_says_where_it_wrote_or_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "guidance_core.hosts.comfyui.install"]
    wrong = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "has no folder custom_nodes" in wrong.stderr
    (tmp_path / "custom_nodes").mkdir()
    for _ in range(2):  # a second time, over the first copy
        done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(tmp_path / "custom_nodes/guidance-core")
    assert (tmp_path / "custom_nodes/guidance-core/example_workflows/guidance.json").is_file()
