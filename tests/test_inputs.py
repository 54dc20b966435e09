"""What the command line takes in: photos and masks by their names, and whose photos are learned from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicapture_core import __main__ as command_line
from magicapture_core.checkpoints import Run
from magicapture_core.commands.inputs import read_masks, read_photos
from magicapture_core.photos import Photo
from magicapture_core.problems import Problem
from magicapture_core.weights import ASSETS

PEOPLE = ASSETS / "people"


def folder_of(path: Path, *files: tuple[str, Path]) -> Path:
    """A folder with copies of photos under other names."""
    path.mkdir()
    for name, source in files:
        shutil.copyfile(source, path / name)
    return path


def quick(subject: Path, style: Path, toy_folder: Path, run: Path, *more: str) -> int:
    """Train one step."""
    once = ("--ti-steps", "1", "--lora-steps", "0", "--batch-size", "1", "--attention-resolution", "8")
    given = ("--subject", str(subject), "--style", str(style), "--model", str(toy_folder), "--out", str(run))
    return command_line.main(["train", *given, *once, *more])


@pytest.mark.long
def test_another_person_and_a_duplicate_are_left_out_unless_asked(
    tmp_path: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alma, conrad, bruno = (PEOPLE / name for name in ("alma", "conrad", "bruno"))
    subject = folder_of(
        tmp_path / "subject", *((f"{i}.jpg", alma / f"{i}.jpg") for i in (1, 2, 3)),
        ("stranger.jpg", conrad / "1.jpg"), ("twice.jpg", alma / "1.jpg"),
    )  # fmt: skip
    style = folder_of(tmp_path / "style", ("1.jpg", bruno / "1.jpg"), ("2.jpg", bruno / "2.jpg"))
    assert quick(subject, style, toy_folder, tmp_path / "a") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out 2 of the 5 subject photos:" in said
    assert "stranger.jpg: This seems to be a different person" in said
    assert "twice.jpg: Almost the same photo as 1.jpg" in said
    assert "--use-all" in said
    assert quick(subject, style, toy_folder, tmp_path / "b", "--use-all") == 0
    assert "Left out" not in capsys.readouterr().out
    assert [len(Run.open(tmp_path / name).facts().subject) for name in "ab"] == [3, 5]


def test_where_everybody_differs_nobody_is_learned(
    tmp_path: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = folder_of(
        tmp_path / "subject", *((f"{n}.jpg", PEOPLE / n / "1.jpg") for n in ("alma", "conrad"))
    )
    assert quick(subject, PEOPLE / "bruno", toy_folder, tmp_path / "run") == 1
    assert "is left. Give others, or --use-all" in " ".join(capsys.readouterr().out.split())


def test_a_mistyped_folder_is_called_so(
    tmp_path: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick(tmp_path / "typo", PEOPLE / "bruno", toy_folder, tmp_path / "run") == 1
    said = "".join(capsys.readouterr().out.split())
    assert "typodoesnotexist:expectedafolder" in said
    assert "unreadable" not in said


def test_photos_by_any_name_are_read_and_others_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1.jpg", "2.jfif", "3.JPE"):
        shutil.copyfile(PEOPLE / "alma" / "1.jpg", tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    found, unreadable = read_photos((tmp_path,))
    assert ([photo.name for photo in found], unreadable) == (["1.jpg", "2.jfif", "3.JPE"], 0)
    assert "not read, for their names do not end as photos' do: notes.txt" in " ".join(
        capsys.readouterr().out.split()
    )


def test_masks_by_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [Photo(name, np.zeros((8, 8, 3), np.uint8)) for name in ("2.jpg", "IMG_4.jpg", "a.jpg", "a.png")]
    for name in ("2.PNG", "img_4.png", "a.jpg.png", "nobody.png", "a.gif"):
        Image.new("L", (8, 8), 255).save(tmp_path / name)
    assert sorted(read_masks(tmp_path, photos)) == ["2.jpg", "IMG_4.jpg", "a.jpg"]
    said = " ".join(capsys.readouterr().out.split())
    assert "not used: a.gif, nobody.png" in said


def test_a_mask_of_two_photos_is_refused(tmp_path: Path) -> None:
    photos = [Photo(name, np.zeros((8, 8, 3), np.uint8)) for name in ("a.jpg", "a.png")]
    Image.new("L", (8, 8), 255).save(tmp_path / "a.png")
    with pytest.raises(Problem, match=r"could be the mask of .*a\.jpg\.png and a\.png\.png"):
        read_masks(tmp_path, photos)


def test_a_name_of_250_letters_stops_no_other_photo(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder_of(
        folder,
        ("a" * 250 + ".jpg", PEOPLE / "alma" / "1.jpg"),
        ("é" * 120 + ".jpg", PEOPLE / "alma" / "2.jpg"),
    )
    assert command_line.main(["masks", str(folder), "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 6
