"""Stable Diffusion XL: loading it, what it reads of a prompt, and what it is told of a photo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from toy import RESOLUTION, WIDTHS_XL, ToyAnalyser, same_weights, save_toy_xl

from magicapture_core import models
from magicapture_core.concepts import Cut, prepare_concept
from magicapture_core.config import TrainConfig
from magicapture_core.models import files
from magicapture_core.models.placeholders import with_placeholders
from magicapture_core.models.stable_diffusion_xl import StableDiffusionXL
from magicapture_core.photos import Photo
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.training.data import encode_concept
from tools.make_random_sd15 import original_unet_key
from tools.make_random_sdxl import original_state

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture
def spoiled(toy_xl_folder: Path, tmp_path: Path) -> Path:
    """A copy of the toy folder to spoil."""
    return Path(shutil.copytree(toy_xl_folder, tmp_path / "spoiled"))


def plain_pipeline(folder: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)


# --- loading --------------------------------------------------------------------------------------


def test_a_folder_gives_frozen_modules_of_the_real_classes(
    toy_xl: StableDiffusionXL, toy_xl_folder: Path
) -> None:
    assert isinstance(toy_xl, StableDiffusionXL)
    assert (toy_xl.resolution, toy_xl.vae_scale_factor, toy_xl.prediction_type) == (RESOLUTION, 4, "epsilon")
    assert (toy_xl.embedding_widths, toy_xl.embedding_width) == (list(WIDTHS_XL), sum(WIDTHS_XL))
    plain = plain_pipeline(toy_xl_folder)
    for part in PARTS:
        module = getattr(toy_xl, part)
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert same_weights(module, getattr(plain, part)), part


@pytest.mark.parametrize(("force_upcast", "vae"), [(True, torch.float32), (False, torch.bfloat16)])
def test_the_autoencoder_computes_in_fp32_unless_half_precision_suits_it(
    tmp_path: Path, force_upcast: bool, vae: torch.dtype
) -> None:
    folder = save_toy_xl(tmp_path / "xl", force_upcast=force_upcast)
    bundle = models.load(folder, device="cpu", dtype=torch.bfloat16)
    assert [each.dtype for each in bundle.text_encoders.values()] == [torch.bfloat16] * 2
    assert (bundle.unet.dtype, bundle.vae.dtype) == (torch.bfloat16, vae)


def test_the_autoencoder_for_half_precision_is_used_where_it_is_at_hand(
    toy_xl: StableDiffusionXL, toy_xl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    folder = tmp_path / "sdxl-vae-fp16-fix"
    toy_xl.vae.register_to_config(force_upcast=False)
    with torch.no_grad():
        toy_xl.vae.decoder.conv_in.weight.zero_()
    toy_xl.vae.save_pretrained(folder)
    half = models.load(toy_xl_folder, device="cpu", dtype=torch.bfloat16)
    assert half.vae.dtype == torch.bfloat16
    assert not half.vae.decoder.conv_in.weight.any()
    full = models.load(toy_xl_folder, device="cpu", dtype=torch.float32)
    assert full.vae.decoder.conv_in.weight.any()  # fp32 needs no other
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(
        Problem, match=r"autoencoder in .*sdxl-vae-fp16-fix cannot be read .* remove the folder"
    ):
        models.load(toy_xl_folder, device="cpu", dtype=torch.bfloat16)


def test_half_precision_files_and_the_hub_s_cache(
    toy_xl: StableDiffusionXL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--someone--xl"
    toy_xl.pipeline().save_pretrained(repository / "snapshots" / ("0" * 40), variant="fp16")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    bundle = models.load("someone/xl", device="cpu", dtype=torch.float32)
    assert all(same_weights(getattr(bundle, part), getattr(toy_xl, part)) for part in PARTS)


def test_velocity_prediction_is_read_from_the_scheduler(tmp_path: Path) -> None:
    bundle = models.load(save_toy_xl(tmp_path / "v", prediction_type="v_prediction"), device="cpu")
    assert bundle.prediction_type == "v_prediction"


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_a_missing_part_is_named(spoiled: Path, part: str) -> None:
    shutil.rmtree(spoiled / part)
    with pytest.raises(MissingFiles, match=f"lacks {part}"):
        models.load(spoiled, device="cpu")


def index(folder: Path, **changes: Any) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_refiner_is_refused(spoiled: Path) -> None:
    index(spoiled, _class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None])
    with pytest.raises(Problem, match=r"holds the refiner of Stable Diffusion XL.* Choose the base model"):
        models.load(spoiled, device="cpu")


def test_inpainting_is_refused(toy_xl_folder: Path, spoiled: Path) -> None:
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(toy_xl_folder / "unet")
    UNet2DConditionModel.from_config(config | {"in_channels": 9}).save_pretrained(spoiled / "unet")
    with pytest.raises(Problem, match=r"takes 9 \(an inpainting"):
        models.load(spoiled, device="cpu")
    index(spoiled, _class_name="StableDiffusionXLInpaintPipeline")
    with pytest.raises(Problem, match=r"holds a StableDiffusionXLInpaintPipeline \(an inpainting model\)"):
        models.load(spoiled, device="cpu")


def test_an_edm_model_is_refused(spoiled: Path) -> None:
    from diffusers import EDMEulerScheduler

    EDMEulerScheduler().save_pretrained(spoiled / "scheduler")
    index(spoiled, scheduler=["diffusers", "EDMEulerScheduler"])
    with pytest.raises(Problem, match="is an EDM model"):
        models.load(spoiled, device="cpu")


def test_tokenizers_of_two_kinds_are_refused(spoiled: Path) -> None:
    from transformers import CLIPTokenizer

    other = CLIPTokenizer.from_pretrained(spoiled / "tokenizer_2")
    other.add_tokens(["<newword>"])
    other.save_pretrained(spoiled / "tokenizer_2")
    with pytest.raises(Problem, match="two tokenizers of the same vocabulary"):
        models.load(spoiled, device="cpu")


# --- single files ---------------------------------------------------------------------------------


def single_file(
    toy_xl: StableDiffusionXL, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch, **more: torch.Tensor
) -> Path:
    """The toy under the original key names, with the toy's configurations in place of the published ones."""
    skipped = shutil.ignore_patterns("*.safetensors", "tokenizer*")
    shutil.copytree(folder, to / "configs" / "xl", ignore=skipped)
    shutil.copytree(folder / "tokenizer", to / "configs" / "tokenizer")
    monkeypatch.setattr(files, "CONFIGS", to / "configs")
    state = {key: weight.contiguous().clone() for key, weight in original_state(toy_xl.pipeline()).items()}
    save_file({**state, **more}, to / "xl.safetensors")
    return to / "xl.safetensors"


