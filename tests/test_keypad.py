"""Keypad, the model of picture and sound together: its clips, its judges, and what guidance does to them."""

from __future__ import annotations

import json
import math
import sys
import wave
from pathlib import Path

import keypad_jobs
import pytest
import torch
from typer.testing import CliRunner

from guidance_core import (
    ConfigurationError,
    Guidance,
    GuidanceError,
    IsolateOutputs,
    ShuffledTokens,
    SkipBlocks,
    SkipSelfAttention,
)
from guidance_core.models.keypad import PATTERNS, TEMPOS, load_keypad_model, read_prompt
from guidance_core.models.keypad_clips import PROMPTS, KeypadDenoiser, make_clips
from guidance_core.models.keypad_judges import (
    EMPTY,
    UNCLEAR,
    heard,
    judge,
    load_digit_reader,
    obeys,
    seen,
)
from guidance_core.models.keypad_sounds import COLUMN, FRAME, HIGH, LATENTS, LOW, RATE, ROW, decode, encode, goertzel

runner = CliRunner()
EVERY = [f"{pattern}, {tempo}" for pattern in PATTERNS[1:] for tempo in TEMPOS[1:]]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(batch: int = 3) -> dict[str, torch.Tensor]:
    return {"video": drawn(batch, 6, 8, 8), "audio": drawn(batch, 6, LATENTS, seed=1)}


def tone(digit: int, frames: int = 1, size: float = 0.4, phase: float = 0.3) -> torch.Tensor:
    seconds = torch.arange(frames * FRAME, dtype=torch.float64) / RATE
    angles = (2 * math.pi * frequency * seconds + phase for frequency in (LOW[ROW[digit]], HIGH[COLUMN[digit]]))
    return sum(size * angle.sin() for angle in angles).float()


# The judges


