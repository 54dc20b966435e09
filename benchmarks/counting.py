"""Stable Diffusion 1.5's training steps without any numbers in them: operations by part, and memory, on any computer.

    python benchmarks/counting.py [--json]

The trainer's own step runs on torch's fake tensors: shapes and dtypes, no memory, no arithmetic. Operations are those
of torch's flop counter (a multiplication and an addition are two), in TFLOP, of matrix products, convolutions and
attention. Memory is what lives at the same time beyond the networks, in GB (10⁹ bytes): what the backward pass needs,
gradients, and what an operation gives; an operation's own workspace on a GPU is not in it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, concept, show
from magicapture_core.adapters.trained import TrainedWeights
from magicapture_core.attention import listen
from magicapture_core.config import TrainConfig
from magicapture_core.faces import Warps, choose_analyser
from magicapture_core.faces.sface import SFace
from magicapture_core.models.stable_diffusion import StableDiffusion
from magicapture_core.training.data import Encoded
from magicapture_core.training.draws import Phase, Sizes, draw_step
from magicapture_core.training.memory import RESERVE, costs, plan
from magicapture_core.training.objective import Objective, TaskPrompts
from magicapture_core.training.recompute import Recomputed, decoder_parts, recompute, unet_parts
from magicapture_core.training.sending import sent
from tools.make_random_sd15 import NO_CHANGES, random_pipeline

CPU = torch.device("cpu")
PARTS = {"UNet": "UNet2DConditionModel", "decoder": "Decoder", "text encoder": "CLIPTextModel",
         "face recognition": "SFace"}  # fmt: skip
"""Networks, and their classes, by which torch's counter names them."""


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


for _function in (_attention, _attention_backward):
    _function._get_raw = True  # type: ignore[attr-defined]
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch's counter knows the fused attention of GPUs; the CPU's is the same."""
PHOTOS = 10
"""Cached latents of each concept: five photos and their mirror images."""


class Living(TorchDispatchMode):
    """Bytes of the tensors that live, made since it was entered; `peak` is the most at one time."""

    def __init__(self, old: Iterable[Tensor]) -> None:
        """old: what was there before, of which views are made."""
        super().__init__()
        self.now = self.peak = 0
        self._old = {each.untyped_storage()._cdata for each in old}
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for each in tree_leaves(output):
            if isinstance(each, Tensor):
                self.meet(each)
        return output

    def meet(self, tensor: Tensor) -> None:
        """Count a tensor's storage, until it is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._old:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def faked(module: nn.Module, mode: FakeTensorMode) -> None:
    """Give a module on the meta device fake tensors of the CPU, for which torch takes its fused attention, as on a
    GPU."""
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                with mode:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                each._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                with mode:
                    each._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def shapes_of_sd15(
    dtype: torch.dtype, changes: Mapping[str, Mapping[str, Any]] = NO_CHANGES
) -> StableDiffusion:
    """The published configuration on the meta device, with `changes` as `random_pipeline` takes them."""
    from diffusers import DDPMScheduler

    with torch.device("meta"):
        pipeline = random_pipeline(dtype, changes=changes)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for module in (unet, vae, text_encoder):
        module.requires_grad_(False).eval()
    return StableDiffusion(
        name="Stable Diffusion 1.5",
        source="",
        tokenizer=pipeline.tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        noise_scheduler=DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False),
        device=CPU,
        dtype=dtype,
    )


@dataclass(frozen=True)
class Case:
    """One way to make a step."""

    phase: Phase = "lora"
    items: int = 4
    """Of each task per UNet call; 4 are a step."""
    recomputed: Recomputed = "nothing"
    decoder_recomputed: bool = False
    decodes: bool = True
    """Whether there is Eq. 7 in it."""