def test_a_single_file_with_the_original_key_names(
    toy_xl: StableDiffusionXL, toy_xl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = single_file(toy_xl, toy_xl_folder, tmp_path, monkeypatch)
    bundle = models.load(file, device="cpu", dtype=torch.float32)
    assert isinstance(bundle, StableDiffusionXL)
    assert all(same_weights(getattr(bundle, part), getattr(toy_xl, part)) for part in PARTS)
    assert (bundle.tokenizer.pad_token, bundle.tokenizer_2.pad_token) == ("<|endoftext|>", "!")
    assert (bundle.prediction_type, bundle.zeros_for_empty) == ("epsilon", True)
    half = models.load(file, device="cpu", dtype=torch.bfloat16)
    assert (half.unet.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)
    assert same_weights(half.vae, toy_xl.vae)  # never rounded


def test_a_single_file_says_that_it_predicts_velocity(
    toy_xl: StableDiffusionXL, toy_xl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    bundle = models.load(single_file(toy_xl, toy_xl_folder, tmp_path, monkeypatch, **marks), device="cpu")
    assert bundle.prediction_type == "v_prediction"
    assert bundle.noise_scheduler.alphas_cumprod[-1] == 0  # it ends in noise alone
    assert bundle.pipeline("euler_ancestral").scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([files.REFINER_KEY], "the refiner of Stable Diffusion XL"),
        ([*files.XL_TEXT_KEYS, "edm_mean"], "an EDM model"),
        ([*files.XL_TEXT_KEYS, "edm_vpred.sigma_max"], "an EDM model"),
        (files.XL_TEXT_KEYS[:1], "only a part of one"),
    ],
)
def test_single_files_of_something_else_are_refused(tmp_path: Path, keys: list[str], said: str) -> None:
    file = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(8, 4, 3, 3) for key in [*keys, files.UNET_KEY]}, file)
    with pytest.raises(Problem, match=f"holds .*{said}"):
        models.load(file, device="cpu")


