"""Bad input gets one clear error, before any forward: what was given, what is allowed, whose it is."""

from __future__ import annotations

import math

import attrs
import pytest
import torch

from guidance_core import (
    BatchedExecutor,
    Branch,
    BranchConflictError,
    ConfigurationError,
    DenoiserError,
    ExecutorError,
    Guidance,
    GuidanceError,
    IdentityAttention,
    IsolateOutputs,
    Linear,
    Multiply,
    NonFiniteError,
    PluginError,
    SkipBlocks,
    SkipSelfAttention,
    SpecError,
    Table,
    UnknownNameError,
    Within,
    hookimpl,
)
from guidance_plugins import APG, CFG, LTX2, STG, Interval, Rescale

BOTH = {"positive": {}, "negative": {}}


def start(plugins, **changed):
    given = {"conditions": BOTH, "sigmas": [1.0, 0.5, 0.0], "prediction_type": "flow"} | changed
    return Guidance(plugins).start(**given)


def never(branch):
    raise AssertionError("a forward ran")


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("cfgg", UnknownNameError, "Did you mean 'cfg'"),
        ("cfg:scal=3", UnknownNameError, "Did you mean 'scale'"),
        ("ltx2:preset=2.33", ConfigurationError, "Did you mean '2.3'"),
        ("cfg:scale=three", ConfigurationError, "CFG: scale must be a number"),
        ("rescale:phi=1.5", ConfigurationError, r"Rescale: phi must lie in \[0, 1\]; got 1.5"),
        ("rescale:phi=-0.1", ConfigurationError, "phi must lie"),
        ("interval:lo=0.8,hi=0.2", ConfigurationError, "lo <= hi"),
        ("cfg:scale=linea(7, 1)", UnknownNameError, "Did you mean 'linear'"),
        ("cfg:scale=linear(7)", SpecError, "needs stop"),
        ("cfg:scale", SpecError, "expected '=' after the parameter 'scale'"),
        ("cfg:scale=3,,rescale", SpecError, "position 13"),
        ("cfg:scale=3,scale=4", SpecError, "given twice"),
        ("cfg:scale=[1", SpecError, "position"),
        ("scale=3", SpecError, "expected a plugin"),
        ("cfg;", SpecError, "unexpected character at position 4"),
        ("stg:blocks=-1", ConfigurationError, "blocks count from 0"),
        ("apg,cfg", ConfigurationError, "exclude each other"),
        ("CFG:scale=3", UnknownNameError, "Did you mean 'cfg'"),
        ("cfg:scale=[1, 3]", ConfigurationError, r"in a spec tensor\(\[1, 3\]\)"),
        ("interval:methods=3", ConfigurationError, "Interval: methods must be names"),
    ],
)
def test_specs(spec, error, says):
    with pytest.raises(error, match=says) as caught:
        Guidance.from_spec(spec)
    assert isinstance(caught.value, GuidanceError)


@pytest.mark.parametrize("text", ["{", '{"guidance": 3}', '{"guidance": [{"scale": 3}]}', '{"guide": []}', "[3]"])
def test_json(text):
    with pytest.raises(SpecError):
        Guidance.from_json(text)


def test_a_key_that_is_not_guidance():
    with pytest.raises(SpecError, match=r"got guidence\. Did you mean 'guidance'"):
        Guidance.from_toml("[[guidence]]\nplugin = 'cfg'")
    with pytest.raises(SpecError, match=r"got a dict. In TOML .* begin with \[\[guidance\]\]"):
        Guidance.from_toml("[guidance]\nplugin = 'cfg'")
    with pytest.raises(SpecError, match="got nothing"):
        Guidance.from_dict({})


@pytest.mark.parametrize("text", ["[[guidance", "guidance = 3", "[[guidance]]\nscale = 3"])
def test_toml(text):
    with pytest.raises(SpecError):
        Guidance.from_toml(text)


def test_a_list_as_scale_is_told_of_tensors():
    with pytest.raises(ConfigurationError, match=r"got \[1.0, 3.0\] \(list\). .*torch.tensor\(\[1.0, 3.0\]\)"):
        CFG([1.0, 3.0])


