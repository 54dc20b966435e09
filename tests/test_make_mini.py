"""The making of the mini model (tools/mini): what can go wrong without being seen, and all of it at toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from tools.mini import (
    captions,
    faces,
    labeller,
    labels,
    latents,
    measure,
    stage,
    store,
    train_decoder,
    train_unet,
    train_upscaler,
    train_vae,
    training,
    variants,
)
from tools.mini.cleaning import cleaning
from tools.mini.clock import PLAN, RunClock
from tools.mini.latents import Latents
from tools.mini.muon import Muon, orthogonal
from tools.mini.networks import SCALING_FACTOR, build_vae, decoded, make_denoiser, posterior_mean
from tools.mini.perceptual import Perceptual
from tools.mini.settings import SIDE, TINY, Settings

ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "assets" / "mini" / "tokenizer"
SMALL = replace(TINY, vae_channels=(8, 8, 8, 8, 8), unet_batch=3, decoder_batch=2)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 with random weights."""
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(mobilenet_v2().state_dict(), path)
    return path


def settings_in(work: Path, mobilenet: Path = Path("none"), **changed: Any) -> Settings:
    return Settings(
        work=work, generator=Path("none"), mobilenet=mobilenet, tokenizer=TOKENIZER, tiny=True, **changed
    )


def random_latents(count: int, seed: int = 0) -> Latents:
    """As many rows of everything that the UNet's training reads."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws)

    ids = torch.randint(0, 1400, (count, 2, 77), generator=draws)
    return Latents(
        normal(2, count, 16, 16, 16).half(), normal(2, count, 38), torch.zeros(38), torch.ones(38), np.arange(count),
        np.arange(count), normal(count, 128), normal(count, 128), ids,
    )  # fmt: skip


# --- Muon -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20)])
def test_updates_are_made_orthogonal(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ made @ right.mT  # in the matrices' own directions it is diagonal, with ones about
    diagonal = torch.diagonal(turned, dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    assert (turned - torch.diag_embed(diagonal)).abs().max() < 1e-3


def test_inner_weights_step_by_the_orthogonal_update_and_the_others_by_adam() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"inner": nn.Linear(6, 4), "conv_in": nn.Linear(6, 4)})
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = Muon(network.named_parameters(), 0.1, 0.01, weight_decay=0)
    assert list(optimizer.momenta) == ["inner.weight"]
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    gradient = network["inner"].weight.grad.clone()
    optimizer.step(0.5)
    moved = before["inner.weight"] - network["inner"].weight
    wanted = orthogonal(gradient[None])[0] * 0.1 * 0.5 * 0.2 * 6**0.5
    assert torch.allclose(moved, wanted, atol=1e-5)
    # Adam's first step is its rate, whatever the gradient
    assert torch.allclose(
        (network["conv_in"].bias - before["conv_in.bias"]).abs(), torch.tensor(0.005), rtol=1e-3
    )


def test_steps_too_small_for_bfloat16_still_add_up() -> None:
    layer = nn.Linear(8, 8)
    nn.init.ones_(layer.weight)
    optimizer = Muon(layer.named_parameters(), 1e-4, 1e-4, weight_decay=0)
    layer.to(torch.bfloat16)
    for _ in range(400):
        layer.weight.grad = torch.eye(8, dtype=torch.bfloat16)
        optimizer.step(1.0)
    assert layer.weight.diagonal().float().max() < 0.99
    assert optimizer.averages["weight"].diagonal().max() < 1


def test_gradients_that_are_not_finite_change_nothing() -> None:
    layer = nn.Linear(4, 4)
    optimizer = Muon(layer.named_parameters(), 0.1, 0.1, weight_decay=0)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.full((4, 4), torch.nan)
    optimizer.step(1.0)
    assert torch.equal(layer.weight, before)


# --- latents ----------------------------------------------------------------------------------------


def test_baked_latents_have_mean_0_and_the_spread_of_sd_and_decode_to_the_same() -> None:
    torch.manual_seed(0)
    vae = build_vae(SMALL)
    pictures = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
    raw, looks = latents.encode(vae, pictures, np.arange(6))
    assert raw.shape == (2, 6, 16, 16, 16)
    assert looks.shape == (2, 6, 38)
    mean, spread = latents.statistics(raw)
    pixels = torch.from_numpy(pictures[:2]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = decoded(vae, posterior_mean(vae, pixels))
    vae.load_state_dict(latents.bake(vae.state_dict(), mean, spread))
    baked, _ = latents.encode(vae, pictures, np.arange(6))
    scaled_mean, scaled_spread = latents.statistics(baked * SCALING_FACTOR)
    assert scaled_mean.abs().max() < 0.02
    assert (scaled_spread - 1).abs().max() < 0.02
    with torch.no_grad():
        made = decoded(vae, vae.encode(pixels).latent_dist.mean)
    assert torch.allclose(made, wanted, atol=1e-4)
    # what diffusers samples is as sure of itself as before
    log_variance = vae.encode(pixels).latent_dist.logvar
    assert torch.allclose(log_variance.mean((0, 2, 3)), -9.2 - 2 * (spread * SCALING_FACTOR).log(), atol=1e-3)


# --- going on ---------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill_at(count: int) -> Any:
    """A callback that lets the training be killed when it has saved so often."""
    seen = []

    def saved(*_: object) -> None:
        seen.append(1)
        if len(seen) == count:
            raise Killed

    return saved


def unet_after(work: Path, tokenizer: CLIPTokenizer, killed_at: int | None = None) -> dict[str, torch.Tensor]:
    """Averaged weights after five steps, killed on the way after so many of them if wanted."""
    settings = settings_in(work)
    work.mkdir()

    def go(saved: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        denoiser = make_denoiser(settings, tokenizer)
        optimizer = Muon(denoiser.named_parameters(), 1e-3, 5e-4, average=0.99)
        training = train_unet.UnetTraining(
            denoiser, optimizer, random_latents(7), tokenizer, settings, denoiser.predict
        )
        parts = {"optimizer": optimizer, "levels": training.levels}
        stage.train(work / "unet.pt", parts, training.step, seconds=1e6, steps=5, save_every=0, saved=saved)
        return optimizer.averages

    if killed_at:
        with pytest.raises(Killed):
            go(kill_at(killed_at))
    return go(None)


def test_an_autoencoder_whose_pictures_are_not_encoded_yet_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between vae-baked.pt and latents.npz, the next start would encode with random weights."""
    vae, trained = build_vae(SMALL), []
    networks: Any = SimpleNamespace(
        vae=vae, vae_optimizer=Muon(vae.named_parameters(), 1e-3, 1e-3), encode=None, decode=None
    )
    monkeypatch.setattr(train_vae.Stock, "open", classmethod(lambda *_: None))
    monkeypatch.setattr(train_vae, "train", lambda *_, **__: trained.append(1))

    def start() -> int:
        none: Any = None
        training._vae_weights(settings_in(tmp_path), none, networks, none)
        return len(trained)

    (tmp_path / latents.BAKED).touch()
    assert start() == 1
    (tmp_path / latents.LATENTS).touch()
    assert start() == 1


