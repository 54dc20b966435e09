"""What finishing and sheets look like, and how long each stage takes: the pictures and numbers of the README.

    python tools/finish_evidence.py --out FOLDER [--only sheet checklist times stages]

Real-ESRGAN is used from MAGICAPTURE_WEIGHTS. GFPGAN is taken from there, too; where it is not, random weights of its
published layout stand in, which show the way of a picture and what the identity guard does, but no restoration.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from magicapture_core.config import PostprocessConfig  # noqa: E402
from magicapture_core.photos import read_photo  # noqa: E402
from magicapture_core.weights import ASSETS, find_weight, weights_dir  # noqa: E402
from tools.mark import mark  # noqa: E402


def beside(pictures: dict[str, np.ndarray], side: int) -> Image.Image:
    """Pictures in a row, each `side` pixels wide with its title below."""
    font = ImageFont.load_default(15)
    sheet = Image.new("RGB", (len(pictures) * (side + 8) - 8, side + 26), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, pixels) in enumerate(pictures.items()):
        x = number * (side + 8)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC), (x, 0))
        pen.text((x + 2, side + 4), title, fill="black", font=font)
    return sheet


def stand_in(folder: Path) -> bool:
    """Whether GFPGAN is random: then a file of it is put into `folder`, beside links to all real weights."""
    if find_weight("GFPGANv1.4"):
        return False
    from restorers import save_gfpgan

    folder.mkdir(parents=True, exist_ok=True)
    for path in weights_dir().glob("*"):
        if path.is_file() and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    save_gfpgan(folder / "GFPGANv1.4.pth")
    os.environ["MAGICAPTURE_WEIGHTS"] = str(folder)
    return True


def show_stages(out: Path, random: bool) -> None:
    """generated → super-resolved → restored."""
    from magicapture_core import GenerateConfig, generate, load
    from magicapture_core.postprocess import finish

    models = load("mini", device="cpu")
    wanted = {"prompt": "a photo of a woman, smiling", "count": 1, "seed": 2, "enlarge": 1.0}
    portrait = next(generate(models, None, GenerateConfig(**models.generate_defaults | wanted)))
    before = np.asarray(portrait.image)
    config = PostprocessConfig(upscale=4, upscaler="realesrgan", restore="gfpgan")
    done = finish(before, config, device="cpu")
    titles = {"upscale": "super-resolved", "restore": "restored, random weights" if random else "restored"}
    row = {f"generated ({len(before)} px)": before}
    row |= {f"{titles[stage]} ({picture.shape[1]} px)": picture for stage, picture in done.stages.items()}
    beside(row, 384).save(out / "finish-stages.webp", quality=85)
    mark(out / "finish-stages.webp")
    print("notes:", *done.notes, "faces:", done.faces, "seconds:", done.seconds, sep="\n  ", flush=True)


def show_checklist(out: Path) -> None:
    """Five that should pass, and five that should fail, each for another reason."""
    import test_formats as cases

    from magicapture_core.formats import SPECS
    from magicapture_core.formats.passport import make_passport_photo

    photos = {f"{who} {number}": cases.person(who, number) for who, number in cases.GOOD}
    bad = ("neutral", "whole", "even_light", "sharpness", "eyes_visible")
    photos |= {name: cases.BAD[name]() for name in bad}
    font = ImageFont.load_default(14)
    sheet = Image.new("RGB", (5 * 220, 2 * 330), "white")
    pen = ImageDraw.Draw(sheet)
    rows = []
    for number, (name, pixels) in enumerate(photos.items()):
        photo = make_passport_photo(pixels, SPECS["icao"])
        rows.append(
            {"photo": name, "passed": photo.passed, "failed": {c.title: c.value for c in photo.failed}}
        )
        x, y = number % 5 * 220, number // 5 * 330
        sheet.paste(Image.fromarray(photo.pixels).resize((210, 270), Image.Resampling.LANCZOS), (x, y))
        meant = [check for check in photo.failed if check.name == name] or photo.failed
        said = "pass" if photo.passed else f"{meant[0].title}:\n{meant[0].value}"
        pen.text((x, y + 274), said, fill="green" if photo.passed else "firebrick", font=font)
    sheet.save(out / "finish-checklist.webp", quality=82)
    mark(out / "finish-checklist.webp")
    print(json.dumps(rows, indent=1, ensure_ascii=False))


def show_sheet(out: Path) -> None:
    """A sheet as PDF, and that PDF as a picture."""
    from magicapture_core.formats import PAPERS, SPECS
    from magicapture_core.formats.passport import make_passport_photo
    from magicapture_core.formats.sheet import write_sheet

    photo = make_passport_photo(read_photo(ASSETS / "people" / "bruno" / "5.jpg").pixels, SPECS["icao"])
    write_sheet(photo, PAPERS["10x15cm"], out / "sheet.pdf")
    if shutil.which("pdftoppm"):
        subprocess.run(
            ["pdftoppm", "-r", "200", "-png", "-singlefile", out / "sheet.pdf", out / "sheet"], check=True
        )
        with Image.open(out / "sheet.png") as image:
            image.convert("RGB").save(out / "finish-sheet.webp", quality=82)
        mark(out / "finish-sheet.webp")


def show_times(out: Path) -> None:
    """Seconds of every stage for one portrait of 512 pixels, on all cores, which should be idle."""
    import torch

    from magicapture_core.formats import PAPERS, SPECS
    from magicapture_core.formats.passport import make_passport_photo
    from magicapture_core.formats.sheet import write_sheet
    from magicapture_core.postprocess import finish

    pixels = read_photo(ASSETS / "people" / "bruno" / "5.jpg").pixels
    times: dict[str, Any] = {"threads": torch.get_num_threads()}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        times[name] = round(time.perf_counter() - begun, 1)
        print(name, times[name], flush=True)
        return result

    make_passport_photo(pixels, SPECS["icao"])  # MediaPipe's start is not counted
    photo = timed("crop, background, checklist", lambda: make_passport_photo(pixels, SPECS["icao"]))
    timed("sheet as PDF", lambda: write_sheet(photo, PAPERS["10x15cm"], out / "sheet.pdf"))
    plain = PostprocessConfig(upscaler="lanczos", upscale=1, restore="gfpgan", identity_budget=2)
    timed("GFPGAN, one face", lambda: finish(pixels, plain, device="cpu").seconds)
    config = PostprocessConfig(upscaler="realesrgan", restore="none", upscale=2)
    timed("Real-ESRGAN ×4, shrunk to ×2", lambda: finish(pixels, config, device="cpu"))
    (out / "times.json").write_text(json.dumps(times, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="+", default=["sheet", "checklist", "times", "stages"], help="which parts"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if "sheet" in options.only:
        show_sheet(options.out)
    if "checklist" in options.only:
        show_checklist(options.out)
    random = not {"stages", "times"}.isdisjoint(options.only) and stand_in(options.out / "weights")
    if "stages" in options.only:
        show_stages(options.out, random)
    if "times" in options.only:
        show_times(options.out)


if __name__ == "__main__":
    main()
