"""Export: other programs find what they expect, and draw what we draw."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from portraits import plain_diffusers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import save_toy, toy_run

from magicapture_core.__main__ import main
from magicapture_core.adapters.exporting import export_name, kohya_state
from magicapture_core.export import export_run
from magicapture_core.files import atomic_file, atomic_folder
from magicapture_core.models import ModelBundle, load
from magicapture_core.models.naming import how_to_load, model_title
from magicapture_core.models.stable_diffusion import StableDiffusion
from magicapture_core.problems import Problem, RunProblem


@pytest.fixture
def run(toy: ModelBundle, tmp_path: Path) -> Path:
    return toy_run(toy, tmp_path / "Ada Lovelace!")


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_diffusers_gets_the_adapter_as_it_is(run: Path, toy_folder: Path, tmp_path: Path) -> None:
    written = export_run(run, "diffusers", tmp_path / "out")
    assert names(written) == [
        "pytorch_lora_weights.safetensors", "subject.safetensors", "style.safetensors", "README.md",
    ]  # fmt: skip
    assert all(path.exists() for path in written)
    for name in names(written)[:3]:
        assert (tmp_path / "out" / name).read_bytes() == (run / "adapter" / name).read_bytes()
    (tmp_path / "as-run").mkdir()
    (tmp_path / "out").rename(tmp_path / "as-run" / "adapter")
    prompt = "a photo of a <subject> person in the <style> style"
    assert np.array_equal(
        plain_diffusers(toy_folder, tmp_path / "as-run", scale=0.8, prompt=prompt),
        plain_diffusers(toy_folder, run, scale=0.8, prompt=prompt),
    )


def test_the_readme_says_what_suits_the_model_and_the_chosen_strength(tmp_path: Path) -> None:
    wanted = {"steps": 12, "guidance_scale": 3.5, "adapter_scale": 0.65}
    folder = save_toy(tmp_path / "own model", magicapture={"generate": wanted})
    run = toy_run(load(folder), tmp_path / "Ada Lovelace!")
    readme = export_run(run, "diffusers", tmp_path / "out")[-1].read_text()
    assert "num_inference_steps=12,\n    guidance_scale=3.5,\n" in readme
    assert 'cross_attention_kwargs={"scale": 0.65}' in readme
    assert 'from_pretrained("/path/to/own model")  # where your copy of this model is' in readme
    assert str(tmp_path) not in readme
    readme = export_run(run, "kohya", tmp_path / "out", adapter_scale=1.0)[-1].read_text()
    assert "Steps 12, guidance 3.5, Euler a." in readme
    assert "<lora:ada-lovelace:1>" in readme
    assert "Load LoRA node at strength 1)" in readme


def test_the_command_takes_the_strength(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(scale: str) -> int:
        return main(["export", str(run), "--out", str(tmp_path / "out"), "--adapter-scale", scale])

    assert export("0.55") == 0
    assert 'cross_attention_kwargs={"scale": 0.55}' in (tmp_path / "out" / "README.md").read_text()
    assert export("2.5") == 1
    assert "adapter_scale must be 0 to 2, got 2.5" in " ".join(capsys.readouterr().out.split())


def test_the_readmes_python_runs_as_it_is_written(run: Path, toy_folder: Path, tmp_path: Path) -> None:
    readme = export_run(run, "diffusers", tmp_path / "out")[-1].read_text()
    code = readme.partition("```python\n")[2].partition("```")[0]
    code = code.replace(f"/path/to/{toy_folder.name}", str(toy_folder)).replace(
        '"."', f'"{tmp_path / "out"}"'
    )
    values: dict[str, Any] = {}
    exec(
        compile(re.sub(r"num_inference_steps=\d+", "num_inference_steps=2", code), "README.md", "exec"),
        values,
    )
    assert values["picture"].size == (64, 64)


def test_kohya_writes_one_lora_and_two_embeddings(run: Path, tmp_path: Path) -> None:
    written = export_run(run, "kohya", tmp_path / "out")
    assert names(written) == [
        "ada-lovelace.safetensors", "ada-lovelace-subject.safetensors", "ada-lovelace-style.safetensors",
        "README.md",
    ]  # fmt: skip
    for role in ("subject", "style"):
        exported = load_file(tmp_path / "out" / f"ada-lovelace-{role}.safetensors")
        row = load_file(run / "adapter" / f"{role}.safetensors")[f"<{role}>"]
        assert list(exported) == ["emb_params"]
        assert torch.equal(exported["emb_params"], row[None])
    readme = written[-1].read_text()
    assert (
        "a photo of a ada-lovelace-subject person in the ada-lovelace-style style <lora:ada-lovelace:0.8>"
        in readme
    )
    assert "embedding:ada-lovelace-subject" in readme
    assert str(tmp_path) not in readme


def test_kohya_key_names_of_stable_diffusion() -> None:
    """The names that kohya's trainer writes for SD 1.x, and that A1111 and ComfyUI look for."""
    ours = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q":
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0":
            "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v":
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v",
        "unet.down_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj":
            "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_ff_net_0_proj",
        "unet.down_blocks.1.attentions.1.transformer_blocks.0.ff.net.2":
            "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_ff_net_2",
        "text_encoder.text_model.encoder.layers.0.self_attn.k_proj":
            "lora_te_text_model_encoder_layers_0_self_attn_k_proj",
        "text_encoder.encoder.layers.11.self_attn.out_proj":
            "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
    }  # fmt: skip
    adapter = {}
    for module in ours:
        adapter[f"{module}.lora_A.weight"] = torch.full((4, 8), 0.5)
        adapter[f"{module}.lora_B.weight"] = torch.full((16, 4), 0.25)
    state = kohya_state(adapter, 2, StableDiffusion.kohya_prefixes)
    expected = {
        f"{name}.{end}" for name in ours.values() for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert set(state) == expected
    for name in ours.values():
        assert state[f"{name}.lora_down.weight"].shape == (4, 8)
        assert state[f"{name}.lora_up.weight"].shape == (16, 4)
        assert state[f"{name}.alpha"].shape == ()
        assert state[f"{name}.alpha"].item() == 2
    assert {weight.dtype for weight in state.values()} == {torch.float16}


def test_kohya_metadata(run: Path, tmp_path: Path) -> None:
    export_run(run, "kohya", tmp_path / "out")
    with safe_open(tmp_path / "out" / "ada-lovelace.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_output_name"] == "ada-lovelace"
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2")
    assert "ss_base_model_version" not in metadata  # the toy is neither SD 1 nor SD 2


@pytest.mark.parametrize("width", [768, 1024])
def test_the_base_model_is_named_by_kohyas_word(run: Path, tmp_path: Path, width: int) -> None:
    for role in ("subject", "style"):
        save_file({f"<{role}>": torch.zeros(width)}, run / "adapter" / f"{role}.safetensors")
    export_run(run, "kohya", tmp_path / "out")
    with safe_open(tmp_path / "out" / "ada-lovelace.safetensors", "pt") as file:
        assert file.metadata()["ss_base_model_version"] == {768: "sd_v1", 1024: "sd_v2"}[width]


def predict(pipeline: Any, models: ModelBundle) -> tuple[torch.Tensor, torch.Tensor]:
    """UNet and text encoder outputs on fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    ids = models.tokenizer("a photo of a person", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        text = pipeline.text_encoder(ids)[0]
        return pipeline.unet(latents, 500, text).sample, text


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("alpha", [None, 5.0])
def test_diffusers_own_kohya_loader_computes_the_same(
    toy: ModelBundle, tmp_path: Path, text_encoder: bool, alpha: float | None
) -> None:
    run = toy_run(toy, tmp_path / "run", rank=2, alpha=alpha, text_encoder=text_encoder)
    export_run(run, "kohya", tmp_path / "out")
    pipeline = toy.pipeline()
    plain = predict(pipeline, toy)
    pipeline.load_lora_weights(run / "adapter")
    ours = predict(pipeline, toy)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(tmp_path / "out", weight_name="run.safetensors")
    theirs = predict(pipeline, toy)
    pipeline.unload_lora_weights()
    for before, expected, got in zip(plain, ours, theirs, strict=True):
        assert torch.allclose(expected, got, atol=1e-2, rtol=1e-2)  # fp16 has three digits
        error = (expected - got).abs().mean()
        assert error < 2e-3
        if not torch.equal(before, expected):
            assert (before - expected).abs().mean() > 20 * error  # and the adapter does something
    assert not torch.equal(plain[0], ours[0])
    assert torch.equal(plain[1], ours[1]) != text_encoder


def test_the_embedding_loads_as_a_word_of_diffusers_too(run: Path, toy: ModelBundle, tmp_path: Path) -> None:
    export_run(run, "kohya", tmp_path / "out")
    pipeline = toy.pipeline()
    pipeline.load_textual_inversion(
        tmp_path / "out", weight_name="ada-lovelace-subject.safetensors", token="ada-lovelace-subject"
    )
    index = pipeline.tokenizer.convert_tokens_to_ids("ada-lovelace-subject")
    row = load_file(run / "adapter" / "subject.safetensors")["<subject>"]
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[index], row)


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_run_stopped_in_phase_1_exports_its_embeddings(
    toy: ModelBundle, tmp_path: Path, format: Any
) -> None:
    run = toy_run(toy, tmp_path / "run", lora=False)
    written = export_run(run, format, tmp_path / "out")
    assert len(written) == 3
    assert "lora" not in written[-1].read_text().lower()


def test_exporting_twice_replaces_and_leaves_nothing_behind(run: Path, tmp_path: Path) -> None:
    first = export_run(run, "kohya", tmp_path / "out")
    assert export_run(run, "kohya", tmp_path / "out") == first
    assert sorted((tmp_path / "out").iterdir()) == sorted(first)


def test_what_cannot_be_exported_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="format must be one of diffusers, kohya, got 'onnx'"):
        export_run(run, "onnx", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(RunProblem, match="No run in"):
        export_run(tmp_path / "nothing", "kohya", tmp_path / "out")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Problem, match="is a file; expected a folder"):
        export_run(run, "kohya", tmp_path / "file")
    lora = run / "adapter" / "pytorch_lora_weights.safetensors"
    huge = {key: torch.full_like(weight, 1e6) for key, weight in load_file(lora).items()}
    save_file(huge, lora)
    with pytest.raises(RunProblem, match="fp16 cannot"):
        export_run(run, "kohya", tmp_path / "out")
    lora.write_bytes(b"damaged")
    with pytest.raises(RunProblem, match="is damaged"):
        export_run(run, "kohya", tmp_path / "out")
    (run / "adapter" / "style.safetensors").unlink()
    with pytest.raises(RunProblem, match=r"has no style\.safetensors yet"):
        export_run(run, "kohya", tmp_path / "out")


def test_an_export_name_leaves_room_for_endings(tmp_path: Path) -> None:
    """A file's name has at most 255 bytes; this folder's takes them all, and stays without a hyphen at its end."""
    assert export_name(tmp_path / ("a" * 79 + "-" + "b" * 175)) == "a" * 79


@pytest.mark.parametrize(
    ("folder", "name"), [("Ada Lovelace!", "ada-lovelace"), ("日本", "magicapture"), ("r_1", "r-1")]
)
def test_export_names_are_safe_in_prompts(tmp_path: Path, folder: str, name: str) -> None:
    assert export_name(tmp_path / folder) == name


def test_a_model_s_path_is_told_by_its_name_alone_even_where_it_no_longer_is() -> None:
    assert model_title("/home/ann/models/sd15") == "sd15"
    assert how_to_load("/home/ann/models/sd15").startswith('from_pretrained("/path/to/sd15")')
    assert model_title("someone/model") == "someone/model"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_written_files_have_the_permissions_that_the_umask_gives(
    toy: ModelBundle, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        run = toy_run(toy, tmp_path / "run")
        export_run(run, "kohya", tmp_path / "kohya")
        export_run(run, "diffusers", tmp_path / "diffusers")
        with atomic_folder(tmp_path / "checkpoint") as folder:
            save_file({"a": torch.ones(1)}, folder / "a.safetensors")
    finally:
        os.umask(before)
    folders = (tmp_path / "kohya", tmp_path / "diffusers", tmp_path / "checkpoint")
    files = [*(file for folder in folders for file in folder.iterdir()), run / "identity.safetensors"]
    assert len(files) == 4 + 4 + 1 + 1
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in files} == {
        file.name: oct(mode) for file in files
    }


def test_two_threads_may_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    path, both = tmp_path / "shown.webp", threading.Barrier(2, timeout=20)

    def write(text: str) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text(text)
            both.wait()  # neither has ended before the other has begun

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))
    assert path.read_text() in ("one", "two")
    assert list(tmp_path.iterdir()) == [path]
