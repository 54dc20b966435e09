"""What Stable Diffusion XL's UNet and decoder keep for their backward pass, without a GPU and without any numbers.

    python benchmarks/counting_xl.py 512 768 1024

The networks of the published configuration run forward and backward on torch's "meta" device, as in a training step:
with LoRA on the cross-attention, maps listened to, in bf16. Every tensor that is alive is added up. Attention that is
not listened to counts as a fused kernel leaves it: its inputs, its output and one number a row. `counting.py` counts
the trainer's whole step for Stable Diffusion 1.5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.counting import Living
from magicapture_core import losses
from magicapture_core.attention import listen, nearest_side
from magicapture_core.models.files import CONFIGS
from magicapture_core.training.recompute import Recomputed, decoder_parts, recompute, unet_parts

PUBLISHED = CONFIGS / "xl"


class _Fused(torch.autograd.Function):
    """Attention as a fused kernel does it: nothing of (queries × keys) is kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        """(…, queries, dim), (…, keys, dim), (…, keys, dim) → (…, queries, dim)."""
        out = torch.empty_like(query)
        rows = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """A gradient of each shape."""
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def fused_attention() -> Iterator[None]:
    """torch's scaled_dot_product_attention as `_Fused`, and no autocast, which "meta" does not know."""
    functional: Any = torch.nn.functional
    autocast: Any = torch.autocast
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda q, k, v, *_, **__: _Fused.apply(q, k, v)
    torch.autocast = lambda *_, **__: nullcontext()  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before
        torch.autocast = autocast  # type: ignore[misc]


def networks(recomputed: Recomputed = "nothing") -> tuple[Any, Any]:
    """UNet with LoRA, and VAE, both in bf16 and on "meta"."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from peft import LoraConfig

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(PUBLISHED / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(PUBLISHED / "vae"))
        unet.to(torch.bfloat16).requires_grad_(False)
        unet.add_adapter(LoraConfig(r=4, target_modules=r".*attn2\.(to_q|to_k|to_v|to_out\.0)"))
    recompute(unet_parts(unet, recomputed))
    return unet, vae.requires_grad_(False).to(torch.bfloat16)


def unet_bytes(resolution: int, items: int, recomputed: Recomputed) -> int:
    """The most that a UNet pass with its backward keeps, beside weights."""
    unet, _ = networks(recomputed)
    side, width = resolution // 8, unet.config.cross_attention_dim
    meta: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    with (
        Living([*unet.parameters(), *unet.buffers()]) as living,
        fused_attention(),
        listen(unet, nearest_side(unet, side, resolution / 32), side) as store,
    ):
        store.positions = torch.zeros(items, 2, dtype=torch.long, device="meta")
        added = {"text_embeds": torch.empty(items, 1280, **meta), "time_ids": torch.empty(items, 6, **meta)}
        output = unet(
            torch.empty(items, 4, side, side, **meta),
            torch.zeros(items, device="meta"),
            encoder_hidden_states=torch.empty(items, 77, width, **meta).requires_grad_(),
            added_cond_kwargs=added,
        ).sample
        loss = output.float().square().mean()
        heads = torch.cat(store.take(), dim=2)  # as Eq. 8 takes them together
        region = torch.empty(items, 1, side, side, device="meta")
        for token in range(2):
            loss = loss + losses.attention_refocusing(heads[:, token], region).mean()
        loss.backward()
    return living.peak


def decoder_bytes(pixels: int, *, again: bool) -> int:
    """The most that decoding a square of `pixels` a side, with its backward, keeps, beside weights.

    again: its parts are computed again going backward.
    """
    _, vae = networks()
    if again:
        recompute(decoder_parts(vae.decoder))
    with Living([*vae.parameters(), *vae.buffers()]) as living, fused_attention():
        latents = torch.empty(1, 4, pixels // 8, pixels // 8, device="meta", dtype=vae.dtype).requires_grad_()
        vae.decode(latents).sample.float().mean().backward()
    return living.peak


def main() -> None:
    """Print a row for each resolution."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("resolution", type=int, nargs="+")
    options = parser.parse_args()
    for resolution in options.resolution:
        for recomputed in get_args(Recomputed):
            one, three = (unet_bytes(resolution, items, recomputed) for items in (1, 3))
            print(
                f"{resolution} px, {recomputed} computed again: UNet {one / 1e9:.2f} GB for one item, "
                f"{three / 1e9:.2f} GB for three",
                flush=True,
            )
        for again in (False, True):
            whole, half = (decoder_bytes(pixels, again=again) for pixels in (resolution, resolution // 2))
            print(
                f"{resolution} px, {'all' if again else 'nothing'} computed again: decoder "
                f"{whole / 1e9:.2f} GB, {half / 1e9:.2f} GB for half a side",
                flush=True,
            )


if __name__ == "__main__":
    main()