@pytest.mark.parametrize("scale", [math.nan, math.inf, "3", None, True, torch.tensor([1.0, math.nan])])
def test_a_scale_that_is_no_finite_number(scale):
    with pytest.raises(ConfigurationError, match="CFG: scale"):
        CFG(scale)


@pytest.mark.parametrize("schedule", [lambda t: Table({0.5: t}), lambda t: Linear(t, 1), lambda t: Within(t)])
def test_a_schedule_holds_no_tensor(schedule):
    with pytest.raises(ConfigurationError, match=r"must be a (finite )?number.*; got tensor"):
        CFG(schedule(torch.ones(2)))


def test_what_a_denoiser_raises_comes_as_it_is_with_a_note():
    def denoise(branch):
        raise KeyError("text")

    with pytest.raises(KeyError) as caught:
        start([CFG()]).step(1, torch.zeros(1, 2), denoise)
    assert caught.value.__notes__ == ["raised by the denoiser for branch 'cond' of step 1"]


def test_a_bare_field_is_checked_at_start():
    @attrs.frozen
    class Bare:
        scale: object = 7.5

        @hookimpl
        def build_branches(self, step):
            return [Branch("uncond", condition="negative", strength=step.value(self.scale) - 1)]

    for scale in (math.nan, "3"):
        with pytest.raises(ConfigurationError, match=r"plugin 'bare': Bare: scale"):
            start([Bare(scale)])


def test_a_scale_that_does_not_broadcast():
    run = start([CFG(torch.tensor([1.0, 2.0, 3.0]))])
    with pytest.raises(ConfigurationError, match=r"shape \(3,\), which does not broadcast to the sample's \(2, 4\)"):
        run.step(0, torch.zeros(2, 4), never)


def test_a_scale_without_a_value_for_an_output():
    with pytest.raises(ConfigurationError, match="none for audio"):
        start([CFG({"video": 3})], outputs=("video", "audio"))


@pytest.mark.parametrize("sigmas", [[1.0], [], [1.0, 0.2, 0.5], [1.0, math.nan], [1.0, -0.1], "abc", [[1.0], [0.0]]])
def test_sigmas(sigmas):
    with pytest.raises(ConfigurationError, match="sigmas must"):
        start([CFG()], sigmas=sigmas)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"prediction_type": "velocity"}, "prediction_type must be one of"),
        ({"prediction_type": "flwo"}, "Did you mean 'flow'"),
        ({"conditions": {"positive": {}}}, "plugin 'cfg' needs the condition 'negative'"),
        ({"conditions": {"positive": {}, "negative": None}}, "needs the condition 'negative'"),
        ({"conditions": {"negative": {}}}, "needs the condition 'positive'"),
        ({"conditions": {"positive": {}, "negativ": {}}}, "Did you mean 'negativ'"),
        ({"conditions": {"positive": torch.zeros(1)}}, "condition 'positive' must be a dict"),
        ({"conditions": [1]}, "conditions must be a dict"),
        ({"executor": "serail"}, "Did you mean 'serial'"),
        ({"executor": 3}, "executor must be"),
        ({"outputs": "video"}, "list of names"),
        ({"alphas": [1.0]}, "alphas must have one value"),
    ],
)
def test_start(changed, says):
    with pytest.raises(ConfigurationError, match=says):
        start([CFG()], **changed)


