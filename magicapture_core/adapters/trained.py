"""What phase 2 trains beside the embeddings, in the networks while it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from magicapture_core.adapters.full_weights import Originals, freeze_again, save_unet, unfreeze
from magicapture_core.adapters.lora import add_lora, remove_lora, save_lora
from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle


@dataclass
class TrainedWeights:
    """LoRA, or unlike the paper weights of the UNet itself (`TrainConfig.trained`). Empty until `attach`."""

    models: ModelBundle
    config: TrainConfig
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    """By name, fp32."""
    originals: Originals = field(default_factory=dict)
    """What weights of the UNet itself were before."""

    def attach(self) -> None:
        """Put them into the networks; LoRA's update starts at zero. Once only."""
        if self.parameters:
            return
        if self.config.trained == "lora":
            self.parameters = add_lora(self.models, self.config)
        else:
            self.parameters, self.originals = unfreeze(self.models.unet, self.config.trained)

    def detach(self) -> None:
        """Leave the networks as they were."""
        remove_lora(self.models)
        freeze_again(self.models.unet, self.originals)

    def save(self, folder: Path) -> None:
        """Write them into an adapter's folder; nothing before `attach`."""
        if self.originals:
            save_unet(self.parameters, folder, self.models.dtype)
        elif self.parameters:
            save_lora(self.models, folder)

    def autocast(self) -> torch.autocast:
        """The UNet's own weights are trained in fp32, however it was loaded; its layers still compute as loaded."""
        needed = self.config.trained != "lora" and self.models.dtype != torch.float32
        return torch.autocast(
            self.models.device.type, dtype=self.models.dtype if needed else None, enabled=needed
        )