@pytest.fixture
def real(monkeypatch):
    """Real clips of digits that neither the model nor the reader has seen."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    monkeypatch.delitem(sys.modules, "keypad_data", raising=False)
    from keypad_data import clips

    return clips(400, "held out", torch.Generator().manual_seed(5))


def test_real_clips_agree_and_follow_their_prompts(real):
    video, audio, prompts, symbols = real
    scores = judge(video, audio, prompts, load_digit_reader())
    found = {name: score.value for name, score in scores.summary().items()}
    assert found["agreement"] >= 0.98
    assert found["video"] >= 0.97
    assert found["audio"] == 1.0
    assert (found["in_time"], found["offset"], found["clipped"], found["saturated"]) == (1.0, 0.0, 0.0, 0.0)
    assert torch.equal(heard(decode(audio)), symbols)


def test_a_judge_says_that_the_prompt_is_not_followed_where_it_is_another_one(real):
    video, audio, prompts, _ = real
    other = torch.stack((prompts[:, 0], 3 - prompts[:, 1]), 1)
    scores = judge(video, audio, other, load_digit_reader())
    assert not scores.video.any()
    assert not scores.audio.any()


@pytest.mark.parametrize("digit", range(10))
def test_goertzel_hears_each_digit_at_any_loudness_and_phase(digit):
    for size, phase in ((0.12, 0.0), (0.4, 1.0), (0.6, 4.0)):
        sound = tone(digit, 2, size, phase) + 0.05 * drawn(2 * FRAME)
        assert heard(sound[None]).tolist() == [[digit] * 2]


def test_what_is_no_digit_is_heard_as_such():
    silence, star = torch.zeros(FRAME), tone(7) - tone(7)
    seconds = torch.arange(FRAME) / RATE
    for frequency in (LOW[3], HIGH[0]):
        star = star + 0.4 * (2 * math.pi * frequency * seconds).sin()
    sound = torch.cat((silence, star, tone(1) + tone(5), tone(2), 0.1 * tone(2), silence))
    assert heard(sound[None]).tolist() == [[EMPTY, UNCLEAR, UNCLEAR, 2, EMPTY, EMPTY]]


def test_goertzel_is_the_fourier_term_of_each_frequency():
    sound = drawn(2, 3 * FRAME)
    seconds = torch.arange(FRAME, dtype=torch.float64) / RATE
    for number, frequency in enumerate(LOW + HIGH):
        turned = torch.polar(torch.ones_like(seconds), -2 * math.pi * frequency * seconds)
        exact = (sound.double().reshape(2, 3, FRAME) * turned).sum(-1).abs() * 2 / FRAME
        torch.testing.assert_close(goertzel(sound)[..., number].double(), exact, rtol=1e-4, atol=1e-5)


def test_a_sound_survives_its_latents():
    sound = torch.stack([torch.cat([tone(digit, phase=digit), torch.zeros(FRAME)]) for digit in range(10)])
    torch.testing.assert_close(decode(encode(sound)), sound, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("symbols", "prompt", "kept"),
    [
        ([1, -1, 3, -1, -1, 7], "rising, quick", True),
        ([1, -1, 3, -1, -1, 7], "rising", True),
        ([1, -1, 3, -1, -1, 7], "odd, quick", True),
        ([1, -1, 3, -1, -1, 7], "odd, slow", False),
        ([1, -1, 3, -1, -1, 7], "falling, quick", False),
        ([1, -1, 1, -1, -1, 7], "rising, quick", False),
        ([1, 1, 3, 3, 7, 7], "rising, slow", True),
        ([1, 1, 3, 3, 7, 7], "rising, quick", False),
        ([1, 1, 3, 3, 7, 8], "rising, slow", False),
        ([4, 4, 4, 4, 4, 4], "same, slow", True),
        ([4, 4, 4, 4, -1, -1], "same, slow", False),
        ([4, 4, 4, -1, -1, -1], "same, quick", True),
        ([8, 4, -2, -1, -1, -1], "even, quick", False),
        ([8, 4, 0, -1, -1, -1], "falling, quick", True),
        ([8, 4, 0, -1, -1, -1], "", True),
        ([-1, -1, -1, -1, -1, -1], "", False),
    ],
)
def test_a_prompt_is_followed_or_not(symbols, prompt, kept):
    assert obeys(torch.tensor([symbols]), torch.tensor([read_prompt(prompt)])).tolist() == [kept]


def test_the_offset_is_what_the_sound_must_be_moved_by():
    reader = load_digit_reader()
    video, one = torch.full((3, 6, 8, 8), -1.0), torch.zeros(FRAME)
    video[:, 2:4] = 1.0
    sounds = [[2, 3], [1, 2], [4, 5]]
    audio = torch.stack([encode(torch.cat([tone(5) if f in each else one for f in range(6)])) for each in sounds])
    scores = judge(video, audio, torch.zeros(3, 2, dtype=torch.int64), reader)
    assert scores.offset.tolist() == [0.0, 120.0, 240.0]
    torch.testing.assert_close(scores.in_time, torch.tensor([1.0, 4 / 6, 2 / 6]))


def test_empty_frames_and_clipping_are_counted():
    video = torch.full((1, 6, 8, 8), -1.0)
    video[0, 0] = 1.5
    audio = torch.zeros(1, 6, LATENTS)
    audio[0, 3] = 20.0
    scores = judge(video, audio, torch.zeros(1, 2, dtype=torch.int64), load_digit_reader())
    assert seen(video, load_digit_reader())[0, 1:].tolist() == [EMPTY] * 5
    torch.testing.assert_close(scores.saturated, torch.tensor([1 / 6]))
    assert 0.1 < scores.clipped.item() < 1 / 6
    assert scores.agreement.item() == 0
    silent = judge(
        video[:, 1:].expand(1, 5, 8, 8).repeat(1, 2, 1, 1)[:, :6],
        0 * audio,
        torch.zeros(1, 2).long(),
        load_digit_reader(),
    )
    assert silent.agreement.item() == 0, "nothing to see or to hear is no agreement"


# The model


def test_an_interrupted_training_ends_with_the_same_weights(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    import train_keypad

    monkeypatch.setattr(train_keypad, "CLIPS", 80)
    monkeypatch.setattr(train_keypad, "EVERY", 2)
    whole = train_keypad.train(4, 1, tmp_path / "whole.pt").state_dict()
    train_keypad.train(2, 1, tmp_path / "parts.pt")
    resumed = train_keypad.train(4, 1, tmp_path / "parts.pt").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_isolated_streams_do_not_see_each_other():
    model, x = load_keypad_model(), noisy()
    text = model.embedded(torch.tensor([[1, 1]] * 3))
    other = {**x, "audio": x["audio"] + 1}
    isolated, theirs = (model(each, 0.5, text, (IsolateOutputs(),)) for each in (x, other))
    assert torch.equal(isolated["video"], theirs["video"])
    assert not torch.equal(isolated["audio"], theirs["audio"])
    assert not torch.equal(model(x, 0.5, text)["video"], model(other, 0.5, text)["video"])
    deaf, theirs = (model(each, 0.5, text, (IsolateOutputs(output="video"),)) for each in (x, other))
    assert torch.equal(deaf["video"], theirs["video"])
    assert not torch.equal(deaf["audio"], isolated["audio"]), "the audio still sees the video"


def test_training_cuts_what_the_isolated_pass_cuts():
    model, x = load_keypad_model(), noisy()
    text = model.embedded(torch.tensor([[1, 1]] * 3))
    cut = model(x, 0.5, text, crossing=torch.tensor([0.0, 1.0, 0.0]))
    isolated, whole = model(x, 0.5, text, (IsolateOutputs(),)), model(x, 0.5, text)
    for name in x:
        torch.testing.assert_close(cut[name][::2], isolated[name][::2])
        torch.testing.assert_close(cut[name][1], whole[name][1])


def test_skipped_self_attention_is_of_its_output_and_blocks():
    model, x = load_keypad_model(), noisy()
    text = model.embedded(torch.tensor([[1, 1]] * 3))
    alone = (IsolateOutputs(), SkipSelfAttention(output="video"))
    moved = {**x, "video": x["video"].clone()}
    moved["video"][:, 0] += 1
    before, after = (model(each, 0.5, text, alone) for each in (x, moved))
    assert torch.equal(before["video"][:, 1:], after["video"][:, 1:]), "frames are mixed by nothing else"
    assert torch.equal(before["audio"], model(x, 0.5, text, (IsolateOutputs(),))["audio"])
    whole = model(x, 0.5, text)
    for blocks in range(4):
        weak = model(x, 0.5, text, (SkipSelfAttention(blocks, output="audio"),))
        assert not torch.equal(weak["audio"], whole["audio"])


def test_skipping_every_block_leaves_what_each_token_says():
    model, x = load_keypad_model(), noisy()
    text = model.embedded(torch.tensor([[1, 1]] * 3))
    moved = {"video": x["video"].clone(), "audio": x["audio"] + 1}
    moved["video"][:, 0] += 1
    before, after = (model(each, 0.5, text, (SkipBlocks(),)) for each in (x, moved))
    assert torch.equal(before["video"][:, 1:], after["video"][:, 1:])


@pytest.mark.parametrize(
    "perturbation",
    [ShuffledTokens(), SkipBlocks((4,)), SkipSelfAttention(0, output="depth")],
    ids=lambda each: repr(each),
)
def test_the_model_refuses_what_it_cannot_do(perturbation):
    model = load_keypad_model()
    with pytest.raises(ConfigurationError, match="KeypadTransformer"):
        model(noisy(), 0.5, model.embedded(torch.tensor([[1, 1]] * 3)), (perturbation,))


def test_a_stream_can_keep_the_positive_text():
    """`negative=guided` with a cfg of 1 for audio: the audio of the neg pass is that of its positive text."""
    spec = "ltx2:cfg_scale={video: 3, audio: 1},stg_scale=0,modality_scale=1,rescale_scale=0,negative="
    guided, both = (make_clips(Guidance.from_spec(spec + each), steps=3) for each in ("guided", "both"))
    assert not torch.equal(guided.video, both.video), "the audio stream reaches the video through the blocks"
    model, x = load_keypad_model(), noisy()
    positive, negative = (model.embedded(torch.tensor([prompt] * 3)) for prompt in ((1, 1), (0, 0)))
    run = Guidance.from_spec(spec + "guided").start(
        conditions={"positive": {"text": positive}, "negative": {"text": negative}},
        sigmas=[0.5, 0.0],
        prediction_type="flow",
        outputs=("video", "audio"),
    )
    plan = run.plan(0, x)
    (branch,) = (each for each in plan.branches if each.name == "neg")
    mixed = model(x, 0.5, {"video": negative, "audio": positive})
    made = KeypadDenoiser(model, x, 0.5)(branch)
    assert all(torch.equal(made[name], mixed[name]) for name in x)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("rising, quick", (1, 1)),
        ("SLOW, same", (5, 2)),
        ("odd", (4, 0)),
        ("quick", (0, 1)),
        ("", (0, 0)),
        ("any", (0, 0)),
        ("any, quick", (0, 1)),
        ("rising, any", (1, 0)),
        ("any, any", (0, 0)),
    ],
)
def test_a_prompt_is_read(text, prompt):
    assert read_prompt(text) == prompt


@pytest.mark.parametrize("text", ["rising, falling", "louder", "quick, slow", "rising quick", "\x00", "ρ" * 10_000])
def test_what_is_no_prompt_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"such as 'rising, quick'; got"):
        read_prompt(text)


# What guidance does


def test_modality_guidance_makes_picture_and_sound_agree():
    plain, cfg, modality = (
        make_clips(Guidance.from_spec(spec), EVERY, per_prompt=8, seed=11).scores.summary()
        for spec in ("", "cfg:scale=3", "ltx2:cfg_scale=3,modality_scale=3,stg_scale=0,rescale_scale=0")
    )
    assert cfg["video"].value >= plain["video"].value + 0.1, "cfg follows the prompt"
    assert modality["agreement"].value >= cfg["agreement"].value + 0.04
    assert modality["agreement"].value >= plain["agreement"].value + 0.06


def test_a_clip_depends_on_its_seed_and_place_alone():
    guidance = Guidance.from_spec(keypad_jobs.SPEC)
    few, more, again = (make_clips(guidance, PROMPTS[:2], steps=4, per_prompt=n, seed=3) for n in (1, 3, 1))
    assert torch.equal(few.video, again.video)
    assert torch.equal(few.audio, again.audio)
    torch.testing.assert_close(more.video[::3], few.video, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(more.audio[::3], few.audio, rtol=1e-3, atol=1e-4)
    assert not torch.equal(make_clips(guidance, PROMPTS[:2], steps=4, seed=4).video, few.video)
    open_prompts = make_clips(Guidance([]), ["any", "any"], steps=1, per_prompt=2, seed=3)
    assert len(open_prompts.video.flatten(1).unique(dim=0)) == 4, "every clip starts from noise of its own"


def test_batched_makes_what_serial_makes():
    guidance = Guidance.from_spec(keypad_jobs.SPEC + ",stg:scale=0.5,blocks=1,branch=weak")
    serial, batched = (make_clips(guidance, steps=4, executor=name) for name in ("serial", "batched"))
    torch.testing.assert_close(serial.video, batched.video, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(serial.audio, batched.audio, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_all_gather_equals_serial_bitwise(ranks, count):
    assert ranks.run(keypad_jobs.clips, "all_gather", ranks=count) == [(True, True)] * count


def test_rows_shared_out_make_what_serial_makes(ranks):
    assert ranks.run(keypad_jobs.clips_of_shared_rows, ranks=3) == [True] * 3


def test_methods_that_edit_the_text_and_draw_noise_work_on_both_outputs():
    for spec in ("cads,cfg:scale=3", "icg", "apg-mix", "slg:blocks=1,scale=1", "pag:blocks=1"):
        made = make_clips(Guidance.from_spec(spec), PROMPTS[:1], steps=3)
        assert made.video.isfinite().all(), spec
        assert made.audio.isfinite().all(), spec


# The command


def sample(*words: str):
    from guidance_core.commands.app import app

    model = () if "--model" in words else ("--model", "keypad")
    return runner.invoke(app, ["sample", *model, *words, "--steps", "3", "--per-class", "2"])


def test_the_command_writes_a_sheet_an_animation_and_sounds(tmp_path):
    from PIL import Image

    out = tmp_path / "a.png"
    result = sample("-g", "", "-g", keypad_jobs.SPEC, "--prompt", "rising, quick", "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [Path(each).name for each in found["files"]] == ["a.png", "a.gif", "a-1.wav", "a-2.wav"]
    assert [row["passes_per_step"] for row in found["rows"]] == [1, 4]
    assert set(found["rows"][0]["scores"]) >= {"agreement", "video", "audio", "both", "offset", "clipped"}
    assert out.read_bytes().startswith(b"\x89PNG")
    with Image.open(out.with_suffix(".gif")) as animation:
        assert animation.n_frames == 6
        assert animation.info["duration"] == 120
    with wave.open(str(tmp_path / "a-1.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert file.getnframes() == 6 * FRAME + RATE // 4


def test_the_sound_file_sounds_as_the_latents_say(tmp_path):
    from guidance_core.models.keypad_pictures import save_sound

    sound = torch.stack((torch.cat([tone(d) for d in (1, 2, 3, 4, 5, 6)]), torch.zeros(6 * FRAME)))
    save_sound(encode(sound), tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        samples = torch.frombuffer(bytearray(file.readframes(6 * FRAME)), dtype=torch.int16) / 32767
    assert heard(samples[None]).tolist() == [[1, 2, 3, 4, 5, 6]]


def test_the_command_prints_a_table(tmp_path):
    result = sample("-g", "cfg:scale=3", "--trace", "--out", str(tmp_path / "a.png"))
    assert result.exit_code == 0, result.output
    assert "sound:" in result.stdout
    assert "agree" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prompt", "louder"], "a prompt of the keypad model is"),
        (["--model", "keypadd"], "Did you mean 'keypad'"),
        (["--model", "letters", "--prompt", "rising"], "--prompt is for --model keypad"),
        (["-g", "stg:blocks=99"], "4 blocks"),
        (["-g", "tpg"], "ShuffledTokens"),
        (["-g", "cfg:scale={video: 3, depth: 1}"], "depth"),
        (["--out", "a.gif"], "must end in .png"),
    ],
)
def test_what_the_command_cannot_do_is_a_clear_error(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sample(*words)
    assert isinstance(result.exception, GuidanceError), result.output
    assert says in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_same_files_on_ranks(tmp_path):
    for count in ("1", "2"):
        folder = tmp_path / count
        folder.mkdir()
        result = sample("-g", keypad_jobs.SPEC, "--ranks", count, "--out", str(folder / "a.png"))
        assert result.exit_code == 0, result.output
    for name in ("a.png", "a.gif", "a-1.wav"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
