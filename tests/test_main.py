"""The command line, run in this process on real files: exit codes, files written, messages."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import ToyAnalyser

from magicapture_core import __main__ as command_line
from magicapture_core.checkpoints import Run
from magicapture_core.commands.inputs import read_masks
from magicapture_core.commands.portraits import _file_part
from magicapture_core.config import TrainConfig

CORE = Path(command_line.__file__).parent
STEPS = ("--ti-steps", "2", "--lora-steps", "2", "--batch-size", "1", "--attention-resolution", "8")


@pytest.fixture(autouse=True)
def toy_faces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy analyser instead of the real one, unless the test asks for real faces."""
    if "real_faces" not in request.keywords:
        monkeypatch.setattr("magicapture_core.faces.choose_analyser", lambda *_: (ToyAnalyser(), "a toy"))


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """A folder of subject photos and one of style photos, smooth random pictures."""
    folders = {}
    for seed, role in enumerate(("subject", "style")):
        folders[role] = tmp_path / role
        folders[role].mkdir()
        generator = np.random.default_rng(seed)
        for number in range(4):
            coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            coarse.resize((160, 160), Image.Resampling.BICUBIC).save(folders[role] / f"{role}{number}.png")
    return folders


def on_photos(command: str, photos: dict[str, Path], out: Path) -> list[str]:
    """The command with both folders of photos, all of them used, and where it writes."""
    folders = ["--subject", str(photos["subject"]), "--style", str(photos["style"])]
    return [command, "--use-all", *folders, "--out", str(out)]


def train(photos: dict[str, Path], toy_folder: Path, run: Path, *more: str) -> int:
    return command_line.main([*on_photos("train", photos, run), "--model", str(toy_folder), *STEPS, *more])


