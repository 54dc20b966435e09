"""The process that trains, one stage after the other, beside the one that makes the data (pictures.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from magicapture_core.faces.sface import load_sface
from tools.mini import export, latents, stage, train_decoder, train_unet, train_vae
from tools.mini.cleaning import cleaning, nothing_to_clean
from tools.mini.clock import RunClock
from tools.mini.faces import READY
from tools.mini.muon import Muon
from tools.mini.networks import Denoiser, decoded, make_denoiser, make_vae, posterior_mean
from tools.mini.perceptual import Perceptual
from tools.mini.pictures import PICTURES_READY
from tools.mini.settings import SHRINK, SIDE, Settings


@dataclass
class Networks:
    """All that is trained, built at once, so that compiling can go on while the faces are made."""

    vae: Any
    vae_optimizer: Muon
    denoiser: Denoiser
    optimizer: Muon
    tokenizer: CLIPTokenizer
    encode: Any
    decode: Any
    predict: Any


def build(settings: Settings, clock: RunClock) -> Networks:
    """On the device, in the precision it computes in, compiled where that pays."""
    device = torch.device(settings.device)
    torch.manual_seed(settings.seed)
    tokenizer = CLIPTokenizer.from_pretrained(settings.tokenizer)
    vae, denoiser = (
        make_vae(settings).to(device).train(),
        make_denoiser(settings, tokenizer).to(device).train(),
    )
    vae_optimizer = Muon(vae.named_parameters(), 2e-3, 1e-3, weight_decay=1e-3)
    optimizer = Muon(denoiser.named_parameters(), 1e-3, 5e-4, average=0.9995)
    counts = (f"{name} {sum(weight.numel() for weight in network.parameters()) / 1e6:.1f} M"
              for name, network in (("autoencoder", vae), ("UNet and words", denoiser)))  # fmt: skip
    clock.say("parameters:", ", ".join(counts))
    for network in (vae, denoiser):
        torch.nn.Module.to(
            network, dtype=stage.half(device)
        )  # diffusers' own `to` warns of networks it does not know
    made = Networks(
        vae, vae_optimizer, denoiser, optimizer, tokenizer, lambda pixels: posterior_mean(vae, pixels),
        lambda values: decoded(vae, values), denoiser.predict,
    )  # fmt: skip
    _compile(made, settings, clock)
    return made


def _compile(networks: Networks, settings: Settings, clock: RunClock) -> None:
    """The UNet, which takes half of the time; the autoencoder, too, as long as there are no faces yet."""
    device, sizes, side = torch.device(settings.device), settings.sizes, SIDE // SHRINK
    dtype, channels = stage.half(device), networks.denoiser.unet.config.in_channels
    width = networks.denoiser.unet.config.cross_attention_dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    def noisy() -> tuple[Tensor, ...]:
        timesteps = torch.randint(0, train_unet.TIMESTEPS, (sizes.unet_batch,), device=device)
        states = normal(sizes.unet_batch, networks.tokenizer.model_max_length, width)
        return normal(sizes.unet_batch, channels, side, side), timesteps, states

    networks.predict = stage.fastest("UNet", networks.predict, noisy, clock.say)
    for name, what, shape in (
        ("decode", "decoder", (channels, side, side)),
        ("encode", "encoder", (3, SIDE, SIDE)),
    ):
        if settings.start_from or (settings.work / READY).exists():
            break
        values = (sizes.vae_batch, *shape)
        fast = stage.fastest(
            what, getattr(networks, name), lambda values=values: (normal(*values),), clock.say
        )
        setattr(networks, name, fast)
    for network in (networks.vae, networks.denoiser):
        network.zero_grad(set_to_none=True)


def _vae_weights(
    settings: Settings, clock: RunClock, networks: Networks, perceptual: Perceptual
) -> dict[str, Tensor]:
    """The trained autoencoder's weights in float32; those that it came with where it is trained on from a model."""
    optimizer = networks.vae_optimizer
    # By the latents, which are written last: without them the pictures are encoded, by weights that must be trained.
    if not settings.start_from and not (settings.work / latents.LATENTS).exists():
        embedder = load_sface().to(settings.device)
        stock = train_vae.Stock.open(settings.work)
        step = train_vae.VaeTraining(
            networks.vae, optimizer, stock, perceptual, embedder, settings, networks.encode, networks.decode
        )
        train_vae.train(step, clock, saved=lambda: None)
    return optimizer.averages


def train_all(settings: Settings, clock: RunClock) -> None:
    """Autoencoder, latents, decoder, then UNet and text encoder; the model folder is written along the way."""
    device = torch.device(settings.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    export.write_rest(settings)
    networks = build(settings, clock)
    perceptual = Perceptual(settings.mobilenet).to(device, stage.half(device))
    clock.wait_for(settings.work / READY)
    weights = _vae_weights(settings, clock, networks, perceptual)
    clock.wait_for(settings.work / PICTURES_READY)
    data = latents.on(latents.prepare(settings, clock, networks.vae, weights), device)
    weights = torch.load(settings.work / latents.BAKED, map_location=device, weights_only=True)
    write_vae(settings, weights)
    train_decoder.train(settings, clock, networks.vae, weights, data, perceptual,
                        lambda better: write_vae(settings, weights | better))  # fmt: skip
    del perceptual
    stage.free_memory()
    _train_unet(settings, clock, networks, data)


def write_vae(settings: Settings, weights: dict[str, Tensor]) -> None:
    """Into the model folder; weights in float32."""
    vae = make_vae(settings)
    vae.load_state_dict(weights)
    export.write_part(vae, settings.model / "vae")


def _train_unet(settings: Settings, clock: RunClock, networks: Networks, data: latents.Latents) -> None:
    training = train_unet.UnetTraining(
        networks.denoiser, networks.optimizer, data, networks.tokenizer, settings, networks.predict
    )
    if settings.pairs:  # it learns words of spoiled pictures, too
        faces, clean = torch.cat([data.people, data.spoiled]), nothing_to_clean(data.people.shape[1])
    else:
        faces, clean = data.people, cleaning(data.spoiled, data.people)
    copy = make_denoiser(settings, networks.tokenizer)

    def write() -> None:
        """The averaged weights into the model folder, so that the newest are there wherever it is stopped."""
        copy.load_state_dict(networks.optimizer.averages)
        export.write_part(copy.unet, settings.model / "unet")
        export.write_part(copy.text_encoder, settings.model / "text_encoder")
        export.write_words(settings.model, copy.words(), data.look_mean, data.look_std, faces, clean)

    train_unet.train(training, clock, write)