class Counter:
    """Counts cases of one model, on pictures of `resolution` pixels whose faces have these landmarks (n, 5, 2)."""

    def __init__(self, models: StableDiffusion, landmarks: Tensor, resolution: int = 512) -> None:
        self.models, self.landmarks, self.resolution = models, landmarks, resolution
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            self.recogniser = SFace().eval().requires_grad_(False)
        self.weights = TrainedWeights(models, TrainConfig())
        self.weights.attach()
        for network in (*models.networks, self.recogniser):
            faked(network, self.mode)
        self.window = 0

    def network_bytes(self) -> int:
        """Of everything that a GPU holds all the time: the autoencoder in float32, a half-precision copy of its
        decoder, and the rest as it is."""
        sizes = {
            id(network): sum(each.nbytes for each in network.parameters()) for network in self.models.networks
        }
        vae, decoder = self.models.vae, sum(each.nbytes for each in self.models.vae.decoder.parameters())
        exact = 4 / vae.dtype.itemsize * sizes.pop(id(vae))
        return int(
            sum(sizes.values()) + exact + decoder + sum(e.nbytes for e in self.recogniser.parameters())
        )

    def tflop(self, case: Case) -> dict[str, float]:
        """By network; without those that have none."""
        operations = FlopCounterMode(display=False, custom_mapping=ATTENTION)
        self._step(case, operations)
        by_part = {name: sum(found.values()) / 1e12 for name, found in operations.get_flop_counts().items()}
        return {name: by_part[key] for name, key in PARTS.items() if key in by_part}

    def gb(self, case: Case) -> float:
        """Beyond the networks."""
        networks = (*self.models.networks, self.recogniser)
        living = Living(parameter for network in networks for parameter in network.parameters())
        self._step(case, living)
        return living.peak / 1e9

    def _step(self, case: Case, counting: Any) -> None:
        config = TrainConfig(
            resolution=self.resolution, lambda_id=0.25 * case.decodes, gradient_accumulation=case.items
        )
        parts = unet_parts(self.models.unet, case.recomputed)
        if case.decoder_recomputed:
            parts += decoder_parts(self.models.vae.decoder)
        end = recompute(parts)
        with self._objective(config) as objective:
            sizes = Sizes(PHOTOS, PHOTOS, PHOTOS, objective.style.latents.shape[1:], 1000)  # type: ignore[arg-type]
            draw = draw_step(torch.Generator().manual_seed(0), sizes, case.phase, config)
            there = sent(draw, objective.prompts.ids, objective.prompts.token_ids, CPU)
            # One at a time: what the flop counter hooks to a network keeps what is computed again.
            with self.mode, counting:
                objective.backpropagate(there, case.phase, 1.0, case.items)
        end()
        for parameter in self.weights.parameters.values():
            parameter.grad = None

    @contextmanager
    def _objective(self, config: TrainConfig) -> Iterator[Objective]:
        models, side = self.models, self.resolution // self.models.vae_scale_factor
        encoded = Encoded(
            torch.zeros(PHOTOS, models.unet.config.in_channels, side, side), torch.zeros(PHOTOS, 1, side, side),
            self.landmarks.repeat(PHOTOS, 1, 1)[:PHOTOS], (), torch.zeros(PHOTOS, 4),
        )  # fmt: skip
        prompts = TaskPrompts(models, nn.Parameter(torch.zeros(2, models.embedding_width)), config.noun)
        with listen(models.unet, models.listened_side(side, config), side) as store:
            objective = Objective(models, config, prompts, encoded, encoded, _Recognition(self.recogniser),
                                  torch.zeros(PHOTOS, SFace.dim), store)  # fmt: skip
            self.window = objective.windows.side
            yield objective


class _Recognition:
    """`FaceLikeness` by a network without weights."""

    name = SFace.name

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def warps(self, landmarks: Tensor, height: int, width: int) -> Warps:
        return Warps.made(landmarks, height, width, SFace.size)

    def __call__(self, pictures: Tensor, warps: Warps | None) -> Tensor:
        assert warps is not None
        embedded: Tensor = self.network(warps.cut(pictures.float() / 2 + 0.5))
        return embedded


@dataclass
class Arguments:
    """Count operations and memory."""

    memory: bool = True
    """Also count the memory of every way to split a step; without it only the operations of a step of each phase."""
    json: bool = False
    """Print JSON instead of a line each."""