def test_train_generate_export(
    photos: dict[str, Path], toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(photos, toy_folder, run) == 0
    assert len(Run.open(run).losses()) == 4
    out = tmp_path / "portraits"
    prompt = "a photo of a {subject} in the {style}, smiling"
    made = [
        "generate",
        str(run),
        "--prompt",
        prompt,
        "-n",
        "2",
        "--steps",
        "2",
        "--seed",
        "5",
        "--out",
        str(out),
    ]
    assert command_line.main([*made, "--attention-words", "{subject}"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "portrait-seed5.png",
        "portrait-seed5.subject.png",
        "portrait-seed6.png",
        "portrait-seed6.subject.png",
    ]
    for written in out.iterdir():  # the heat shows the face, too
        assert b"trainedAlgorithmicMedia" in written.read_bytes()
    assert command_line.main([*made[:4], "-n", "1", "--steps", "1", "--seed", "5", "--out", str(out)]) == 0
    assert (out / "portrait-seed5-2.png").exists()
    for form in ("diffusers", "kohya"):
        assert command_line.main(["export", str(run), "--format", form, "--out", str(tmp_path / form)]) == 0
        assert list((tmp_path / form).rglob("*.safetensors"))
    assert "identity" in capsys.readouterr().out


def test_resume_keeps_the_run_s_settings(photos: dict[str, Path], toy_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(photos, toy_folder, run, "--lambda-id", "0.4") == 0
    assert train(photos, toy_folder, run, "--lambda-id", "0.4") == 1  # holds a run already
    base = on_photos("train", photos, run)
    assert command_line.main([*base, "--resume"]) == 0  # finished: nothing to do
    assert command_line.main([*base, "--resume", "--lambda-id", "0.3"]) == 1
    assert Run.open(run).facts().config.lambda_id == 0.4


def test_settings_come_from_flags_then_the_model_s_schedule(
    photos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from toy import save_toy

    quick = {"ti_steps": 1, "lora_steps": 1, "lambda_attn": 0.5, "attention_resolution": 8, "batch_size": 1}
    model = save_toy(tmp_path / "model", magicapture={"schedules": {"quick": quick}})
    arguments = [*on_photos("train", photos, tmp_path / "run"), "--model", str(model), "--ti-steps", "2"]
    assert command_line.main(arguments) == 0
    config = Run.open(tmp_path / "run").facts().config
    assert (config.ti_steps, config.lora_steps, config.lambda_attn, config.resolution) == (2, 1, 0.5, 64)
    assert "not made for this model" not in capsys.readouterr().out
    assert command_line.main([*arguments, "--schedule", "fast"]) == 1
    assert "not made for this model" not in capsys.readouterr().out
    monkeypatch.setattr("magicapture_core.training.train", lambda *_, **__: (report for report in ()))
    assert command_line.main([*arguments, "--schedule", "paper"]) == 0
    assert "not made for this model: portraits can be much worse than with its own, quick" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("schedule", "steps"), [("quick", (400, 500, 2)), ("paper", (1200, 1500, 4)), (None, (1200, 1500, 4))]
)
def test_every_model_has_the_quick_schedule_of_the_wizard(
    photos: dict[str, Path], toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    schedule: str | None, steps: tuple[int, ...],
) -> None:  # fmt: skip
    seen: list[TrainConfig] = []

    def remember(_models: Any, _subject: Any, _style: Any, config: TrainConfig, *_: Any, **__: Any) -> Any:
        seen.append(config)
        yield from ()

    assert not (toy_folder / "magicapture.json").exists()
    monkeypatch.setattr("magicapture_core.training.train", remember)
    arguments = [*on_photos("train", photos, tmp_path / "run"), "--model", str(toy_folder), "--seed", "3"]
    assert command_line.main([*arguments, *(["--schedule", schedule] if schedule else [])]) == 0
    [config] = seen
    assert (config.ti_steps, config.lora_steps, config.gradient_accumulation) == steps
    assert (config.resolution, config.seed) == (64, 3)


def test_an_object_needs_no_face(photos: dict[str, Path], toy_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(photos, toy_folder, run, "--subject-kind", "object") == 0
    assert Run.open(run).losses()[-1]["identity"] > 0
    assert (
        command_line.main(["generate", str(run), "-n", "1", "--steps", "1", "--out", str(tmp_path / "out")])
        == 0
    )


def test_masks_of_the_user_are_used(photos: dict[str, Path], toy_folder: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    white = np.zeros((160, 160), np.uint8)
    white[:40] = 255
    Image.fromarray(white).save(masks / "subject0.png")
    assert train(photos, toy_folder, tmp_path / "a", "--ti-steps", "1", "--lora-steps", "0") == 0
    more = ("--ti-steps", "1", "--lora-steps", "0", "--subject-masks", str(masks))
    assert train(photos, toy_folder, tmp_path / "b", *more) == 0
    one, other = (Run.open(tmp_path / name).facts().subject for name in "ab")
    assert one[0] != other[0]
    assert one[1:] == other[1:]


def test_a_mask_painted_on_transparency_is_what_was_painted(photos: dict[str, Path], tmp_path: Path) -> None:
    from magicapture_core.photos import read_photo

    painted = np.zeros((320, 320, 4), np.uint8)
    painted[:160] = (255, 0, 0, 255)
    Image.fromarray(painted).save(tmp_path / "subject0.png")
    photo = read_photo(
        photos["subject"] / "subject0.png"
    )  # half the mask's size, as after scaling a large photo
    mask = read_masks(tmp_path, [photo])[photo.name]
    assert mask.shape == (160, 160)
    assert (mask[:80] == 1).all()
    assert (mask[80:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["masks", "SUBJECT", "--out", "FILE"], "FILE"),
        (["train", "--subject", "SUBJECT", "--out", "RUN"], "either --style FOLDER or --preset NAME"),
        (["train", "--subject", "SUBJECT", "--out", "RUN", "--preset", "baroque"], "no preset 'baroque'"),
        (["train", "--subject", "NOWHERE", "--style", "SUBJECT", "--out", "RUN"], "NOWHERE"),
        (["train", "--subject", "EMPTY", "--style", "SUBJECT", "--out", "RUN"], "no photos"),
        (["train", "--subject", "SUBJECT", "--style", "SUBJECT", "--out", "RUN", "--resume"], "No run in"),
        (["generate", "NOWHERE", "--out", "RUN"], "No run in"),
        (["export", "NOWHERE", "--out", "RUN"], "No run in"),
        (["masks", "NOWHERE", "--out", "RUN"], "NOWHERE"),
    ],
)
def test_bad_input_exits_1_with_a_message(
    photos: dict[str, Path],
    toy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "EMPTY").mkdir()
    places = {"SUBJECT": photos["subject"], "NOWHERE": tmp_path / "NOWHERE", "EMPTY": tmp_path / "EMPTY"}
    places["RUN"], places["FILE"] = tmp_path / "RUN", tmp_path / "FILE"
    places["FILE"].touch()
    filled = [str(places.get(argument, argument)) for argument in arguments]
    if filled[0] == "train":
        filled += ["--model", str(toy_folder)]
    assert command_line.main(filled) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed.replace(" ", "") or said in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "RUN" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "masks"),
        (["paint"], "paint"),
        (["train"], "--subject"),
        (
            ["train", "--subject", "a", "--style", "b", "--out", "c", "--ti-steps", "-3"],
            "ti_steps must be 0 or more",
        ),
        (["generate", "a", "--out", "b", "-n", "0"], "count must be 1 to 1000, got 0"),
        (["export", "x", "--format", "pickle", "--out", "y"], "pickle"),
    ],
)
def test_wrong_use_exits_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        command_line.main(arguments)
    assert leaving.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


@pytest.mark.real_faces
def test_masks_on_real_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skimage_data = pytest.importorskip("skimage.data", reason="scikit-image brings the photo")
    Image.fromarray(skimage_data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(skimage_data.coffee()).save(tmp_path / "coffee.jpg")
    out = tmp_path / "masks"
    assert command_line.main(["masks", str(tmp_path / "astronaut.png"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "astronaut.face.png",
        "astronaut.nonface.png",
        "astronaut.overlay.png",
    ]
    face = np.asarray(Image.open(out / "astronaut.face.png"))
    assert face.shape == (512, 512)
    assert set(np.unique(face)) == {0, 255}
    assert face[120, 230] == 255  # her nose is about there
    assert face[20, 20] == 0
    assert (np.asarray(Image.open(out / "astronaut.nonface.png")) == 255 - face).all()
    assert command_line.main(["masks", str(tmp_path / "coffee.jpg"), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "astronaut.png: warn" in printed  # usable, but small: it says that it is enlarged
    assert "coffee.jpg: refuse" in printed


@pytest.mark.long
def test_interrupting_saves_and_exits_130(photos: dict[str, Path], toy_folder: Path, tmp_path: Path) -> None:
    """A real process and a real SIGINT: it ends the step, saves exactly there, and says how to go on."""
    run = tmp_path / "run"
    script = "import sys; sys.path[:0] = sys.argv[1:2]; import toy, magicapture_core.faces as f;"
    script += "f.choose_analyser = lambda *_: (toy.ToyAnalyser(), 'a toy');"
    script += "from magicapture_core.__main__ import main; sys.exit(main(sys.argv[2:]))"
    arguments = [*on_photos("train", photos, run), "--model", str(toy_folder), "--attention-resolution", "8"]
    arguments += ["--ti-steps", "5000", "--lora-steps", "1", "--batch-size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent), *arguments],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
    )
    while process.poll() is None and len(Run(run).losses()) < 2:
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume" in output
    newest = Run.open(run).checkpoints()[-1]
    assert json.loads((newest / "position.json").read_text())["step"] == Run.open(run).losses()[-1]["step"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.long
def test_any_file_name_can_be_shown_on_any_terminal(tmp_path: Path, encoding: str) -> None:
    """A name that is no UTF-8, and a sign that few encodings have, both inside of a message."""
    name = os.fsdecode(b"caf\xe9") + "→"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "magicapture_core",
            "export",
            str(tmp_path / name),
            "--out",
            str(tmp_path / "out"),
        ],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "COLUMNS": "1000"},
        capture_output=True,
    )
    assert done.returncode == 1, done.stderr
    shown = done.stdout.decode(encoding)
    assert "Problem: No run in" in shown
    assert ("caf\\udce9→" if encoding == "utf-8" else "caf\\udce9\\u2192") in shown


@pytest.mark.parametrize(
    ("word", "part"),
    [("{subject}", "subject"), ("red hat", "red_hat"), ("𠀀" * 300, "𠀀" * 40), ("!", "word")],
)
def test_a_heat_map_is_named_by_its_word(word: str, part: str) -> None:
    assert _file_part(word) == part


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, magicapture_core, magicapture_core.__main__;"
        "heavy = {'torch', 'gradio', 'diffusers', 'mediapipe', 'cv2'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def imports_of_rooms() -> dict[str, set[str]]:
    """Room of magicapture_core → rooms that its files import anywhere, also in functions and for type checks."""
    found: dict[str, set[str]] = {}
    for path in CORE.rglob("*.py"):
        room = path.relative_to(CORE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            rooms = {name.split(".")[1] for name in names if name.startswith("magicapture_core.")}
            found.setdefault(room, set()).update(rooms - {room})
    return found


FLOORS = (
    "__main__",
    "ui commands",
    "evaluation",
    "sharing",
    "training generation formats export model_card",
    "checkpoints run_facts concepts presets postprocess adapters",
    "models masks faces provenance",
    "photos prompts attention schedules losses weights heat files gpu",
    "config progress problems languages",
)
"""From the top; a room imports from its own floor only what stands after it."""


def test_imports_go_in_one_direction() -> None:
    """See CONTRIBUTING.md, "The house"."""
    rooms = imports_of_rooms()
    order = [room for floor in FLOORS for room in floor.split()]
    assert sorted(order) == sorted(rooms.keys() - {"__init__"})
    for room in order:
        above = set(order[: order.index(room)])
        assert not rooms[room] & above, f"{room} imports {rooms[room] & above}"
    assert "commands" not in rooms["ui"]
    assert rooms["schedules"] <= {"config", "problems", "languages"}
    assert rooms["config"] | rooms["attention"] | rooms["losses"] <= {"problems", "languages"}
    assert rooms["problems"] <= {"languages"}
    assert not rooms["progress"] | rooms["languages"]


def test_the_core_never_imports_gradio_or_basicsr() -> None:
    modules = [
        ".".join(path.relative_to(CORE.parent).with_suffix("").parts)
        for path in CORE.rglob("*.py")
        if "ui" not in path.parts and path.stem != "__main__"
    ]
    modules.append("magicapture_core.ui.jobs")  # of the page's room, but it knows no page
    code = (
        f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m.removesuffix('.__init__'))\n"
    )
    code += "assert 'gradio' not in sys.modules\n"
    # Installed for their weights' users; CONTRIBUTING.md, "Dependencies", says why they are never loaded.
    code += "assert not {'basicsr', 'gfpgan', 'realesrgan'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CORE.parent)


def test_public_names_exist() -> None:
    import magicapture_core

    for name in magicapture_core.__all__:
        assert getattr(magicapture_core, name) is not None
    with pytest.raises(AttributeError):
        _ = magicapture_core.nothing  # type: ignore[attr-defined]


def test_help_shows_the_dataclass_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        command_line.main(["train", "--help"])
    assert leaving.value.code == 0
    printed: Any = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Weight of the identity loss, Eq. 7" in printed


def test_drafts_without_training(photos: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    from toy import save_toy

    model = save_toy(tmp_path / "speaking", words=("toy", 16))
    out = tmp_path / "drafts"
    arguments = [*on_photos("draft", photos, out), "--model", str(model), "-n", "2", "--seed", "4"]
    arguments += ["--steps", "2", "--subject-words", "old woman"]
    assert command_line.main(arguments) == 0
    assert sorted(path.name for path in out.iterdir()) == ["draft-seed4.png", "draft-seed5.png"]
    assert "not yet the face" in capsys.readouterr().out


def test_what_is_to_be_said_of_drafts_and_where_words_look(
    photos: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    from toy import save_toy

    model = save_toy(tmp_path / "speaking", words=("toy", 16))
    out = tmp_path / "drafts"
    arguments = [
        *on_photos("draft", photos, out),
        "--model",
        str(model),
        "-n",
        "1",
        "--seed",
        "4",
        "--steps",
        "2",
    ]
    prompt = "a photo of a {subject} in the {style} " + 90 * "long "
    assert command_line.main([*arguments, "--prompt", prompt, "--attention-words", "photo"]) == 0
    assert {path.name for path in out.iterdir()} == {"draft-seed4.png", "draft-seed4.photo.png"}
    assert "Note" in capsys.readouterr().out


def test_drafts_with_a_person_called_what_no_model_knows(
    photos: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    arguments = [
        "draft",
        "--use-all",
        "--subject",
        str(photos["subject"]),
        "--preset",
        "passport",
        "--out",
        str(tmp_path / "d"),
    ]
    assert command_line.main([*arguments, "--subject-words", "tall person"]) == 1
    assert "middle-aged" in capsys.readouterr().out