def test_a_message_says_each_thing_once():
    with pytest.raises(ConfigurationError) as caught:
        start([CFG()], prediction_type="logits")
    assert str(caught.value) == "prediction_type must be one of epsilon, v, x0, flow, other; got 'logits'."
    with pytest.raises(UnknownNameError) as caught:
        start([CFG()], conditions={"positive": {}})
    assert "Did you mean" not in str(caught.value), "negative is not positive misspelt"
    with pytest.raises(UnknownNameError) as caught:
        start([], conditions={"negative": {}})
    assert str(caught.value).endswith("Pass conditions={'positive': {...}}.")
    looks = hooked("combine", lambda self, step, predictions: predictions["nothing"])
    with pytest.raises(PluginError) as caught:
        start([looks]).step(0, torch.zeros(2, 3), lambda branch: torch.zeros(2, 3))
    assert str(caught.value).count("plugin 'broken'") == 1


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ([CFG(), Interval(methods="cgf")], "plugin 'interval': methods has 'cgf', .* Did you mean 'cfg'"),
        ([Interval(0, 1, methods=("cfg#2",)), CFG()], "has 'cfg#2', which is not in the stack"),
    ],
)
def test_an_interval_of_a_method_that_is_not_in_the_stack(plugins, says):
    with pytest.raises(UnknownNameError, match=says):
        start(plugins)
    with pytest.raises(UnknownNameError, match=says):
        Guidance(plugins).describe()


def test_an_interval_may_name_one_of_two_equal_methods():
    passes = Guidance.from_spec("cfg,cfg:scale=3,interval:hi=0.5,methods=cfg#2").describe(2).steps
    assert [group.passes[1].strengths["output"] for group in passes] == ["6.5", "8.5"]


def test_sigmas_that_flow_does_not_have():
    with pytest.raises(ConfigurationError, match=r"sigmas must lie in \[0, 1\] for flow .*; got 999\. .* / 1000"):
        start([CFG()], sigmas=torch.linspace(999, 0, 5))
    with pytest.raises(ConfigurationError, match=r"sigmas of 'audio' must lie in \[0, 1\] .*; got 1\.5\.$"):
        start([CFG()], sigmas={"video": [1.0, 0.0], "audio": [1.5, 0.0]}, outputs=("video", "audio"))
    run = start([CFG()], sigmas=[1 + 5e-7, 0.5, 0.0])  # rounded in another precision
    with pytest.raises(ConfigurationError, match=r"sigma must lie in \[0, 1\] for flow predictions; got 1\.5\."):
        run.step(0, torch.zeros(1, 2), never, sigma=1.5)
    run.step(0, torch.zeros(1, 2), lambda branch: torch.zeros(1, 2), sigma=1 + 5e-7)
    start([CFG()], sigmas=[14.6, 1.0, 0.0], prediction_type="epsilon")
    Guidance([CFG()]).describe(sigmas=[14.6, 1.0, 0.0])


def test_a_space_that_cannot_be_reached_is_known_at_start():
    with pytest.raises(ConfigurationError, match=r"plugin 'rescale' works in x0: .*needs alpha"):
        start([CFG(), Rescale(space="x0")], prediction_type="epsilon")


@pytest.mark.parametrize(
    ("sigmas", "alphas"),
    [
        (torch.linspace(1, 0, 11), torch.linspace(0, 1, 11)),
        ([1 - 2**-24, 0.5, 0.0], [0.0, 0.5, 1.0]),
        ([1.0, 0.5, 0.0], [2**-24, 0.5, 1.0]),
    ],
    ids=["both in float32", "no signal left", "no noise added"],
)
def test_alphas_that_are_rounded_fit_flow_predictions(sigmas, alphas):
    start([CFG(), Rescale(space="x0")], sigmas=sigmas, alphas=alphas)


@pytest.mark.parametrize("off", [1e-3, -1e-3])
def test_alphas_that_flow_predictions_do_not_have(off):
    says = rf"flow predictions need alpha = 1 - sigma; at sigma 0\.5 the run has alpha {0.5 + off:g}"
    with pytest.raises(ConfigurationError, match=says):
        start([CFG(), Rescale(space="x0")], sigmas=[1.0, 0.5, 0.0], alphas=[0.0, 0.5 + off, 1.0])


@pytest.mark.parametrize("index", [-1, 2, 1.0, "0"])
def test_step_index(index):
    with pytest.raises(ConfigurationError, match=r"step"):
        start([CFG()]).step(index, torch.zeros(1, 2), never)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (torch.zeros(1, 2, dtype=torch.long), "floating point"),
        (torch.zeros(0, 2), "at least one element"),
        (torch.tensor(1.0), "at least one element"),
        ((torch.zeros(1, 2), torch.zeros(1, 2)), "name its entries"),
        ([], "name its entries"),
        (None, "a sample must be a tensor"),
        ({"video": 3}, "must be a tensor"),
    ],
)
def test_samples(sample, says):
    with pytest.raises(ConfigurationError, match=says):
        start([CFG()]).step(0, sample, never)