CARDS = (6, 8, 12, 16, 24)
CASES = {
    # Four items of each task at once; what computes parts of the UNet again does so with the decoder.
    "phase 1": Case("textual_inversion"),
    "phase 2": Case(),
    "phase 2, largest recomputed": Case(recomputed="largest", decoder_recomputed=True),
    "phase 2, all recomputed": Case(recomputed="all", decoder_recomputed=True),
}


def main(arguments: Arguments) -> dict[str, Any]:
    counter = Counter(shapes_of_sd15(torch.bfloat16), landmarks_of_a_style())
    results: dict[str, Any] = {}

    def tell(name: str, value: Any) -> None:
        results[name] = value
        if not arguments.json:
            print(f"{name}: {value}", flush=True)

    for name, case in CASES.items():
        tell(f"TFLOP, {name}", {part: round(value, 2) for part, value in counter.tflop(case).items()})
    tell("window, cells", counter.window)
    tell("GB of the networks", round(counter.network_bytes() / 1e9, 2))
    for card in CARDS:
        tell(f"a card of {card} GB", planned(counter, card))
    if arguments.memory:
        for name, case in CASES.items():
            tell(f"GB, {name}", round(counter.gb(case), 2))
        for name, value in by_item(counter, tell).items():
            tell(f"GB of an item, {name}", round(value, 3))
        tell("GB of an item, tiny decoder", round(tiny_decoder_gb(counter.mode), 3))
    return results


def by_item(counter: Counter, tell: Callable[[str, Any], None]) -> dict[str, float]:
    """GB that one item takes: in the UNet, and in the decoder by 512×512 pixels."""
    found: dict[str, float] = {}
    names: tuple[Recomputed, ...] = ("nothing", "largest", "all")
    for name in names:
        case = Case(recomputed=name, decodes=False)
        taken = counter.gb(case)
        tell(f"GB, phase 2 without Eq. 7, {name} recomputed", round(taken, 2))
        found[f"UNet, {name} recomputed"] = taken / (3 * case.items)
    for again in (False, True):
        # With everything of the UNet computed again the decode takes more than the tasks before it.
        case = Case(recomputed="all", decoder_recomputed=again)
        taken = counter.gb(case)
        what = "all" if again else "nothing"
        tell(f"GB, phase 2, all of the UNet and {what} of the decoder recomputed", round(taken, 2))
        each = taken / case.items - found["UNet, all recomputed"]
        found[f"decoder, {what} recomputed"] = each / (counter.window / 64) ** 2
    return found


def planned(counter: Counter, card: int) -> str:
    """How a card of so many GB, which holds nothing else, would split a step, and what that takes in all."""
    found = costs(counter.models, TrainConfig(), counter.window)
    networks = counter.network_bytes()
    chosen = plan(card * 1e9 - networks - RESERVE, found, least=1, most=4, wanted=4)
    again = "and the decoder" if chosen.decoder_recomputed else "and nothing of the decoder"
    return (
        f"{chosen.items_per_call} items a call; {chosen.recomputed} of the UNet {again} computed again; "
        f"{(networks + found.of(chosen)) / 1e9:.1f} GB"
    )


def tiny_decoder_gb(mode: FakeTensorMode) -> float:
    """What TAESD takes of one item of 512×512 pixels."""
    from diffusers import AutoencoderTiny

    with torch.device("meta"):
        decoder = AutoencoderTiny().to(torch.bfloat16).requires_grad_(False).eval()
    faked(decoder, mode)
    living = Living(decoder.parameters())
    with mode, living:
        latents = torch.zeros(1, 4, 64, 64, dtype=torch.bfloat16, requires_grad=True)
        decoder.decode(latents).sample.sum().backward()
    return living.peak / 1e9


def landmarks_of_a_style() -> Tensor:
    """(n, 5, 2) of the photos that benchmarks/full_size.py measures with, at 512 pixels."""
    style = concept("style", ROOT / "presets" / "passport", 512, choose_analyser("bundled")[0])
    return torch.stack([each.landmarks for each in style.examples if each.landmarks is not None])


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    if chosen.json:
        show(outcome, as_json=True)