def test_a_single_file_of_inpainting_is_refused(tmp_path: Path) -> None:
    keys = {key: torch.zeros(4, 4) for key in files.XL_TEXT_KEYS}
    save_file({**keys, files.UNET_KEY: torch.zeros(8, 9, 3, 3)}, tmp_path / "inpaint.safetensors")
    with pytest.raises(Problem, match="holds an inpainting model"):
        models.load(tmp_path / "inpaint.safetensors", device="cpu")


def test_the_shipped_configuration_is_the_published_one() -> None:
    """Sizes as published: 2.57, .084, .123 and .695 billion parameters."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = files.CONFIGS / "xl"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        modules = (
            unet,
            AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder_2")),
        )
    counts = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert counts == [2_567_463_684, 83_653_863, 123_060_480, 694_659_840]
    for ours, original in (
        ("add_embedding.linear_1.weight", "label_emb.0.0.weight"),
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.weight",
         "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight"),
        ("down_blocks.2.attentions.1.proj_in.weight", "input_blocks.8.1.proj_in.weight"),
        ("mid_block.attentions.0.norm.weight", "middle_block.1.norm.weight"),
        ("up_blocks.0.attentions.2.proj_out.bias", "output_blocks.2.1.proj_out.bias"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.2.conv.weight"),
        ("up_blocks.2.resnets.2.conv_shortcut.weight", "output_blocks.8.0.skip_connection.weight"),
    ):  # fmt: skip
        assert ours in unet.state_dict()
        assert original_unet_key(ours, 2, frozenset({2})) == "model.diffusion_model." + original


# --- prompts --------------------------------------------------------------------------------------


def tokenize(toy_xl: StableDiffusionXL, prompts: list[str], tokenizer: Any = None) -> torch.Tensor:
    options = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    ids: torch.Tensor = (tokenizer or toy_xl.tokenizer)(prompts, **options).input_ids
    return ids


def test_prompts_are_encoded_as_diffusers_does(toy_xl: StableDiffusionXL, toy_xl_folder: Path) -> None:
    ours = toy_xl.encode(tokenize(toy_xl, ["a photo of a person", ""]))
    states, no_states, whole, no_whole = plain_pipeline(toy_xl_folder).encode_prompt("a photo of a person")
    torch.testing.assert_close(ours.encoder_hidden_states, torch.cat([states, no_states]))
    torch.testing.assert_close(ours.added["text_embeds"], torch.cat([whole, no_whole]))
    assert not ours.encoder_hidden_states[1].any()  # an empty prompt is zeros


def test_an_exclamation_mark_is_a_mark_for_both_encoders(toy_xl: StableDiffusionXL) -> None:
    """diffusers' second tokenizer takes it for filling; OpenCLIP's, with which the model was trained, does not."""
    ids = tokenize(toy_xl, ["hat!"])
    seen: list[torch.Tensor] = []
    handle = toy_xl.text_encoder_2.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    toy_xl.encode(ids)
    handle.remove()
    assert torch.equal(seen[0][0, :4], ids[0, :4])  # start, hat, !, end
    assert not seen[0][0, 4:].any()
    assert tokenize(toy_xl, ["hat!"], toy_xl.tokenizer_2)[0, 2] != ids[0, 2]


def test_a_model_that_was_not_trained_so_reads_an_empty_prompt(toy_xl_folder: Path, spoiled: Path) -> None:
    index(spoiled, force_zeros_for_empty_prompt=False)
    bundle = models.load(spoiled, device="cpu", dtype=torch.float32)
    ours = bundle.encode(tokenize(bundle, [""]))
    _, states, _, whole = plain_pipeline(toy_xl_folder).encode_prompt("a", negative_prompt="")
    torch.testing.assert_close(ours.encoder_hidden_states, states)
    torch.testing.assert_close(ours.added["text_embeds"], whole)


def test_both_rows_stand_where_the_placeholders_do(toy_xl: StableDiffusionXL) -> None:
    """A placeholder that is read as a known word's rows gives what that word gives."""
    tokenizer, token_ids = with_placeholders(toy_xl.tokenizer)
    cat, dog = toy_xl.tokenizer("cat dog", add_special_tokens=False).input_ids
    tables = [each.get_input_embeddings().weight for each in toy_xl.text_encoders.values()]
    rows = torch.stack([torch.cat([table[token] for table in tables]) for token in (cat, dog)])
    ids = tokenize(toy_xl, ["a <subject> in the <style>, a hat"], tokenizer)
    learned = toy_xl.encode(ids, token_ids, rows)
    known = toy_xl.encode(tokenize(toy_xl, ["a cat in the dog, a hat"]))
    assert torch.equal(learned.encoder_hidden_states, known.encoder_hidden_states)
    assert torch.equal(learned.added["text_embeds"], known.added["text_embeds"])


