"""Portraits: what is drawn, what is said about it, and that nothing is left behind in the model."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from portraits import QUICK, Snapshot, pixels, plain_diffusers, portraits
from safetensors.torch import load_file, save_file
from toy import RESOLUTION, ToyAnalyser, save_toy, toy_run
from trainings import short, start

from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig, Scheduler
from magicapture_core.generation import Portrait, best_first, generate
from magicapture_core.generation.job import Job
from magicapture_core.generation.learned import Learned
from magicapture_core.generation.loop import _encode
from magicapture_core.models import ModelBundle, load
from magicapture_core.models.placeholders import with_placeholders
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.progress import StoppedError
from magicapture_core.provenance import read_provenance
from magicapture_core.ui.portrait_jobs import with_words


@pytest.fixture
def run(toy: ModelBundle, tmp_path: Path) -> Path:
    return toy_run(toy, tmp_path / "run")


def _learned(toy: ModelBundle, run: Path) -> Learned:
    return Learned.from_run(Run.open(run), toy, ToyAnalyser())


@pytest.mark.parametrize("text_encoder", [False, True])
def test_plain_diffusers_draws_the_same_picture(
    toy: ModelBundle, toy_folder: Path, tmp_path: Path, text_encoder: bool
) -> None:
    run = toy_run(toy, tmp_path / "run", rank=2, alpha=6.0, text_encoder=text_encoder)
    ours = portraits(toy, run, count=1, adapter_scale=0.7)[0]
    prompt = "a photo of a <subject> person in the <style> style"
    theirs = plain_diffusers(toy_folder, run, scale=0.7, prompt=prompt)
    # But for the rounding of single values: on some processors the two ways add up in another order.
    apart = np.abs(pixels(ours).astype(int) - theirs)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.001


def test_prompt_seed_adapter_and_scale_all_matter(toy: ModelBundle, run: Path) -> None:
    first = pixels(portraits(toy, run, count=1)[0])
    assert np.array_equal(first, pixels(portraits(toy, run, count=1)[0]))
    for changes in (
        {"seed": 6},
        {"adapter_scale": 0.0},
        {"prompt": "an oil painting of a {subject} in the {style}, wearing a hat"},
        {"negative_prompt": "red"},
        {"guidance_scale": 1.0},
        {"scheduler": "ddim"},
    ):
        assert not np.array_equal(first, pixels(portraits(toy, run, count=1, **changes)[0])), changes


def test_learned_weights_can_begin_late(toy: ModelBundle, run: Path) -> None:
    from magicapture_core.adapters import attach

    asked = {"count": 2, "steps": 4, "pictures_per_call": 1}
    whole, never = (portraits(toy, run, adapter_scale=scale, **asked) for scale in (0.8, 0.0))
    late = {
        start: portraits(toy, run, adapter_scale=0.8, adapter_start=start, **asked) for start in (0.1, 0.5, 1)
    }
    for number in range(2):  # of the second batch, too
        first = [pixels(each[number]) for each in (whole, late[0.1], late[0.5], late[1], never)]
        assert np.array_equal(first[0], first[1])  # less than half a step
        assert np.array_equal(first[3], first[4])
        changed = [np.abs(first[2].astype(int) - first[other]).mean() for other in (0, 4)]
        assert min(changed) > 0
    assert late[0.5][0].settings["adapter_start"] == 0.5
    assert "adapter_start" not in whole[0].settings
    with pytest.raises(ValueError, match="adapter_start"):
        GenerateConfig(adapter_start=1.1)
    # Somebody else's LoRA stays in use meanwhile.
    scales: list[dict[str, float]] = []
    loras = {attach.RUN: (run, 0.8), attach.EXTRA: (run, 0.5)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attach, "_set_scales", lambda _pipeline, wanted: scales.append(dict(wanted)))
        attach._switch(None, loras, False)
        attach._switch(None, loras, True)
        attach._switch(None, {attach.EXTRA: (run, 0.5)}, False)
    assert scales == [{"run": 0.0, "extra": 0.5}, {"run": 0.8, "extra": 0.5}]


def test_the_same_seed_gives_the_same_picture_whatever_the_batch(toy: ModelBundle, run: Path) -> None:
    alone = portraits(toy, run, count=5, pictures_per_call=1)
    together = portraits(toy, run, count=5, pictures_per_call=3)
    assert [p.seed for p in alone] == [p.seed for p in together] == [5, 6, 7, 8, 9]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1  # rounding of another matrix shape
    later = portraits(toy, run, count=1, seed=8)[0]
    assert np.abs(pixels(later) - pixels(alone[3])).max() <= 1
    assert not np.array_equal(pixels(alone[0]), pixels(alone[1]))


def test_a_seed_is_drawn_and_reported_where_none_is_given(toy: ModelBundle, run: Path) -> None:
    drawn = portraits(toy, run, count=1, seed=None)[0]
    again = portraits(toy, run, count=1, seed=drawn.seed)[0]
    assert np.array_equal(pixels(drawn), pixels(again))
    assert portraits(toy, run, count=1, seed=None)[0].seed != drawn.seed


@pytest.mark.parametrize("scheduler", Scheduler.__args__)  # type: ignore[attr-defined]
def test_every_scheduler_draws(toy: ModelBundle, run: Path, scheduler: Any) -> None:
    portrait = portraits(toy, run, count=1, scheduler=scheduler)[0]
    assert portrait.image.size == (RESOLUTION, RESOLUTION)
    assert portrait.settings["scheduler"] == scheduler


def test_width_and_height(toy: ModelBundle, run: Path) -> None:
    portrait = portraits(toy, run, count=1, width=96, height=64)[0]
    assert portrait.image.size == (96, 64)
    assert (portrait.settings["width"], portrait.settings["height"]) == (96, 64)


def test_portraits_are_enlarged_where_wanted_or_where_it_suits_the_model(toy: ModelBundle, run: Path) -> None:
    plain, large = portraits(toy, run, count=1)[0], portraits(toy, run, count=1, enlarge=2)[0]
    assert plain.image.size == (RESOLUTION, RESOLUTION)
    assert large.image.size == (2 * RESOLUTION, 2 * RESOLUTION)
    assert (plain.settings["enlarge"], large.settings["enlarge"]) == (1, 2)
    shrunk = np.asarray(large.image.resize(plain.image.size, Image.Resampling.BOX), np.float32)
    blurred = np.asarray(plain.image.filter(ImageFilter.BoxBlur(1)), np.float32)  # a toy's picture is noise
    assert np.corrcoef(shrunk.ravel(), blurred.ravel())[0, 1] > 0.8  # the same picture
    suited = dataclasses.replace(toy, generate_defaults={"enlarge": 3})
    assert portraits(suited, run, count=1)[0].image.size == (3 * RESOLUTION, 3 * RESOLUTION)
    assert portraits(suited, run, count=1, enlarge=1)[0].image.size == (RESOLUTION, RESOLUTION)
    with pytest.raises(Problem, match=r"enlarge must be None or 1 to 8, got 0\.5"):
        GenerateConfig(enlarge=0.5)


def test_velocity_models_generate(tmp_path: Path) -> None:
    models = load(save_toy(tmp_path / "v", prediction_type="v_prediction"), device="cpu")
    run = toy_run(models, tmp_path / "run")
    assert portraits(models, run, count=1)[0].image.getextrema() != ((0, 0),) * 3


def test_half_precision_models_generate(toy_folder: Path, tmp_path: Path) -> None:
    models = load(toy_folder, device="cpu", dtype=torch.bfloat16)
    run = toy_run(models, tmp_path / "run")
    snapshot = Snapshot(models)
    assert np.ptp(pixels(portraits(models, run, count=1)[0])) > 0
    snapshot.check()


# --- nothing is left behind ---------------------------------------------------------------------------


@pytest.mark.parametrize("text_encoder", [False, True])
def test_the_models_come_back_bit_for_bit(toy: ModelBundle, tmp_path: Path, text_encoder: bool) -> None:
    run = toy_run(toy, tmp_path / "run", text_encoder=text_encoder)
    snapshot = Snapshot(toy)
    portraits(toy, run, count=2, attention_words=("{subject}", "photo"))
    snapshot.check()


def test_they_come_back_when_the_generator_is_closed_early(toy: ModelBundle, run: Path) -> None:
    snapshot = Snapshot(toy)
    config = GenerateConfig(count=3, pictures_per_call=1, attention_words=("{style}",), **QUICK)
    stream = generate(toy, run, config, analyser=ToyAnalyser())
    next(stream)
    stream.close()
    snapshot.check()


def test_they_come_back_when_it_fails_in_the_middle(toy: ModelBundle, run: Path) -> None:
    snapshot = Snapshot(toy)

    def fail(_what: str, step: float, _total: float | None) -> None:
        if step == 2:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(generate(toy, run, GenerateConfig(count=1, **QUICK), analyser=ToyAnalyser(), progress=fail))
    snapshot.check()


def test_progress_counts_every_step_and_can_stop(toy: ModelBundle, run: Path) -> None:
    seen: list[tuple[str, float, float | None]] = []
    config = GenerateConfig(count=3, pictures_per_call=2, **QUICK)
    list(generate(toy, run, config, analyser=ToyAnalyser(), progress=lambda *now: seen.append(now)))
    assert seen == [("Denoising", step, 4) for step in (1, 2, 3, 4)]

    def stop(_what: str, step: float, _total: float | None) -> None:
        if step == 3:
            raise StoppedError

    snapshot = Snapshot(toy)
    stream = generate(toy, run, config, analyser=ToyAnalyser(), progress=stop)
    assert [p.seed for p in stream] == [5, 6]  # the second batch was given up
    snapshot.check()


def test_nothing_runs_before_the_first_portrait_is_asked_for(toy: ModelBundle, run: Path) -> None:
    snapshot = Snapshot(toy)
    generate(toy, run, GenerateConfig(**QUICK), analyser=ToyAnalyser())
    snapshot.check()


# --- prompts ------------------------------------------------------------------------------------------


def test_missing_placeholders_are_told(toy: ModelBundle, run: Path) -> None:
    assert portraits(toy, run, count=1)[0].warnings == ()
    said = portraits(toy, run, count=1, prompt="a photo of a {subject}")[0].warnings
    assert len(said) == 1
    assert "{style}" in said[0]
    said = portraits(toy, run, count=1, prompt="a photo of a cat")[0].warnings
    assert len(said) == 2


@pytest.mark.parametrize("prompt", ["a {sbject}", "a {}", "a {subject} and {0}"])
def test_unknown_braces_are_refused_at_once(toy: ModelBundle, run: Path, prompt: str) -> None:
    with pytest.raises(Problem, match=r"expected only \{subject\} and \{style\}"):
        generate(toy, run, GenerateConfig(prompt=prompt))


@pytest.mark.parametrize("negative", ["{stlye}", "blur {", "a {person}"])
def test_unknown_braces_in_what_to_avoid_are_refused_too(toy: ModelBundle, run: Path, negative: str) -> None:
    with pytest.raises(Problem, match=r"The negative prompt has .*expected only \{subject\} and \{style\}"):
        generate(toy, run, GenerateConfig(negative_prompt=negative))


def test_what_to_avoid_may_be_the_learned_style(toy: ModelBundle, run: Path) -> None:
    job = Job.prepared(toy, _learned(toy, run), GenerateConfig(negative_prompt="({style}:1.5)"))
    assert job.token_ids is not None
    assert job.input_ids[1, 1] == job.token_ids[1]
    assert job.token_weights is not None
    assert job.token_weights[0].tolist() == [1.0] * 77
    assert job.token_weights[1, :4].tolist() == [1.0, 1.5, 1.5, 1.0]  # start, <style>, style, end
    with pytest.raises(Problem, match="only a trained run knows"):
        generate(toy, None, GenerateConfig(prompt="a cat", negative_prompt="{style}"))


def _states(job: Job) -> torch.Tensor:
    return _encode(job).encoder_hidden_states


def test_weights_reach_their_tokens_and_no_other(toy: ModelBundle, run: Path) -> None:
    learned = _learned(toy, run)
    plain = Job.prepared(toy, learned, GenerateConfig(prompt="{subject}, red hat in the {style}"))
    job = Job.prepared(toy, learned, GenerateConfig(prompt="({subject}:0.8),(red)[hat] in the ({style}:1.3)"))
    assert plain.token_weights is None
    assert torch.equal(job.input_ids, plain.input_ids)
    # start, <subject> person, red hat in the <style> style, end
    expected = torch.tensor([1, 0.8, 0.8, 1, 1.1, 1 / 1.1, 1, 1, 1.3, 1.3, *[1.0] * 67])
    assert job.token_weights is not None
    torch.testing.assert_close(job.token_weights[0], expected)
    hidden = _states(plain)
    torch.testing.assert_close(_states(job)[0], hidden[0] * expected[:, None])  # the toy's mean is noise
    assert torch.equal(_states(job)[1], hidden[1])  # the negative prompt's half
    toy.text_encoder.final_layer_norm.bias.data.fill_(0.3)
    for one, other in zip(_states(job).mean((1, 2)), _states(plain).mean((1, 2)), strict=True):
        torch.testing.assert_close(one, other)


def test_weights_change_the_picture_and_weights_of_one_do_not(toy: ModelBundle, run: Path) -> None:
    prompt = "a photo of a {subject} in the {style}, wearing a hat"
    plain = pixels(portraits(toy, run, count=1, prompt=prompt)[0])
    one = portraits(toy, run, count=1, prompt=prompt.replace("hat", "(hat:1.0)"))[0]
    assert np.array_equal(pixels(one), plain)
    weighted = prompt.replace("{subject}", "({subject}:1.4)")
    alone = portraits(toy, run, count=2, prompt=weighted, pictures_per_call=1)
    together = portraits(toy, run, count=2, prompt=weighted, pictures_per_call=2)
    assert not np.array_equal(pixels(alone[0]), plain)
    assert alone[0].prompt == weighted
    for one, other in zip(alone, together, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_heat_maps_and_notes_of_weighted_prompts(toy: ModelBundle, run: Path) -> None:
    config = with_words(GenerateConfig(prompt="a ({subject}:1.3) in the [{style}], (red hat:0.9), (dog"))
    assert config.attention_words == ("{subject}", "{style}", "red", "hat", "dog")
    job = Job.prepared(toy, _learned(toy, run), config)
    assert job.words == {"{subject}": [2], "{style}": [6], "red": [9], "hat": [10], "dog": [12]}
    assert len(job.warnings) == 1
    assert 'A "(" is never closed' in job.warnings[0]
    assert with_words(GenerateConfig(prompt="a " + "b" * 61 + " hat")).attention_words == ("hat",)
    asked = dataclasses.replace(config, attention_words=("red hat",))
    assert Job.prepared(toy, _learned(toy, run), asked).words == {"red hat": [9, 10]}


PIECES = [
    "(",
    ")",
    "[",
    "]",
    ":1.3)",
    ":9)",
    "\\",
    ":",
    "{subject}",
    "{style}",
    "{",
    "}",
    "hat",
    " ",
    "<subject>",
]
PROMPTS = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["C"]), max_size=9)
).map("".join)


@given(prompt=PROMPTS, negative=PROMPTS)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_printable_prompt_gives_finite_numbers_or_a_problem(
    toy: ModelBundle, run: Path, prompt: str, negative: str
) -> None:
    try:
        config = with_words(GenerateConfig(prompt=prompt, negative_prompt=negative))
        job = Job.prepared(toy, _learned(toy, run), config)
    except Problem:
        return
    embeds = _states(job)
    assert embeds.shape == (2, 77, 32)
    assert embeds.isfinite().all()


def test_a_long_prompt_is_cut_with_a_warning_that_names_the_rest(toy: ModelBundle, run: Path) -> None:
    long = "a photo of a {subject} in the {style}" + " red" * 67 + " sunglasses hat"
    said = portraits(toy, run, count=1, prompt=long)[0].warnings
    # "a photo of a <subject> person in the <style> style" are 10 tokens; with 67 red, 2 words and the two
    # ends they are 81, and 77 are read.
    assert len(said) == 1
    assert "81 of 77" in said[0]
    assert 'cut off: "red red sunglasses hat"' in said[0]


def test_odd_prompts_draw(toy: ModelBundle, run: Path) -> None:
    for prompt in ("日本語 🎨", "\x00\x07 <|endoftext|>", "<script>alert(1)</script>", "\n" * 3 + "a"):
        assert portraits(toy, run, count=1, prompt=prompt)[0].image.size == (RESOLUTION, RESOLUTION)


def test_without_a_run_the_plain_model_draws(toy: ModelBundle) -> None:
    portrait = portraits(toy, None, count=1, prompt="a photo of a cat")[0]
    assert (portrait.identity, portrait.warnings) == (None, ())
    with pytest.raises(Problem, match="only a trained run knows"):
        generate(toy, None, GenerateConfig())


# --- runs ---------------------------------------------------------------------------------------------


def test_a_run_stopped_in_phase_1_has_embeddings_only(toy: ModelBundle, tmp_path: Path) -> None:
    run = toy_run(toy, tmp_path / "run", lora=False)
    assert len(portraits(toy, run, count=1)) == 1


def test_no_run_no_adapter_wrong_model_damaged_files(toy: ModelBundle, run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match="No run in"):
        generate(toy, tmp_path / "nothing", GenerateConfig())
    style = run / "adapter" / "style.safetensors"
    whole = style.read_bytes()
    save_file({"<style>": torch.zeros(7)}, style)
    with pytest.raises(RunProblem, match=r"holds 7 \(<style>\) numbers, but this model's words have 32"):
        generate(toy, run, GenerateConfig())
    style.write_bytes(whole[:20])
    with pytest.raises(RunProblem, match="is damaged"):
        generate(toy, run, GenerateConfig())
    style.unlink()
    with pytest.raises(RunProblem, match=r"has no style\.safetensors yet"):
        generate(toy, run, GenerateConfig())


def test_lora_weights_that_do_not_fit_are_told(toy: ModelBundle, run: Path) -> None:
    file = run / "adapter" / "pytorch_lora_weights.safetensors"
    wrong = {key: torch.zeros(3, 5) for key in load_file(file)}
    save_file(wrong, file)
    snapshot = Snapshot(toy)
    with pytest.raises(RunProblem, match="does not fit this model"):
        portraits(toy, run)
    file.write_bytes(b"damaged")
    with pytest.raises(RunProblem, match="is damaged"):
        portraits(toy, run)
    snapshot.check()


def test_another_model_than_the_runs_is_told(toy: ModelBundle, run: Path) -> None:
    other = copy.copy(toy)
    other.name = "other"
    assert "is used with other" in portraits(other, run, count=1)[0].warnings[0]


def test_the_same_model_by_another_path_is_the_same(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_folder, tmp_path / "models" / "toy")
    (tmp_path / "models" / "link").symlink_to("toy")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    list(start(load("models/toy", device="cpu"), short(ti_steps=1, lora_steps=0), folder))
    assert Run.open(folder).facts().model == str(tmp_path.resolve() / "models" / "toy")
    monkeypatch.chdir(folder)  # as the model card says
    assert portraits(load(Run.open(folder).facts().model, device="cpu"), folder, count=1)[0].warnings == ()
    assert portraits(load("../models/link", device="cpu"), folder, count=1)[0].warnings == ()


# --- identity -----------------------------------------------------------------------------------------


def test_identity_is_the_cosine_to_the_subject(toy: ModelBundle, run: Path) -> None:
    from magicapture_core.faces import embed_face

    portrait = portraits(toy, run, count=1)[0]
    analyser, image = ToyAnalyser(), np.asarray(portrait.image)
    vector = embed_face(analyser, image, analyser.detect(image)[0])
    mean = load_file(run / "identity.safetensors")["mean"].numpy()
    assert portrait.identity == pytest.approx(float(vector @ mean), abs=1e-6)


def test_no_face_no_identity(toy: ModelBundle, run: Path) -> None:
    config = GenerateConfig(count=1, **QUICK)
    assert next(generate(toy, run, config, analyser=ToyAnalyser(blind=True))).identity is None


def test_an_object_is_not_scored(toy: ModelBundle, tmp_path: Path) -> None:
    run = toy_run(toy, tmp_path / "run", embedder=None, kind="object")
    assert portraits(toy, run, count=1)[0].identity is None


def test_another_recogniser_than_the_runs_gives_no_score_but_a_warning(
    toy: ModelBundle, tmp_path: Path
) -> None:
    run = toy_run(toy, tmp_path / "run", embedder="arcface")
    portrait = portraits(toy, run, count=1)[0]
    assert portrait.identity is None
    assert "knows the subject by arcface, and faces are compared by toy" in portrait.warnings[0]


def test_best_first() -> None:
    def portrait(name: str, identity: float | None, nsfw: bool = False) -> Portrait:
        return Portrait(None, name, 0, identity, {}, nsfw=nsfw)  # type: ignore[arg-type]

    given = [portrait("c", None), portrait("d", None, True), portrait("b", -0.2), portrait("a", 0.7)]
    assert "".join(p.prompt for p in best_first(given)) == "abcd"


# --- attention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance_scale", [7.0, 1.0])
def test_heat_maps_of_asked_words(toy: ModelBundle, run: Path, guidance_scale: float) -> None:
    asked = ("{subject}", "{style}", "photo", "sunglasses")
    prompt = "a photo of a {subject} in the {style}, wearing sunglasses"
    plain = portraits(toy, run, count=3, prompt=prompt, guidance_scale=guidance_scale)
    heard = portraits(
        toy,
        run,
        count=3,
        prompt=prompt,
        guidance_scale=guidance_scale,
        attention_words=asked,
        pictures_per_call=2,
    )
    for without, portrait in zip(plain, heard, strict=True):
        assert tuple(portrait.attention) == asked
        for heat in portrait.attention.values():
            assert heat.shape == (8, 8)
            assert heat.dtype == np.float32
            assert (heat.min(), heat.max()) == (0, 1)
        assert np.abs(pixels(without) - pixels(portrait)).max() <= 2  # listening changes nothing but rounding
        assert without.attention == {}
    assert not np.array_equal(heard[0].attention["photo"], heard[0].attention["{subject}"])
    assert not np.array_equal(heard[0].attention["photo"], heard[1].attention["photo"])


def test_heat_maps_do_not_depend_on_the_batch_or_the_negative_prompt_half(
    toy: ModelBundle, run: Path
) -> None:
    words = ("{subject}", "hat")
    prompt = "a {subject} in the {style}, red hat"
    alone = portraits(toy, run, count=3, prompt=prompt, attention_words=words, pictures_per_call=1)
    together = portraits(toy, run, count=3, prompt=prompt, attention_words=words, pictures_per_call=3)
    for one, other in zip(alone, together, strict=True):
        for word in words:
            assert np.allclose(one.attention[word], other.attention[word], atol=1e-3)


def test_a_call_that_ran_out_of_memory_is_made_again_one_by_one_and_still_heard(
    toy: ModelBundle, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"attention_words": ("{subject}",)}
    expected = portraits(toy, run, count=2, pictures_per_call=1, **words)
    last, whole = toy.unet.conv_out.forward, 2 * 2  # two pictures, with and without the prompt

    def too_large(hidden: torch.Tensor) -> torch.Tensor:
        if len(hidden) == whole:
            raise torch.OutOfMemoryError
        return last(hidden)  # type: ignore[no-any-return]

    monkeypatch.setattr(toy.unet.conv_out, "forward", too_large)
    found = portraits(toy, run, count=2, pictures_per_call=2, **words)
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(pixels(one), pixels(other))
        assert np.array_equal(one.attention["{subject}"], other.attention["{subject}"])


def test_a_word_of_several_tokens_is_averaged_over_them(toy: ModelBundle, run: Path) -> None:
    """ "qz" is no word of the toy vocabulary: its two letters are two tokens."""
    prompt = "a {subject} in the {style} qz"
    heat = portraits(toy, run, count=1, prompt=prompt, attention_words=("qz",))[0].attention
    assert heat["qz"].shape == (8, 8)


def test_words_that_are_not_in_the_prompt_are_refused(toy: ModelBundle, run: Path) -> None:
    with pytest.raises(Problem, match="attention_words has 'dog', which is not in the prompt"):
        generate(toy, run, GenerateConfig(attention_words=("dog",)))


def test_asked_words_that_are_cut_off_have_no_map(toy: ModelBundle, run: Path) -> None:
    """The wizard asks for maps of all words; the tokens of "hat" are the 92nd, and 77 are read."""
    config = with_words(
        GenerateConfig(prompt="{subject} in the {style}, " + "red " * 80 + "hat", count=1, **QUICK)
    )
    assert config.attention_words == ("{subject}", "{style}", "red", "hat")
    portrait = next(generate(toy, run, config, analyser=ToyAnalyser()))
    assert tuple(portrait.attention) == ("{subject}", "{style}", "red")
    assert len(portrait.warnings) == 1
    assert "This is cut off: " in portrait.warnings[0]
    with pytest.raises(Problem, match="attention_words has 'blue'"):
        generate(toy, run, dataclasses.replace(config, attention_words=("blue",)))


@pytest.mark.parametrize(
    ("prompt", "word", "letters"),
    [
        ("a hat, 'trump", "trump", "trump"),  # the tokenizer splits off 't
        ("a cafe\u0301 in <subject>", "subject", "<subject>"),
        ("RED  hat", "red hat", "red hat"),
        ("a hatred hat", "hat", "hat"),
        ("2girls2", "2girls2", "2girls2"),
    ],
)
def test_words_are_found_by_their_letters(
    toy: ModelBundle, run: Path, prompt: str, word: str, letters: str
) -> None:
    job = Job.prepared(toy, _learned(toy, run), GenerateConfig(prompt=prompt, attention_words=(word,)))
    tokenizer, _ = with_placeholders(toy.tokenizer)
    read = tokenizer.decode(job.input_ids[0, job.words[word]]).replace("</w>", " ").split()
    assert " ".join(read).replace(" ", "") == letters.replace(" ", "")


def test_a_word_that_the_model_does_not_read_as_one_is_told(toy: ModelBundle, run: Path) -> None:
    """ "s" becomes part of "persons" once {subject} is written out."""
    config = with_words(GenerateConfig(prompt="{subject}s in the {style}"))
    assert config.attention_words == ("{subject}", "s", "{style}")
    job = Job.prepared(toy, _learned(toy, run), config)
    assert tuple(job.words) == ("{subject}", "{style}")
    assert job.warnings == ("No heat map of s: the model does not read it as a word.",)


@given(
    words=st.lists(st.text(max_size=12) | st.sampled_from(["{subject}", "{style}", "red", "'t", "e\u0301"]))
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_prompt_fails_for_words_that_the_wizard_takes_from_it(
    toy: ModelBundle, run: Path, words: list[str]
) -> None:
    config = with_words(GenerateConfig(prompt="a " + "".join(words)))
    said = ""
    try:
        Job.prepared(toy, _learned(toy, run), config)
    except Problem as problem:
        said = str(problem)
    assert "attention_words" not in said


def test_heat_maps_at_other_sizes(toy: ModelBundle, run: Path) -> None:
    larger = portraits(toy, run, count=1, width=128, height=128, attention_words=("{style}",))[0]
    assert larger.attention["{style}"].shape == (16, 16)
    wide = portraits(toy, run, count=1, width=128, height=64, attention_words=("{style}",))[0]
    assert wide.attention == {}
    assert "only made of square pictures" in wide.warnings[0]


# --- safety and files ---------------------------------------------------------------------------------


def test_the_safety_checker_runs_where_the_model_has_one(tmp_path: Path) -> None:
    models = load(save_toy(tmp_path / "safe", safety=True), device="cpu")
    assert models.safety_checker is not None
    run = toy_run(models, tmp_path / "run")
    portrait = portraits(models, run, count=1)[0]
    assert portrait.nsfw
    assert portrait.identity is None
    assert pixels(portrait).max() == 0
    assert "safety checker blacked" in portrait.warnings[-1]


def test_a_saved_portrait_says_how_it_was_made(toy: ModelBundle, run: Path, tmp_path: Path) -> None:
    portrait = portraits(toy, run, count=1, negative_prompt="blue")[0]
    portrait.save(tmp_path / "p.png")
    said = read_provenance(tmp_path / "p.png")
    assert said.generated
    assert (said.prompt, said.seed) == ("a photo of a {subject} in the {style}", 5)
    assert said.settings["steps"] == 2
    assert said.settings["negative_prompt"] == "blue"
    assert said.settings["model"] == Path(toy.name).name  # no folder of this machine
    assert str(Path(toy.name).parent) not in (tmp_path / "p.png").read_bytes().decode("latin-1")
    portrait.save(tmp_path / "private.jpg", private=True)
    private = read_provenance(tmp_path / "private.jpg")
    assert private.generated
    assert private.prompt is None
    assert "negative_prompt" not in private.settings


def test_pictures_near_an_earlier_one(toy: ModelBundle, run: Path) -> None:
    first = portraits(toy, run, count=1, seed=5)[0]
    same = portraits(toy, run, count=1, seed=9, near=(5,), variation=0.0)[0]
    assert np.array_equal(np.asarray(same.image), np.asarray(first.image))
    near, again = (portraits(toy, run, count=2, seed=9, near=(5,), pictures_per_call=n) for n in (1, 2))
    for one, other in zip(near, again, strict=True):
        assert (
            np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).max() <= 2
        )  # rounding of a batch
    assert near[0].settings["near"] == [5]
    assert "near" not in first.settings

    def far(picture: Portrait) -> float:
        return float(np.abs(np.asarray(picture.image, float) - np.asarray(first.image, float)).mean())

    others = portraits(toy, run, count=2, seed=9)
    assert 0 < max(map(far, near)) < min(map(far, others))


def test_a_picture_of_which_nothing_is_kept_is_its_own_seed_s(toy: ModelBundle, run: Path) -> None:
    own = portraits(toy, run, count=1, seed=9, steps=4)[0]
    for near in ((5,), (5, 6)):
        other = portraits(toy, run, count=1, seed=9, steps=4, near=near, variation=1.0)[0]
        assert np.array_equal(np.asarray(other.image), np.asarray(own.image))


def test_the_more_variation_the_fewer_steps_keep_the_earlier_noise() -> None:
    from magicapture_core.generation.noise import next_seeds

    changes = [next(iter(next_seeds(9, (5,), variation / 20, 24))) for variation in range(21)]
    assert changes[0] == 24
    assert changes[-1] == 0
    assert changes == sorted(changes, reverse=True)


def test_memory_that_ends_after_a_picture_gives_no_picture_twice(
    toy: ModelBundle, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magicapture_core.generation import loop

    calls = 0
    enlarged = loop._enlarged

    def greedy(job: Any, picture: Image.Image) -> Image.Image:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return enlarged(job, picture)

    monkeypatch.setattr(loop, "_enlarged", greedy)
    made = portraits(toy, run, count=3, seed=5, pictures_per_call=3)
    assert [portrait.seed for portrait in made] == [5, 6, 7]


def test_noise_near_another_is_standard_normal_and_as_near_at_every_length() -> None:
    from magicapture_core.generation.noise import noise_near

    plain = torch.randn((1, 4, 128, 128), generator=torch.Generator().manual_seed(5))
    for near in ((5,), (5, 6), (5, 6, 7)):
        noise, generator = noise_near(9, near, 0.5, (4, 128, 128), torch.float32)
        assert noise.std() == pytest.approx(1, abs=0.01)
        cosine = float((noise * plain).mean() / noise.std() / plain.std())
        assert cosine == pytest.approx(0.75 ** (len(near) / 2), abs=0.02)
        after = torch.Generator().manual_seed(5)
        torch.randn((1, 4, 128, 128), generator=after)
        assert torch.equal(generator.get_state(), after.get_state())


def test_words_that_the_model_does_not_know_are_told(toy: ModelBundle, run: Path) -> None:
    toy.vocabulary = frozenset({"photo", "red", "close", "up"})
    said = portraits(
        toy, run, count=1, seed=5, prompt="a close-up photo of a {subject} in the {style}, red Hat"
    )[0]
    assert [each for each in said.warnings if "not know" in each] == ["The model does not know: Hat."]
    toy.vocabulary = frozenset()
    assert not portraits(toy, run, count=1, seed=5, prompt="{subject} {style} qwertz")[0].warnings


def test_words_that_what_was_learned_would_hide_lessen_its_strength(toy: ModelBundle, run: Path) -> None:
    toy.strength_with = {"red": 0.4}
    asked = {"count": 1, "seed": 5, "prompt": "a photo of a {subject}, (Red:1.0) hat"}
    less = portraits(toy, run, adapter_scale=0.5, **asked)[0]
    assert (less.settings["adapter_scale"], less.settings["adapter_scale_used"]) == (0.5, 0.2)
    assert [each for each in less.warnings if "With “Red”" in each and "0.2 instead of 0.5" in each]
    others = portraits(toy, run, adapter_scale=0.5, **{**asked, "prompt": "a {subject}, a hat"})[0]
    assert "adapter_scale_used" not in others.settings
    toy.strength_with = {}
    plain = portraits(toy, run, adapter_scale=0.2, **asked)[0]
    assert np.array_equal(np.asarray(less.image), np.asarray(plain.image))


def test_the_sampler_s_noise_leaves_an_earlier_picture_step_by_step() -> None:
    from magicapture_core.generation.noise import next_seeds

    assert next_seeds(9, (5,), 0.5, 24) == {3: 9}  # an eighth of the steps
    assert next_seeds(9, (5,), 0.0, 24) == {24: 9}  # never
    assert next_seeds(9, (5, 6), 0.5, 24) == {3: 6, 6: 9}  # of the remaining 21 steps an eighth
    assert next_seeds(9, (), 0.5, 24) == {}