def test_tensors_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    store.save_tensors(path, {"one": torch.ones(2)})
    real = torch.save

    def killed(content: Any, file: Path) -> None:
        real(content, file)
        raise Killed

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(Killed):
        store.save_tensors(path, {"two": torch.ones(2)})
    assert list(torch.load(path, weights_only=True)) == ["one"]


@pytest.mark.parametrize(
    ("stage_of", "needed"), [("faces", "generator"), ("train", "mobilenet"), ("export", "mobilenet")]
)
def test_what_the_upscaler_s_tool_needs_is_said_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage_of: str,
    needed: str,
) -> None:
    network = train_upscaler.build_upscaler().state_dict()
    torch.save({"average": network}, tmp_path / "upscaler.pt")
    before = sorted(tmp_path.iterdir())
    command = ["train_upscaler", stage_of, "--work", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        train_upscaler.main()
    assert f"{stage_of} needs --{needed}" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.long
def test_a_killed_unet_training_goes_on_to_the_same_weights(tmp_path: Path, tokenizer: CLIPTokenizer) -> None:
    straight = unet_after(tmp_path / "a", tokenizer)
    resumed = unet_after(tmp_path / "b", tokenizer, killed_at=2)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.long
def test_a_killed_decoder_training_goes_on_to_the_same_weights(
    tmp_path: Path, mobilenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "save_every", 0.0)
    perceptual, pictures = (
        Perceptual(mobilenet),
        np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8),
    )

    def after(work: Path, killed_at: int | None) -> dict[str, torch.Tensor]:
        work.mkdir()
        np.save(work / "pictures.npy", pictures)
        np.save(work / "heldout.npy", pictures[:1])
        settings, weights = settings_in(work, minutes=1e6), {}
        ends = [kill_at(killed_at), None] if killed_at else [None]
        for saved in ends:
            torch.manual_seed(0)
            vae = build_vae(settings.sizes)
            weights = {name: value.clone() for name, value in vae.state_dict().items()}
            clock = RunClock(work, settings.minutes)
            try:
                train_decoder.train(
                    settings, clock, vae, weights, random_latents(4), perceptual, saved or (lambda _: None)
                )
            except Killed:
                continue
            weights = vae.state_dict()
        return weights

    straight = after(tmp_path / "a", None)
    resumed = after(tmp_path / "b", 2)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    encoder = [name for name in straight if name.startswith(("encoder", "quant"))]
    torch.manual_seed(0)
    first = build_vae(TINY).state_dict()
    assert all(torch.equal(straight[name], first[name]) for name in encoder)
    assert not torch.equal(straight["decoder.conv_in.weight"], first["decoder.conv_in.weight"])