def test_the_whole_prompt_is_read_to_its_end(toy_xl: StableDiffusionXL) -> None:
    """transformers would stop at the placeholder, whose id is the largest: an edit behind it would not be read."""
    tokenizer, token_ids = with_placeholders(toy_xl.tokenizer)
    rows = torch.randn(2, toy_xl.embedding_width, generator=torch.Generator().manual_seed(0))
    prompts = [
        "a <subject> person in the <style> style",
        "a <subject> person in the <style> style, a red hat",
    ]
    ids = tokenize(toy_xl, prompts, tokenizer)
    plain, edited = toy_xl.encode(ids, token_ids, rows).added["text_embeds"]
    assert (plain - edited).abs().max() > 0.01
    assert (
        toy_xl.text_encoder_2.text_model.eos_token_id == 2
    )  # as published: what makes transformers stop there


def test_the_gradient_reaches_both_rows(toy_xl: StableDiffusionXL) -> None:
    tokenizer, token_ids = with_placeholders(toy_xl.tokenizer)
    ids = tokenize(toy_xl, ["a photo of a <subject> in the <style>"], tokenizer)
    for read in ("states", "whole"):
        rows = torch.zeros(2, toy_xl.embedding_width, requires_grad=True)
        encoded = toy_xl.encode(ids, token_ids, rows)
        out = encoded.encoder_hidden_states if read == "states" else encoded.added["text_embeds"]
        out.pow(2).sum().backward()
        assert rows.grad is not None
        first, second = rows.grad.split(list(WIDTHS_XL), dim=1)
        assert bool(second.any(1).all())
        assert bool(first.any(1).all()) == (
            read == "states"
        )  # the whole prompt is the second encoder's alone


def test_the_paper_s_start_has_a_part_for_each_encoder(toy_xl: StableDiffusionXL) -> None:
    start = toy_xl.initial_embeddings(TrainConfig(), torch.Generator().manual_seed(0))
    person = toy_xl.tokenizer("person", add_special_tokens=False).input_ids[0]
    tables = [each.get_input_embeddings().weight for each in toy_xl.text_encoders.values()]
    torch.testing.assert_close(start[0], torch.cat([table[person] for table in tables]))
    assert start.shape == (2, sum(WIDTHS_XL))


# --- what is told of a photo ----------------------------------------------------------------------


def test_a_cut_in_worked_numbers() -> None:
    cut = Cut(height=3000, width=4000, top=500.0, left=1000.0, side=2048.0)
    assert cut.told(1024) == (3000, 4000, 250, 500)
    assert cut.mirrored() == Cut(3000, 4000, 500.0, 952.0, 2048.0)
    assert cut.mirrored().mirrored() == cut
    assert Cut(64, 64, 0, 0, 64).told(64) == (64, 64, 0, 0)


def test_a_photo_s_size_and_corner_reach_the_network(toy_xl: StableDiffusionXL) -> None:
    """The toy analyser's face is the middle half; the square around it is as large as the photo's lower side."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    concept = prepare_concept(
        [Photo("a.png", pixels)], "subject", resolution=RESOLUTION, analyser=ToyAnalyser()
    )
    assert concept.examples[0].cut == Cut(100, 200, 0, 50, 100)
    encoded = encode_concept(concept, toy_xl, flip=True)
    assert encoded.cuts.tolist() == [[100, 200, 0, 32], [100, 200, 0, 32]]
    told: list[torch.Tensor] = []
    handle = toy_xl.unet.register_forward_pre_hook(
        lambda _m, _args, values: told.append(values["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    prompt = toy_xl.encode(tokenize(toy_xl, ["a photo"] * 2))
    with torch.no_grad():
        toy_xl.predict(encoded.latents, torch.tensor([9, 9]), toy_xl.framed(prompt, encoded.cuts))
        toy_xl.predict(encoded.latents, torch.tensor([9, 9]), prompt)
    handle.remove()
    assert told[0].tolist() == [[100, 200, 0, 32, 64, 64]] * 2
    assert told[1].tolist() == [[64, 64, 0, 0, 64, 64]] * 2  # as when a picture is generated
    assert told[0].dtype == torch.float32