@pytest.mark.parametrize(
    ("uncond", "says"),
    [
        (None, "got None"),
        ({"video": torch.zeros(2, 3)}, "must be a tensor"),
        (torch.zeros(2, 4), r"\(2, 4\) float32 on cpu, but that of the base branch is \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, 3, device="meta"), "on meta"),
    ],
)
def test_a_prediction_that_does_not_fit_the_base_branch(uncond, says):
    predictions = {"cond": torch.zeros(2, 3), "uncond": uncond}
    with pytest.raises(DenoiserError, match="'uncond'.*" + says):
        start([CFG()]).step(0, torch.zeros(2, 3), lambda branch: predictions[branch.name])


LAYOUTS = {
    "sparse_coo": torch.Tensor.to_sparse,
    "sparse_csr": torch.Tensor.to_sparse_csr,
    "_mkldnn": torch.Tensor.to_mkldnn,
    "nested": lambda tensor: torch.nested.as_nested_tensor(list(tensor)),
}


@pytest.mark.filterwarnings("ignore:.*(nested|Sparse)")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_tensor_that_is_not_dense_is_refused_by_name(layout, scale):
    x, changed = torch.ones(2, 4), LAYOUTS[layout](torch.ones(2, 4))

    @attrs.frozen
    class Returns:
        what: object = attrs.field(eq=False)

        @hookimpl
        def postprocess(self, step, guided, reference):
            return self.what

    says = f"must be a dense tensor; got one with the layout {layout}"
    with pytest.raises(DenoiserError, match=f"branch 'cond' of step 0: output 'output' {says}"):
        start([CFG(scale)]).step(0, x, lambda branch: changed)
    with pytest.raises(ConfigurationError, match=rf"the sample \(output\) {says}"):
        start([CFG(scale)]).step(0, changed, never)
    with pytest.raises(ConfigurationError, match=f"sigma_map of 'output' {says}"):
        start([CFG(scale)]).step(0, x, never, sigma_map=changed)
    for result in (changed, Multiply(changed)):
        with pytest.raises(PluginError, match=f"'returns' must return .*; got a tensor with the layout {layout}"):
            start([CFG(scale), Returns(result)]).step(0, x, lambda branch: x + 0)


def test_other_keys_than_the_sample():
    x = {"video": torch.zeros(1, 2), "audio": torch.zeros(1, 2)}
    with pytest.raises(DenoiserError, match="must be a dict with video, audio; got a dict with video"):
        start([CFG()]).step(0, x, lambda branch: {"video": torch.zeros(1, 2)})


def test_check_finite_names_branch_and_step():
    predictions = {"cond": torch.zeros(1, 2), "uncond": torch.tensor([[0.0, math.nan]])}
    with pytest.raises(NonFiniteError, match="branch 'uncond' of step 1"):
        start([CFG()], check_finite=True).step(1, torch.zeros(1, 2), lambda branch: predictions[branch.name])


def test_one_name_with_different_content():
    with pytest.raises(BranchConflictError, match=r"'ltx2' and plugin 'stg' want different passes.*'perturbed'"):
        start([LTX2(), STG(blocks=3)])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": "small"}, "model 'small'"),
        ({"condition": "positive"}, "condition 'positive'"),
        ({"perturbations": (SkipBlocks((1,)),)}, "SkipBlocks"),
        ({"overrides": {"text": 1}}, "overrides text"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_two_passes_under_one_name_are_told_apart_by_all_they_consist_of(content, says):
    def asking(**changed):
        branch = Branch("u", **({"condition": "negative", "strength": 1.0} | changed))
        return hooked("build_branches", lambda self, step: [branch])

    start([asking(), asking()])
    start([asking(**content), asking(**content)])
    for plugins in ([asking(), asking(**content)], [asking(**content), asking()]):
        with pytest.raises(BranchConflictError, match=f"want different passes .*'u': .*{says}"):
            start(plugins)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SkipSelfAttention((1, 2)), SkipBlocks((2, 3))),
        (SkipSelfAttention((1,), "video"), SkipBlocks((1,), "video")),
        (SkipSelfAttention((1,)), SkipBlocks((1,), "video")),  # every output, and one of them
        (SkipSelfAttention(None), IdentityAttention((7,), "audio")),  # every block, and one of them
    ],
)
def test_perturbations_of_one_place_exclude_each_other(one, other):
    for pair in ((one, other), (other, one)):
        with pytest.raises(BranchConflictError, match="branch 'weak' has two perturbations that act on the same"):
            Branch("weak", perturbations=pair)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SkipSelfAttention((1,)), SkipBlocks((2,))),
        (SkipSelfAttention((1,), "video"), SkipBlocks((1,), "audio")),
        (SkipSelfAttention((1,)), SkipSelfAttention((1,), "audio")),  # the same change twice is that change
        (SkipBlocks(None), IsolateOutputs()),
    ],
)
def test_perturbations_of_different_places_go_together(one, other):
    assert Branch("weak", perturbations=[one, other]).perturbations == (one, other)