def test_what_else_uses_the_gpu_does_not_decide_which_function_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process needs more of it from call to call: the slower function must not win by being tried first."""
    now = calls = 0.0

    def taking(seconds: float) -> Any:
        def call(value: torch.Tensor) -> torch.Tensor:
            nonlocal now, calls
            calls += 1
            now += seconds * (1 + 0.01 * calls)
            return value * 2

        return call

    monkeypatch.setattr(stage.time, "monotonic", lambda: now)
    slow, fast = stage.turns((taking(1.0), taking(0.9)), lambda: (torch.ones(2, requires_grad=True),))
    assert 0.85 < fast / slow < 0.95


def test_batches_see_every_row_once_an_epoch_wherever_they_begin() -> None:
    batches = stage.Batches(10, 3, seed=0)
    epoch = np.concatenate([batches(step) for step in (3, 4, 5)])
    assert len(set(epoch.tolist())) == 9
    assert np.array_equal(stage.Batches(10, 3, seed=0)(5), epoch[6:])


def test_a_stage_that_begins_late_leaves_the_next_ones_their_share(tmp_path: Path) -> None:
    def clock_at(seconds: float, folder: str) -> RunClock:
        import time

        return RunClock(tmp_path / folder, 10, began=time.time() - seconds)

    begin, end = PLAN["vae"]
    assert clock_at(begin * 600, "on time").until("vae") == pytest.approx(end * 600, abs=1)
    late = clock_at(300, "late")
    assert late.left("vae") == pytest.approx(300 * (end - begin) / (1 - begin), abs=1)
    # said once, it holds, for whoever asks
    assert clock_at(310, "late").until("vae") == late.until("vae")
    assert late.until("unet") == 600
    late.keep()
    assert RunClock(tmp_path / "late", 10).seconds == pytest.approx(300, abs=1)


def test_a_work_folder_keeps_to_its_settings(tmp_path: Path) -> None:
    settings_in(tmp_path).keep()
    settings_in(tmp_path, minutes=3.0).keep()
    with pytest.raises(SystemExit, match="pairs True"):
        settings_in(tmp_path, pairs=False).keep()


# --- labels -----------------------------------------------------------------------------------------


def a_face() -> np.ndarray:
    """The 18 numbers of a face that looks to the left."""
    points = [(80, 100), (140, 104), (100, 140), (88, 170), (130, 172)]
    return np.array([*np.array(points).reshape(-1), 60, 40, 170, 200, 30, 0.2, 0.7, 0.1], np.float32)


def test_labels_of_a_mirrored_face_stay_on_the_face() -> None:
    numbers = torch.from_numpy(a_face())[None]
    picture = torch.zeros(SIDE, SIDE)
    for place, (x, y) in enumerate(numbers[0, :10].reshape(5, 2).int().tolist(), start=1):
        picture[y, x] = place
    mirror, flipped = picture.flip(-1), labeller.mirrored(numbers)
    points = flipped[0, :10].reshape(5, 2).int().tolist()
    # the eye on the picture's left is now the one that was on its right, and so are the mouth's corners
    assert [int(mirror[y, x]) for x, y in points] == [2, 1, 3, 5, 4]
    left, top, right, bottom = flipped[0, 10:14].tolist()
    assert (left, top, right, bottom) == (255 - 170, 40, 255 - 60, 200)
    assert torch.equal(flipped[0, 14:], numbers[0, 14:])
    assert torch.equal(labeller.mirrored(flipped), numbers)
    assert torch.allclose(labeller.unscaled(labeller.scaled(numbers)), numbers, atol=1e-4)


def test_the_labeller_learns_and_what_nobody_knows_does_not_count() -> None:
    torch.manual_seed(0)
    network = labeller.Labeller((8, 8, 8, 16, 16, 16))
    numbers = torch.from_numpy(np.stack([a_face()] * 4))
    numbers[:, 14:16] = torch.nan
    teaching = labeller.Teaching(network, torch.rand(4, 3, 128, 128), torch.ones(4, 128, 128), numbers, 4, 0)
    losses = [teaching.step(step, 0.0)["loss"].item() for step in range(8)]
    assert losses[-1] < losses[0]
    assert network.numbers[-1].bias.grad[14:16].abs().max() == 0
    assert network.numbers[-1].bias.grad[16:].abs().min() > 0
    masks, told = labeller.label(network, torch.rand(2, 3, 128, 128))
    assert masks.shape == (2, 128, 128)
    assert told.shape == (2, 18)


def test_words_are_made_of_the_other_picture_only_where_it_is_alike() -> None:
    drawn = faces.new_faces(6, pairs=True)
    assert drawn.partners().tolist() == [1, 0, 3, 2, 5, 4]
    assert (drawn.seed[0::2] == drawn.seed[1::2]).all()
    assert len(set(drawn.pose_seed.tolist())) == len(set(drawn.fine_seed.tolist())) == 6
    people = np.eye(6, 128, dtype=np.float32)
    people[1] = people[0]
    assert labels.partners(drawn, people).tolist() == [1, 0, 2, 3, 4, 5]
    assert labels.partners(drawn, people[:1]).tolist() == [0]  # the other one was not made
    assert faces.new_faces(4, pairs=False).partners().tolist() == [0, 1, 2, 3]


def test_who_is_held_out_does_not_depend_on_the_photos_that_are_there(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"file": f"{number}.jpg"}) + "\n" for number in range(1000)))
    for number in range(1000):
        (tmp_path / f"{number}.jpg").touch()
    before = {row["file"]: row["held_out"] for row in measure.read_manifest(manifest, tmp_path)}
    assert sum(before.values()) == 500
    for number in range(0, 1000, 3):
        (tmp_path / f"{number}.jpg").unlink()
    after = {row["file"]: row["held_out"] for row in measure.read_manifest(manifest, tmp_path)}
    assert len(after) == 666
    assert all(before[file] == held for file, held in after.items())


def test_cleaning_brings_spoiled_faces_nearer_to_what_they_were() -> None:
    draws = torch.Generator().manual_seed(0)
    people = torch.nn.functional.normalize(torch.randn(4000, 128, generator=draws), dim=1)
    dull = torch.linspace(0.3, 1, 128)  # what a bad photo loses of each number
    spoiled = people * dull + 0.03 + 0.01 * torch.randn(4000, 128, generator=draws)
    weight, bias = cleaning(spoiled[:3000], people[:3000])
    cleaned = spoiled[3000:] @ weight.T + bias
    alike = torch.cosine_similarity(cleaned, people[3000:]).mean()
    assert alike > 0.95
    assert alike > torch.cosine_similarity(spoiled[3000:], people[3000:]).mean() + 0.03


# --- pictures and captions --------------------------------------------------------------------------


def test_points_stay_on_the_face_when_a_photo_is_turned() -> None:
    row = {"landmarks": a_face()[:10].reshape(5, 2).tolist(), "box": a_face()[10:14].tolist()}
    pixels, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    x, y = (int(value) for value in row["landmarks"][2])
    pixels[y - 3 : y + 4, x - 3 : x + 4] = 255
    mask[y - 3 : y + 4, x - 3 : x + 4] = 255
    scales = []
    for seed in range(30):
        turned, moved, told, scale = variants.turned(pixels, mask, row, np.random.default_rng(seed))
        x, y = (round(value) for value in told["landmarks"][2])
        near = turned[y - 9 : y + 10, x - 9 : x + 10, 0] > 128
        rows, columns = np.nonzero(near)
        off = columns.mean() - 9 + x - told["landmarks"][2][0], rows.mean() - 9 + y - told["landmarks"][2][1]
        assert np.abs(off).max() < 0.7
        assert np.array_equal(moved > 128, turned[..., 0] > 128)
        eyes = np.subtract(told["landmarks"][1], told["landmarks"][0])
        assert np.linalg.norm(eyes) == pytest.approx(scale * np.hypot(60, 4), rel=1e-4)
        assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]) - np.arctan2(4, 60))) < 25.01
        scales.append(scale)
    assert 0.6 <= min(scales) < 0.8
    assert 1.3 < max(scales) <= 1.6


def test_a_photo_whose_head_touches_its_edges_is_turned_within_them() -> None:
    row = {"landmarks": a_face()[:10].reshape(5, 2).tolist(), "box": a_face()[10:14].tolist()}
    pixels, mask = np.full((SIDE, SIDE, 3), 200, np.uint8), np.full((SIDE, SIDE), 255, np.uint8)
    pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:] = 0, 0, 0, 0  # a thin frame, which may be cut off
    for seed in range(30):
        turned, _, _, scale = variants.turned(pixels, mask, row, np.random.default_rng(seed))
        assert 1 <= scale <= 1.6
        assert turned[6:-6, 6:-6].min() > 150


def test_gender_and_age_are_said_beside_the_mark_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    attributes = {"who": "woman", "age": "old"}
    texts = [captions.caption(attributes, rng) for _ in range(2000)]
    marked = [text for text in texts if captions.PERSON_MARK in text]
    assert 0.45 < np.mean(["woman" in text for text in marked]) < 0.55
    assert 0.45 < np.mean(["old" in text for text in marked]) < 0.55
    assert 0.45 < len(marked) / len(texts) < 0.55


# --- noise ------------------------------------------------------------------------------------------


def test_all_noise_levels_come_to_count_alike() -> None:
    levels = train_unet.EvenNoise()
    timesteps = torch.arange(0, 1000, 10)
    errors = 1 / (1 + timesteps.float() // 50)  # the same in each of the 20 levels
    for _ in range(200):
        weights = levels.weight(timesteps, errors)
    counted = weights * errors
    assert counted.std() / counted.mean() < 0.01
    assert weights.mean() == pytest.approx(1, abs=1e-4)


def test_a_level_without_a_picture_keeps_its_error() -> None:
    levels = train_unet.EvenNoise()
    before = levels.errors.clone()
    levels.weight(torch.tensor([0, 10]), torch.tensor([0.5, 0.7]))
    assert levels.errors[0] == pytest.approx(before[0] + 0.05 * (0.6 - before[0]))
    assert torch.equal(levels.errors[1:], before[1:])


def test_marks_are_replaced_by_faces_and_looks(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = make_denoiser(settings_in(tmp_path), tokenizer)
    ids = tokenizer(
        ["a photo of a ~ person", "a photo of a person"], padding="max_length", return_tensors="pt"
    ).input_ids
    people, looks = torch.randn(2, 128), torch.randn(2, 38)
    states = denoiser.encode(ids, people, looks)
    other = denoiser.encode(ids, people + 1, looks)
    assert not torch.allclose(states[0], other[0])
    assert torch.equal(states[1], other[1])
    assert set(denoiser.words()) == {"person_weight", "person_bias", "style_weight", "style_bias"}


# --- all of it --------------------------------------------------------------------------------------


def prepared_work(work: Path) -> Path:
    """A work folder whose faces are the sample people's photos, so that no generator is needed; its --generator."""
    import cv2

    paths = sorted((ROOT / "assets" / "people").glob("*/*.jpg"))[: TINY.faces]
    pictures = np.stack(
        [cv2.resize(measure.read_rgb(path), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for path in paths]
    )
    work.mkdir(parents=True)
    drawn = faces.new_faces(len(pictures), pairs=True)
    np.savez(work / faces.DRAWN, **vars(drawn))
    np.save(work / faces.FACES, pictures)
    np.save(work / faces.HELD_OUT, pictures[:2])
    for name in (faces.COUNT, faces.READY):
        (work / name).write_text(str(len(pictures)))
    generator = work / "generator"
    generator.mkdir()
    (generator / "SynthesisNetwork.xml").touch()  # it is looked for, but not opened
    return generator


def run_make(work: Path, generator: Path, mobilenet: Path, *more: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tools.mini.make", "--tiny", "--device", "cpu", "--work", work, "--generator", generator,
         "--mobilenet", mobilenet, *more],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_command_makes_a_model_that_opens(tmp_path: Path, mobilenet: Path) -> None:
    from magicapture_core import GenerateConfig, generate, load

    first = tmp_path / "first"
    generator = prepared_work(first)
    said = run_make(first, generator, mobilenet)
    assert "held-out faces" in said
    for file in (first / "model").rglob("*.safetensors"):
        kinds = {str(tensor.dtype) for tensor in load_file(file).values()}
        assert "torch.float16" in kinds, file
        assert file.name == "words.safetensors" or kinds == {"torch.float16"}, file
    models = load(first / "model")
    assert models.words is not None
    assert models.words.face_directions.shape == (128, 128)
    config = GenerateConfig(prompt="a photo of a person", count=1, steps=2, seed=0)
    portrait = next(iter(generate(models, None, config)))
    assert min(portrait.image.size) >= SIDE
    # started again it has nothing to do
    before = torch.load(first / "unet.pt", weights_only=True)
    run_make(first, generator, mobilenet, "--minutes", "11")
    after = torch.load(first / "unet.pt", weights_only=True)
    assert before["step"] == after["step"] == TINY.unet_steps
    masters = [state["optimizer"]["masters"] for state in (before, after)]
    assert all(torch.equal(masters[0][name], masters[1][name]) for name in masters[0])

    second = tmp_path / "second"
    run_make(second, prepared_work(second), mobilenet, "--turned", "--start-from", str(first / "model"))
    old, new = (torch.load(work / "vae-baked.pt", weights_only=True) for work in (first, second))
    assert torch.allclose(old["encoder.conv_in.weight"], new["encoder.conv_in.weight"], atol=1e-3)
    assert load(second / "model").words is not None


@pytest.mark.slow
def test_faces_come_from_seeds_and_pairs_show_one_person() -> None:
    from magicapture_core.faces import choose_analyser, embed_face
    from tools.people.generator import FaceGenerator

    folder = Path(os.environ.get("MAGICAPTURE_GENERATOR", ROOT / ".training/random_face/random_face/data"))
    if not (folder / "SynthesisNetwork.xml").exists():
        pytest.skip(
            "needs random-face's networks: set MAGICAPTURE_GENERATOR to random_face/data of its wheel"
        )
    generator, drawn = FaceGenerator(folder), faces.new_faces(4, pairs=True)
    made = faces.made(generator, faces.styles_of(generator, drawn, np.arange(4)))
    assert (
        np.abs(
            made[:1].astype(int) - faces.made(generator, faces.styles_of(generator, drawn, np.arange(1)))
        ).max()
        <= 1
    )
    analyser = choose_analyser("bundled")[0]
    people = np.stack([embed_face(analyser, pixels, analyser.detect(pixels)[0]) for pixels in made])
    alike = people @ people.T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max()


def test_rare_skin_tones_get_as_many_pictures_as_common_ones_as_far_as_they_can() -> None:
    from tools.mini.pictures import OFTENEST, balanced

    numbers = np.arange(1000, 2000)
    tones = np.where(np.arange(1000) < 900, 60.0, np.where(np.arange(1000) < 990, 35.0, -40.0))
    chosen = balanced(numbers, tones, 600, np.random.default_rng(0))
    assert len(chosen) == 600
    counts = {name: int(((chosen >= low) & (chosen < high)).sum())
              for name, low, high in (("light", 1000, 1900), ("medium", 1900, 1990), ("dark", 1990, 2000))}  # fmt: skip
    assert counts == {"dark": 10 * OFTENEST, "medium": 280, "light": 280}
    _, often = np.unique(chosen, return_counts=True)
    assert often.max() == OFTENEST
    assert len(balanced(numbers, tones, 10**6, np.random.default_rng(0))) == 1000
