"""Loading: every layout, every kind of checkpoint, every bad input."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from toy import RESOLUTION, same_weights, save_toy

from magicapture_core import models
from magicapture_core.config import Scheduler
from magicapture_core.models import files
from magicapture_core.models.hub import from_hub
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import StoppedError


@pytest.fixture
def spoiled(toy_folder: Path, tmp_path: Path) -> Path:
    """A copy of the toy folder to spoil."""
    return Path(shutil.copytree(toy_folder, tmp_path / "spoiled"))


def test_a_folder_gives_frozen_modules_of_the_real_classes(toy: models.ModelBundle, toy_folder: Path) -> None:
    assert (toy.resolution, toy.vae_scale_factor, toy.prediction_type) == (RESOLUTION, 4, "epsilon")
    assert toy.source == str(toy_folder)
    assert isinstance(toy.noise_scheduler, DDPMScheduler)
    assert toy.noise_scheduler.config.clip_sample is False
    assert toy.safety_checker is None
    assert (toy.schedules, toy.generate_defaults) == ({}, {})
    for module in (toy.unet, toy.vae, toy.text_encoder):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_device_can_be_chosen(toy_folder: Path, dtype: torch.dtype) -> None:
    bundle = models.load(toy_folder, device="cpu", dtype=dtype)
    assert bundle.dtype == dtype
    assert bundle.device == torch.device("cpu")
    for module in (bundle.unet, bundle.vae, bundle.text_encoder):
        assert {p.dtype for p in module.parameters()} == {dtype}


def test_hardware_chooses_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert models.best_device().type == "cuda"
    assert models.best_dtype(torch.device("cuda")) == torch.bfloat16
    # A T4 emulates it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert models.best_dtype(torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert models.best_device().type == "mps"
    assert models.best_dtype(torch.device("mps")) == torch.float32
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert models.best_device().type == "cpu"


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_a_cpu_with_bfloat16_uses_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert models.best_dtype(torch.device("cpu")) == dtype


def test_velocity_prediction_is_read_from_the_scheduler(tmp_path: Path) -> None:
    bundle = models.load(save_toy(tmp_path / "v", prediction_type="v_prediction"), device="cpu")
    assert bundle.prediction_type == "v_prediction"
    assert bundle.pipeline("ddim").scheduler.config.prediction_type == "v_prediction"


def test_other_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="epsilon or v_prediction, got 'sample'"):
        models.load(save_toy(tmp_path / "x0", prediction_type="sample"), device="cpu")


def test_schedules_and_generation_defaults_come_from_the_folder(tmp_path: Path) -> None:
    own = {"schedules": {"quick": {"ti_steps": 3}}, "generate": {"steps": 20}}
    bundle = models.load(save_toy(tmp_path / "own", magicapture=own), device="cpu")
    assert bundle.schedules == own["schedules"]
    assert bundle.generate_defaults == own["generate"]


def test_unknown_settings_in_the_folder_are_refused(spoiled: Path) -> None:
    (spoiled / "magicapture.json").write_text(json.dumps({"steps": 3}))
    with pytest.raises(
        Problem,
        match="has steps; expected only edits, framing, generate, schedules, strength_with, vocabulary",
    ):
        models.load(spoiled, device="cpu")


@pytest.mark.parametrize("scheduler", Scheduler.__args__)  # type: ignore[attr-defined]
def test_every_sampler_keeps_the_noise_schedule(toy: models.ModelBundle, scheduler: str) -> None:
    pipeline = toy.pipeline(scheduler)
    assert pipeline.unet is toy.unet
    assert torch.equal(pipeline.scheduler.alphas_cumprod, toy.noise_scheduler.alphas_cumprod)
    seed = torch.Generator().manual_seed(0)
    picture = pipeline("a photo", num_inference_steps=2, generator=seed, output_type="pt").images
    assert picture.shape == (1, 3, RESOLUTION, RESOLUTION)
    assert torch.isfinite(picture).all()


def test_ddim_does_not_clip_latents(toy: models.ModelBundle) -> None:
    assert toy.pipeline("ddim").scheduler.config.clip_sample is False


def test_an_unknown_sampler_is_refused(toy: models.ModelBundle) -> None:
    with pytest.raises(Problem, match=r"scheduler must be one of euler_ancestral, .*, got 'heun'"):
        toy.pipeline("heun")


def test_half_precision_files_are_found(toy: models.ModelBundle, tmp_path: Path) -> None:
    toy.pipeline().save_pretrained(tmp_path / "fp16", variant="fp16")
    assert same_weights(models.load(tmp_path / "fp16", device="cpu", dtype=torch.float32).unet, toy.unet)


def test_the_shipped_configurations_are_complete() -> None:
    """Sizes as published: UNet 860 and 866 million parameters, text encoders 768 and 1024 wide."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(files.CONFIGS / "tokenizer")
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a person").input_ids == [49406, 320, 1125, 539, 320, 2533, 49407]
    for version, parameters, width in (("v1", 859_520_964, 768), ("v2", 865_910_724, 1024)):
        folder = files.CONFIGS / version
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
        assert sum(p.numel() for p in unet.parameters()) == parameters
        assert sum(p.numel() for p in vae.parameters()) == 83_653_863
        text = CLIPTextConfig.from_pretrained(folder / "text_encoder")
        assert (text.hidden_size, text.vocab_size) == (width, len(tokenizer))


