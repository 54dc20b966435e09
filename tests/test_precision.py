"""A model of half precision: what is computed in float32 all the same. A CPU rounds bfloat16 as a GPU does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from toy import RESOLUTION, ToyAnalyser
from trainings import short, start, toy_concept

from magicapture_core import GenerateConfig, generate, load
from magicapture_core.attention import listen
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.models.precision import vae_dtype_for
from magicapture_core.training.preparation import prepared

CPU = torch.device("cpu")


@pytest.fixture
def mixed(toy_folder: Path) -> Any:
    """The toy model in bfloat16 with its autoencoder in float32, as it is loaded for a CUDA GPU."""
    return load(toy_folder, device="cpu", dtype=torch.bfloat16, vae_dtype=torch.float32)


def test_the_autoencoder_is_exact_on_a_gpu_only() -> None:
    cuda = torch.device("cuda")
    assert vae_dtype_for(cuda, torch.bfloat16) == vae_dtype_for(cuda, torch.float16) == torch.float32
    assert vae_dtype_for(CPU, torch.bfloat16) == torch.bfloat16
    assert vae_dtype_for(cuda, torch.float32) == torch.float32


def test_its_weights_are_not_rounded_on_the_way(toy_folder: Path, toy: Any, mixed: Any) -> None:
    assert mixed.unet.dtype == mixed.text_encoder.dtype == torch.bfloat16
    ours, exact = mixed.vae.state_dict(), toy.vae.state_dict()
    assert all(torch.equal(ours[name], exact[name]) for name in exact)
    pictures = torch.rand(1, 3, RESOLUTION, RESOLUTION) * 2 - 1
    exactly = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(mixed.encode_pictures(pictures), toy.encode_pictures(pictures), **exactly)
    rounded = load(toy_folder, device="cpu", dtype=torch.bfloat16)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            rounded.encode_pictures(pictures), toy.encode_pictures(pictures), **exactly
        )


def test_latents_stay_in_float32_between_a_sampler_s_steps(mixed: Any) -> None:
    kept: list[torch.Tensor] = []

    def after(_pipeline: Any, _step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        kept.append(tensors["latents"].clone())
        return tensors

    for scheduler in ("euler_ancestral", "dpm++", "unipc", "ddim"):
        kept.clear()
        encoded = mixed.encode(
            mixed.tokenizer(["a photo", ""], padding="max_length", return_tensors="pt").input_ids
        )
        picture = mixed.pipeline(scheduler)(
            **mixed.prompt_arguments(encoded[:1], encoded[1:]), num_inference_steps=3, output_type="pt",
            generator=torch.Generator().manual_seed(1), callback_on_step_end=after,
        ).images  # fmt: skip
        assert all(latents.dtype == torch.float32 for latents in kept), scheduler
        assert any(not torch.equal(latents, latents.bfloat16().float()) for latents in kept[1:]), scheduler
        with torch.no_grad():
            exact = (mixed.decode(kept[-1]) / 2 + 0.5).clamp(0, 1)
        assert torch.equal(picture, exact), scheduler


def test_portraits_and_samples_are_drawn(mixed: Any, tmp_path: Path) -> None:
    config = short(ti_steps=1, lora_steps=1, sample_every=1, sample_steps=2, attention_every=1)
    last = list(start(mixed, config, tmp_path / "run"))[-1]
    assert last.sample is not None
    assert all(torch.isfinite(torch.tensor(value)) for value in last.losses.values())
    asked = GenerateConfig(count=2, steps=2, seed=3, attention_words=("{style}",))
    assert len(list(generate(mixed, tmp_path / "run", asked, analyser=ToyAnalyser()))) == 2


def test_eq_7_decodes_in_half_precision(toy: Any, mixed: Any) -> None:
    """The exact decoder would take twice the memory and, on a GPU, several times the time."""
    for models, half in ((toy, False), (mixed, True)):
        arguments = (models, toy_concept("subject"), toy_concept("style"), short(), PartialState(cpu=True))
        with prepared(*arguments, ToyAnalyser()) as ready:
            objective = ready.optimisation.objective
            assert (objective.decoder is not None) == half
            latents = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
            picture = objective._decode(latents)
            assert picture.dtype == models.dtype
            torch.testing.assert_close(picture.float(), models.decode(latents), rtol=0.05, atol=0.05)
            picture.sum().backward()
            assert latents.grad is not None


# --- gradients and maps ---------------------------------------------------------------------------


def test_what_the_prompts_gradient_adds_up_from_is_not_rounded_away() -> None:
    """1 and 512 times 1/512 are 2; in bfloat16, where 1 + 1/512 is 1, they would be 1."""
    start = torch.zeros(2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    encoded = Conditioning(start * 1)
    leaf = encoded.as_leaf()
    (leaf.encoder_hidden_states[0].sum()).backward()
    for _ in range(512):
        (leaf[torch.tensor([0])].encoder_hidden_states.sum() / 512).backward()
    encoded.backward_from(leaf)
    assert start.grad is not None
    assert start.grad.dtype == torch.bfloat16
    assert torch.equal(start.grad[0], torch.full((3, 4), 2, dtype=torch.bfloat16))


def test_listened_scores_are_not_rounded_before_their_softmax(mixed: Any) -> None:
    attention = mixed.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    with torch.no_grad():
        attention.to_q.weight.mul_(3)  # scores as large as those of learned weights
        attention.to_k.weight.mul_(3)
    given: dict[str, torch.Tensor] = {}
    attention.to_q.register_forward_hook(lambda _m, _i, out: given.update(query=out))
    attention.to_k.register_forward_hook(lambda _m, _i, out: given.update(key=out))
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(1, 77, mixed.unet.config.cross_attention_dim, generator=generator).bfloat16()
    with listen(mixed.unet, 8, 16) as store, torch.no_grad():
        store.positions = torch.tensor([[3, 9]])
        mixed.unet(torch.randn(1, 4, 16, 16, generator=generator), torch.tensor([10]), hidden)
        heard = store.take()[0]
    query, key = (given[name].double().unflatten(-1, (attention.heads, -1)).transpose(1, 2) for name in given)
    exact = (query @ key.transpose(-1, -2) * attention.scale).softmax(-1)[..., [3, 9]]
    exact = exact.permute(0, 3, 1, 2).unflatten(-1, (8, 8))
    assert heard.dtype == torch.float32
    assert exact.max() > 1e-3
    torch.testing.assert_close(heard.double(), exact, rtol=1e-4, atol=0)
