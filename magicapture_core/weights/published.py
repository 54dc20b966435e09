"""The weight files that are published: what they are, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass

from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem


@dataclass(frozen=True)
class Weight:
    """One published weight file."""

    name: str
    filename: str
    """Its published file name."""
    size: int | None
    """Bytes, if known."""
    sha256: str | None
    """If published."""
    licence: str
    url: str
    purpose: str
    aliases: tuple[str, ...] = ()
    """Other file names of the same weights."""

    @property
    def readable_size(self) -> str:
        """The size as text."""
        return _("size unknown") if self.size is None else f"{self.size / 1e6:.0f} MB"


_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download"
_REALESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download"

WEIGHTS: dict[str, Weight] = {
    weight.name: weight
    for weight in (
        Weight(
            "detection_Resnet50_Final",
            "detection_Resnet50_Final.pth",
            109_497_761,
            "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
            "MIT (facexlib, Pytorch_Retinaface)",
            f"{_FACEXLIB}/v0.1.0/detection_Resnet50_Final.pth",
            N_("RetinaFace with ResNet-50: finds faces and their five points"),
        ),
        Weight(
            "parsing_parsenet",
            "parsing_parsenet.pth",
            85_331_193,
            "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
            "MIT (facexlib, PSFRGAN); trained on CelebAMask-HQ, whose terms are non-commercial",
            f"{_FACEXLIB}/v0.2.2/parsing_parsenet.pth",
            N_("ParseNet: labels skin, eyes, hair and neck; face restoration pastes back with it"),
        ),
        Weight(
            "parsing_bisenet",
            "parsing_bisenet.pth",
            53_289_463,
            "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
            "MIT (facexlib, face-parsing.PyTorch); trained on CelebAMask-HQ, whose terms are non-commercial",
            f"{_FACEXLIB}/v0.2.0/parsing_bisenet.pth",
            N_("BiSeNet: labels skin, eyes, hair and neck; the face mask comes from it"),
            ("79999_iter.pth",),
        ),
        Weight(
            "recognition_arcface_ir_se50",
            "recognition_arcface_ir_se50.pth",
            175_367_323,
            "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
            "MIT (facexlib, InsightFace_Pytorch); trained on MS1M, which is for research only",
            f"{_FACEXLIB}/v0.1.0/recognition_arcface_ir_se50.pth",
            N_("ArcFace IR-SE50: tells people apart; the identity loss of the paper"),
            ("model_ir_se50.pth",),
        ),
        Weight(
            "RealESRGAN_x2plus",
            "RealESRGAN_x2plus.pth",
            67_061_725,
            "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
            "BSD-3-Clause",
            f"{_REALESRGAN}/v0.2.1/RealESRGAN_x2plus.pth",
            N_("Real-ESRGAN ×2: super-resolution of the whole picture"),
        ),
        Weight(
            "RealESRGAN_x4plus",
            "RealESRGAN_x4plus.pth",
            67_040_989,
            "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
            "BSD-3-Clause",
            f"{_REALESRGAN}/v0.1.0/RealESRGAN_x4plus.pth",
            N_("Real-ESRGAN ×4: super-resolution of the whole picture"),
            ("RealESRGAN_x4plus.safetensors", "RealESRGAN_x4plus.fp16.safetensors"),
        ),
        Weight(
            "GFPGANv1.4",
            "GFPGANv1.4.pth",
            348_632_874,
            "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
            "Apache-2.0; contains StyleGAN2 parts under Nvidia's own terms",
            "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.4/GFPGANv1.4.pth",
            N_("GFPGAN 1.4: face restoration, the default"),
        ),
        Weight(
            "CodeFormer",
            "codeformer.pth",
            376_637_898,
            "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
            "S-Lab License 1.0: non-commercial use only",
            "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
            N_("CodeFormer: face restoration with a fidelity setting, the paper's"),
            ("codeformer-v0.1.0.pth",),
        ),
        Weight(
            "w600k_mbf",
            "w600k_mbf.onnx",
            13_616_099,
            "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
            "InsightFace's models: non-commercial research only",
            "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_s.zip",
            N_("ArcFace MobileFaceNet: judges likeness in evaluations, and is in no loss"),
        ),
        Weight(
            "aesthetic_sac_logos_ava1_l14",
            "sac+logos+ava1-l14-linearMSE.pth",
            3_714_759,
            "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            "Apache-2.0 (LAION, improved-aesthetic-predictor)",
            "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
            "sac%2Blogos%2Bava1-l14-linearMSE.pth",
            N_("LAION's aesthetic predictor over CLIP ViT-L/14, as in the paper"),
        ),
    )
}


def weight(name: str) -> Weight:
    """The entry of WEIGHTS; Problem for an unknown name."""
    if name not in WEIGHTS:
        raise Problem(_(
            "There is no weight file called {name}. Known: {known}.", name=repr(name), known=", ".join(WEIGHTS),
        ))  # fmt: skip
    return WEIGHTS[name]