def hub_copy(folder: Path, cache: Path, hub_id: str) -> Path:
    repository = cache / ("models--" + hub_id.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_is_found_in_the_cache(toy: models.ModelBundle, toy_folder: Path, hub_cache: Path) -> None:
    snapshot = hub_copy(toy_folder, hub_cache, "someone/toy")
    bundle = models.load("someone/toy", device="cpu", dtype=torch.float32)
    assert bundle.source == str(snapshot)
    assert bundle.name == "someone/toy"
    assert same_weights(bundle.unet, toy.unet)


def test_offline_the_message_says_what_is_missing_how_big_and_how_to_get_it(hub_cache: Path) -> None:
    with pytest.raises(MissingFiles) as caught:
        models.load(models.HUB_ID, device="cpu")
    for words in (models.HUB_ID, "4.3 GB", "2.1 GB", "Go online once", "give its path", str(hub_cache)):
        assert words in str(caught.value)


def test_half_a_download_is_not_taken_for_a_model(toy_folder: Path, hub_cache: Path) -> None:
    snapshot = hub_copy(toy_folder, hub_cache, "someone/toy")
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingFiles, match="someone/toy is not on this computer"):
        models.load("someone/toy", device="cpu")


def test_of_weights_in_several_files_each_is_fetched_and_missed(
    toy_folder: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    snapshot = hub_copy(toy_folder, hub_cache, "someone/sharded")
    for variant in ("", "fp16"):
        network = UNet2DConditionModel.from_pretrained(snapshot / "unet")
        network.save_pretrained(snapshot / "unet", max_shard_size="200KB", variant=variant or None)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (snapshot / "words.safetensors").touch()
    asked: list[list[str]] = []

    def offered(_hub_id: str, allow_patterns: list[str], **_: Any) -> str:
        asked.append(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", offered)
    every = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
    shards = {path for path in every if "-of-" in path}
    for dtype, half in ((torch.float32, False), (torch.bfloat16, True)):
        from_hub("someone/sharded", dtype, None)
        fetched = set(filter_repo_objects(every, allow_patterns=asked[-1]))
        assert {path for path in shards if ("fp16" in path) == half} == fetched & shards
        assert "words.safetensors" in fetched
    for path in sorted(shards)[:2] + sorted(shards)[-2:]:
        (snapshot / path).unlink()
    with pytest.raises(MissingFiles):
        from_hub("someone/sharded", torch.float32, None)


def test_telemetry_is_off(hub_cache: Path) -> None:
    from huggingface_hub import constants

    with pytest.raises(MissingFiles):
        models.load("someone/nothing", device="cpu")
    assert constants.HF_HUB_DISABLE_TELEMETRY is True
    assert not hub_cache.exists()


def test_without_a_gpu_the_mini_model_is_the_default(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    monkeypatch.setattr(models, "best_device", lambda: torch.device("cpu"))
    with pytest.raises(MissingFiles, match="mini model is not in"):
        models.load()
    shutil.copytree(toy_folder, tmp_path / "mini")
    assert models.load().name == "mini"


@pytest.mark.parametrize("part", files.PARTS)
def test_a_missing_part_is_named(spoiled: Path, part: str) -> None:
    shutil.rmtree(spoiled / part)
    with pytest.raises(MissingFiles, match=f"lacks {part}"):
        models.load(spoiled, device="cpu")


def test_missing_weights_are_named(spoiled: Path) -> None:
    (spoiled / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingFiles, match=r"lacks the \.safetensors weights of vae\."):
        models.load(spoiled, device="cpu")


def test_pickled_weights_are_refused(spoiled: Path) -> None:
    weights = spoiled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(Problem, match="pickle"):
        models.load(spoiled, device="cpu")


@pytest.mark.parametrize(
    "kind",
    ["StableDiffusionXLInpaintPipeline", "StableDiffusion3Pipeline", "FluxPipeline", "KandinskyPipeline"],
)
def test_other_families_are_refused(spoiled: Path, kind: str) -> None:
    index = json.loads((spoiled / "model_index.json").read_text())
    (spoiled / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    with pytest.raises(Problem, match=rf"holds a {kind}.*: expected a Stable Diffusion 1\.x or 2\.x"):
        models.load(spoiled, device="cpu")


def test_an_inpainting_unet_is_refused(toy_folder: Path, spoiled: Path) -> None:
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(toy_folder / "unet")
    UNet2DConditionModel.from_config(config | {"in_channels": 9}).save_pretrained(spoiled / "unet")
    with pytest.raises(Problem, match="takes 9"):
        models.load(spoiled, device="cpu")


def test_a_latent_consistency_model_is_refused(toy_folder: Path, spoiled: Path) -> None:
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(toy_folder / "unet")
    UNet2DConditionModel.from_config(config | {"time_cond_proj_dim": 8}).save_pretrained(spoiled / "unet")
    with pytest.raises(Problem, match="is a latent consistency model"):
        models.load(spoiled, device="cpu")


def test_damaged_weights_are_told(spoiled: Path) -> None:
    weights = spoiled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Problem, match=r"cannot be read .* Copy or download it again"):
        models.load(spoiled, device="cpu")


@pytest.mark.parametrize(
    "file", ["model_index.json", "magicapture.json", "unet/config.json", "scheduler/scheduler_config.json",
             "tokenizer/vocab.json", "text_encoder/config.json"],
)  # fmt: skip
def test_damaged_settings_are_told(spoiled: Path, file: str) -> None:
    (spoiled / "tokenizer" / "tokenizer.json").unlink()  # else it would be read in place of vocab.json
    (spoiled / file).write_text("{")
    with pytest.raises(Problem, match="cannot be read"):
        models.load(spoiled, device="cpu")


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_tokenizer_without_its_words_is_refused(spoiled: Path, file: str) -> None:
    for path in spoiled.glob("tokenizer/*"):
        if path.name in (file, "tokenizer.json"):
            path.unlink()
    with pytest.raises(Problem, match=r"vocab\.json or merges\.txt|cannot be read"):
        models.load(spoiled, device="cpu")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"is not a model folder: expected .*model_index\.json"):
        models.load(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "no/where.safetensors", "a/b/c"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(MissingFiles, match="There is no model at"):
        models.load(name, device="cpu")


def test_plain_diffusers_loads_the_toy(toy_folder: Path, toy: models.ModelBundle) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(toy_folder, local_files_only=True)
    assert same_weights(pipeline.unet, toy.unet)
    assert (
        load_file(toy_folder / "unet" / "diffusion_pytorch_model.safetensors").keys()
        == toy.unet.state_dict().keys()
    )


@pytest.fixture
def hub(toy_folder: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that holds the toy model as someone/toy, on this machine; the paths that were asked for."""
    import huggingface_hub
    from huggingface_hub import constants

    assert not hub_cache.exists()  # or nothing would be asked for
    asked: list[str] = []
    sha = "a" * 40
    names = [str(path.relative_to(toy_folder)) for path in toy_folder.rglob("*") if path.is_file()]

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            asked.append(self.path)
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/someone/toy"):
                files = [{"rfilename": name} for name in names]
                if "/tree/" in path:
                    entries = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in names]
                    self.send(json.dumps(entries).encode(), body=body)
                else:
                    self.send(
                        json.dumps({"id": "someone/toy", "sha": sha, "siblings": files}).encode(), body=body
                    )
                return
            file = toy_folder / path.partition(f"/resolve/{sha}/")[2]
            self.send(file.read_bytes(), body=body, name=file.name)

        def send(self, content: bytes, *, body: bool, name: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{name}-{len(content)}"')
            self.send_header("X-Repo-Commit", sha)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_download_tells_how_far_it_is(hub: list[str], toy_folder: Path) -> None:
    told: list[tuple[float, float | None]] = []
    bundle = models.load("someone/toy", device="cpu", progress=lambda _, *now: told.append(now))
    assert bundle.resolution > 0
    weights = sum(path.stat().st_size for path in toy_folder.rglob("*.safetensors"))
    assert [here for here, _ in told] == sorted(here for here, _ in told)
    assert told[-1][0] >= weights
    assert told[-1][1] == told[-1][0]
    hub.clear()
    models.load("someone/toy", device="cpu")  # now it is here
    assert hub == []


@pytest.mark.usefixtures("hub")
def test_a_download_ends_when_the_one_who_is_told_wants_no_more() -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        models.load("someone/toy", device="cpu", progress=stop)


@pytest.mark.usefixtures("hub")
def test_a_full_disk_is_said_while_downloading() -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Problem, match="no room on the disk") as caught:
        models.load("someone/toy", device="cpu", progress=full)
    assert "2.1 GB" in str(caught.value)


def test_a_model_that_memory_does_not_hold_is_not_called_damaged(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(models, "open_folder", full)
    with pytest.raises(torch.OutOfMemoryError):
        models.load(toy_folder)


# --- relative paths -----------------------------------------------------------------------------------


def test_a_relative_path_is_remembered_as_an_absolute_one(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_folder, tmp_path / "models" / "sd15")
    monkeypatch.chdir(tmp_path)
    wanted = str(tmp_path.resolve() / "models" / "sd15")
    assert models.load("models/sd15", device="cpu").name == wanted
    monkeypatch.chdir(tmp_path / "models")
    assert models.load("../models/sd15", device="cpu").name == wanted
    assert models.load("sd15", device="cpu").name == wanted


def test_a_file_that_is_a_link_keeps_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the hub's cache, where snapshots/…/model.safetensors points at blobs/3f2a…."""
    (tmp_path / "blob").write_bytes(b"no model")
    (tmp_path / "model.safetensors").symlink_to("blob")
    monkeypatch.chdir(tmp_path)
    assert models.fetch("model.safetensors", dtype=torch.float32) == tmp_path.resolve() / "model.safetensors"


def test_a_mistyped_path_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(models, "from_hub", ask)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFiles, match=f"There is no model at {tmp_path / 'models' / 'sd15'}"):
        models.load("models/sd15", device="cpu")


def test_settings_that_notepad_saved_are_read(tmp_path: Path) -> None:
    folder = save_toy(tmp_path, magicapture={"generate": {"steps": 3}})
    path = folder / "magicapture.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert models.load(folder, device="cpu").generate_defaults == {"steps": 3}


@pytest.mark.parametrize("halves", [("unet",), ("text_encoder",), ("vae", "unet")])
def test_a_folder_with_some_parts_in_half_precision_alone_is_opened(
    toy: models.ModelBundle, spoiled: Path, halves: tuple[str, ...]
) -> None:
    for part in halves:
        for weights in (spoiled / part).glob("*.safetensors"):
            weights.rename(weights.with_suffix(".fp16.safetensors"))
    assert files.weight_variant(spoiled) == "fp16"
    bundle = models.load(spoiled, device="cpu", dtype=torch.float32)
    for part in ("unet", "vae", "text_encoder"):
        assert same_weights(getattr(bundle, part), getattr(toy, part)), part


def test_two_models_are_opened_one_after_the_other(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers patches torch's classes while it builds: two at once leave "meta" tensors for good."""
    here, most, lock, open_folder = 0, 0, threading.Lock(), models.open_folder

    def watched(*values: Any) -> Any:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.05)  # so that others come meanwhile, were they let in
        found = open_folder(*values)
        with lock:
            here -= 1
        return found

    monkeypatch.setattr(models, "open_folder", watched)
    with ThreadPoolExecutor(3) as pool:
        bundles = list(pool.map(lambda _: models.load(toy_folder), range(3)))
    assert most == 1
    assert not any(weight.is_meta for bundle in bundles for weight in bundle.unet.parameters())