def test_a_missing_prediction_of_the_second_half():
    run = start([CFG()])
    with pytest.raises(DenoiserError, match="branch 'uncond' of step 0 is missing"):
        run.finish(run.plan(0, torch.zeros(1, 2)), {"cond": torch.zeros(1, 2)})


def hooked(name, function):
    return attrs.frozen(type("Broken", (), {name: hookimpl(function), "__annotations__": {}}))()


@pytest.mark.parametrize(
    ("hook", "function", "says"),
    [
        ("build_branches", lambda self, step: 1 / 0, "failed in build_branches: ZeroDivisionError"),
        ("build_branches", lambda self, step: 3, "must return a list of Branch, Amend, Needs and Hold"),
        ("build_branches", lambda self, step: [3], "must return a list of Branch, Amend, Needs and Hold"),
        ("combine", lambda self, step, predictions: 1 / 0, "failed in combine"),
        ("combine", lambda self, step, predictions: 3, "must return"),
        ("combine", lambda self, step, predictions: (torch.zeros(2, 3),), r"got a tuple of 1 \(a tensor \(2, 3\)\)\.$"),
        ("combine", lambda self, step, predictions: torch.zeros(1), "got shape"),
        ("combine", lambda self, step, predictions: predictions["nothing"], "'nothing', but it can see cond"),
        ("postprocess", lambda self, step, guided, reference: 1 / 0, "failed in postprocess"),
        ("postprocess", lambda self, step, guided, reference: "x", "must return"),
        ("postprocess", lambda self, step, guided, reference: reference.std(), "Needs.std='sample'"),
    ],
)
def test_hooks_that_fail(hook, function, says):
    with pytest.raises(PluginError, match=says) as caught:
        start([hooked(hook, function)]).step(0, torch.zeros(2, 3), lambda branch: torch.zeros(2, 3))
    assert "'broken'" in str(caught.value)


def test_hooks_that_cannot_be_called():
    with pytest.raises(ConfigurationError, match="'broken'"):
        Guidance([hooked("combine", lambda self, step, preds: None)])
    with pytest.raises(ConfigurationError, match="the hooks are build_branches, combine, postprocess"):
        Guidance([hooked("combin", lambda self, step: None)])


def test_what_is_no_plugin():
    @attrs.define
    class Mutable:
        @hookimpl
        def build_branches(self, step):
            return []

    for plugin, says in [
        (CFG, "CFG is a class"),
        ("cfg", "from_spec"),
        (3, "frozen attrs class"),
        (Mutable(), "Mutable is not"),
        (attrs.frozen(type("Empty", (), {}))(), "has no hooks"),
    ]:
        with pytest.raises(ConfigurationError, match=says):
            Guidance([plugin])


def test_an_executor_that_only_adds_refuses_a_method_that_looks():
    from test_algebra import AddingExecutor

    with pytest.raises(ConfigurationError, match=r"'apg' looks at the predictions.*'adding' only adds.*use 'serial'"):
        start([APG()], executor=AddingExecutor())


def test_batched_needs_batch_and_room():
    with pytest.raises(ExecutorError, match=r"batch\(branches\)"):
        start([CFG()], executor="batched").step(0, torch.zeros(1, 2), never)
    with pytest.raises(ConfigurationError, match="max_rows"):
        BatchedExecutor(max_rows=0)


def test_batched_never_exceeds_its_rows():
    seen = []

    class Batching:
        def batch(self, branches):
            seen.append([branch.name for branch in branches])
            return [torch.zeros(2, 3) for _ in branches]

    run = start([LTX2(cfg_scale=3.0)], executor=BatchedExecutor(max_rows=5))
    run.step(0, torch.zeros(2, 3), Batching())
    assert seen == [["cond", "neg"], ["perturbed", "modality"]]
    with pytest.raises(ExecutorError, match="max_rows=5 is less than the sample's 6 rows"):
        run.step(1, torch.zeros(6, 3), Batching())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_a_result_that_overflows_is_reported_where_finite_numbers_are_asked_for(dtype):
    most = torch.full((1, 4), torch.finfo(dtype).max * 0.75).to(dtype)
    run = start([CFG(scale=30.0)], check_finite=True)
    predictions = {"cond": most, "uncond": (-most.float()).to(dtype)}
    with pytest.raises(NonFiniteError, match=r"the guided prediction of step 0 .* though every prediction is finite"):
        run.step(0, torch.zeros(1, 4), lambda branch: predictions[branch.name])


@pytest.mark.parametrize("count", [8, 200_000])
@pytest.mark.parametrize(
    "spec",
    [
        "cfg:scale=3",
        "cfg:scale=tensor([1, 3])",
        "apg:scale=3",
        "cfg:scale=3,rescale:phi=0.7,space=x0",
        "cfg:scale=3,normalize",
    ],
)
def test_the_default_device_changes_nothing(spec, count):
    def results():
        run = Guidance.from_spec(spec).start(conditions=BOTH, sigmas=[1.0, 0.5, 0.0], prediction_type="flow")
        return [run.step(step, x, lambda branch: given[branch.name]) for step in range(2)]

    x, *passes = (torch.linspace(-1, end, 2 * count).view(2, count) for end in (1.0, 2.0, 3.0))
    given = dict(zip(("cond", "uncond"), passes, strict=True))
    expected = results()
    with torch.device("meta"):
        found = results()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("given", "known"),
    [("v_prediction", "v"), ("sample", "x0"), ("eps", "epsilon"), ("velocity", "flow"), ("x-start", "x0")],
)
def test_prediction_types_by_the_names_of_other_libraries_get_the_name_here(given, known):
    with pytest.raises(ConfigurationError, match=f"got '{given}'. That is '{known}' here"):
        start([CFG()], prediction_type=given)


def test_a_tuple_of_one_prediction_is_explained():
    x = torch.zeros(1, 4)
    with pytest.raises(DenoiserError, match=r"a tuple of 1\. A model called with return_dict=False"):
        start([CFG()]).step(0, x, lambda branch: (x,))


class _AnswersAsItLikes(type):
    def __getattr__(cls, name):
        raise (AttributeError if name.startswith("__") else RuntimeError)(f"no {name}")


@attrs.frozen
class OfAHostileClass(metaclass=_AnswersAsItLikes):
    @hookimpl
    def build_branches(self, step):
        return []


@attrs.frozen
class AnswersAsItLikes:
    @hookimpl
    def build_branches(self, step):
        return []

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize("cls", [OfAHostileClass, AnswersAsItLikes])
def test_a_class_that_answers_as_it_likes_is_refused_by_name(cls):
    with pytest.raises(ConfigurationError, match=f"{cls.__name__}.* cannot be used as a plugin: RuntimeError: no "):
        Guidance([CFG(), cls()])
