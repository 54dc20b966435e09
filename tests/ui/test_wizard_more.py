"""The page, further: the mini model, one training while another makes portraits, an object, the camera, and what a
visitor is told when things go wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_wizard_page import expect, session_of, to_masks, to_style, to_train, wait_for_step

from magicapture_core.provenance import read_provenance
from magicapture_core.weights import ASSETS, weights_dir

pytestmark = pytest.mark.browser


def add(page: Any, files: list[Path], box: str = "#mc-files") -> None:
    page.locator(f"{box} input[type=file]").set_input_files([str(path) for path in files])


def agree(page: Any) -> None:
    page.locator("#mc-consent input").check()
    expect(page.locator("#mc-files")).to_be_visible()


def setting(page: Any, **values: int) -> None:
    if not page.get_by_label("Ti steps", exact=True).is_visible():
        page.get_by_role("button", name="Advanced").click()
    for name, value in values.items():
        field = page.get_by_label(name.replace("_", " ").capitalize(), exact=True)
        field.fill(str(value))
        field.blur()
    expect(page.get_by_role("radio", name="My own settings")).to_be_checked()


def picture(path: Path, width: int, height: int) -> Path:
    noise = np.random.default_rng(width).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(path, quality=60)
    return path


@pytest.mark.long
def test_the_whole_walk_on_the_mini_model(page: Any) -> None:
    if not (ASSETS / "mini" / "model_index.json").is_file():
        pytest.skip("the mini model is not here (assets/mini)")
    to_masks(page)
    page.locator("#mc-next-2").click()
    expect(page.locator("#mc-start")).to_be_visible()
    page.get_by_role("button", name="Advanced").click()
    page.locator("#mc-model input").fill("mini")
    page.locator("#mc-model input").press("Enter")
    page.locator("#mc-model input").blur()
    expect(page.locator(".mc-note", has_text="Faces of")).to_contain_text("nothing to download")
    setting(page, ti_steps=2, lora_steps=2, sample_every=2, sample_steps=2, attention_every=2, batch_size=1)
    expect(page.get_by_text("4 steps.")).to_be_visible()
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    expect(page.locator("#mc-attention .mc-look")).to_have_count(4)
    expect(page.locator("#mc-losses .mc-chart")).to_have_count(7)
    page.locator("#mc-next-3").click()
    expect(page.locator("#mc-make")).to_be_visible()
    page.get_by_role("button", name="Advanced").click()
    page.locator("#mc-steps-drawn input[type=number]").fill("3")
    expect(page.locator("#mc-seed input, #mc-seed textarea")).to_have_value("")
    # Only what this small model knows is offered.
    expect(page.locator("#mc-chips [data-act=edit][data-id='wearing sunglasses']")).to_be_visible()
    expect(page.locator("#mc-chips [data-act=edit][data-id='wearing a hat']")).to_have_count(0)
    page.locator("#mc-count input[type=number]").fill("2")
    page.locator("#mc-make").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(2)
    page.locator("#mc-gallery .mc-portrait").first.click()
    expect(page.locator("#mc-detail [data-act=word][aria-pressed=true]")).to_have_text("me")


@pytest.mark.long
def test_portraits_wait_for_the_training_of_another_and_come(page: Any, browser: Any, server: Any) -> None:
    from conftest import visitor

    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    page.locator("#mc-next-3").click()
    expect(page.locator("#mc-make")).to_be_visible()
    with visitor(browser, server) as (other, faults):
        to_train(other, ti_steps=5000)
        wait_for_step(other)
        page.locator("#mc-make").click()
        expect(page.locator("#mc-make-progress")).to_contain_text("1 before you")
        other.locator("#mc-pause").click()
        expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(4)
        assert faults == []


@pytest.mark.long
def test_an_object_is_learned_without_a_face(page: Any, tmp_path: Path) -> None:
    agree(page)
    page.get_by_role("button", name="Not a person?").click()
    page.get_by_role("radio", name="An object or a pet").check()
    cup = np.full((400, 400, 3), 235, np.uint8)
    files = []
    for number in range(2):
        cup[100 : 300 + 40 * number, 120:280] = (200 - 60 * number, 40, 60 + 90 * number)
        files.append(tmp_path / f"cup-{number}.png")
        Image.fromarray(cup).save(files[-1])
    add(page, files)
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(2)
    expect(page.get_by_text("2 usable photos of the object")).to_be_visible()
    page.locator("#mc-next-0").click()
    page.locator("#mc-presets [data-act=look]").first.click()
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
    page.locator("#mc-next-1").click()
    expect(page.get_by_text("Of your photos, the object is learned")).to_be_visible()
    for card in range(2):  # what is in front is found by a network made for people: here it is painted
        page.locator("#mc-subject-masks .mc-mask").nth(card).click()
        page.wait_for_selector(".mc-brush[data-ready]")
        page.locator("#mc-brush canvas").hover(position={"x": 250, "y": 200})
        page.mouse.down()
        page.locator("#mc-brush canvas").hover(position={"x": 250, "y": 340})
        page.mouse.up()
        page.locator("#mc-brush [data-act=save]").click()
        expect(page.locator("#mc-subject-masks .mc-badge.mc-good")).to_have_count(card + 1)
    page.locator("#mc-next-2").click()
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")


@pytest.mark.long
def test_too_many_too_large_and_unsuitable_photos(
    page: Any, people: list[list[Path]], tmp_path: Path
) -> None:
    agree(page)
    pixels = [np.asarray(Image.open(people[who][0])) for who in (0, 1)]
    two = tmp_path / "friends.jpg"
    Image.fromarray(np.concatenate(pixels, axis=1)).save(two)
    vast = tmp_path / "vast.jpg"
    Image.new("RGB", (12_000, 8_400), "grey").save(vast, quality=20)
    add(page, [people[0][0], two, vast])
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(3)
    expect(page.locator("#mc-photos")).to_contain_text("2 faces of similar size")
    expect(page.locator("#mc-photos")).to_contain_text("No face was found")
    expect(page.get_by_text("1 usable photo of the person")).to_contain_text(
        "4 to 6 give a clearly better result"
    )
    many = [picture(tmp_path / f"many-{number}.jpg", 200 + number, 200) for number in range(27)]
    add(page, many)
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(20)
    expect(page.get_by_text("20 photos are the most")).to_be_visible()


def test_photos_dropped_while_others_are_looked_at_are_not_lost(page: Any, people: list[list[Path]]) -> None:
    agree(page)
    add(page, people[0][:2])
    expect(page.locator("#mc-photos .mc-photo").first).to_be_visible()
    add(page, people[0][2:4])
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(4)


@pytest.mark.long
def test_style_photos_without_a_face_are_all_style(page: Any, tmp_path: Path) -> None:
    to_style(page)
    page.locator("#mc-presets [data-id=own]").click()
    add(page, [picture(tmp_path / f"wall-{n}.jpg", 400 + n, 400) for n in range(2)], "#mc-style-files")
    expect(page.locator("#mc-style-photos .mc-photo")).to_have_count(2)
    expect(page.locator("#mc-style-photos")).to_contain_text("the whole picture counts as style")
    page.locator("#mc-next-1").click()
    expect(page.locator("#mc-style-masks .mc-mask")).to_have_count(2)


@pytest.mark.long
def test_a_model_that_cannot_be_had_is_said_and_another_can_be_taken(page: Any) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    expect(page.locator("#mc-start")).to_be_visible()
    page.get_by_role("button", name="Advanced").click()
    page.locator("#mc-model input").fill("nobody/nothing-such")
    page.locator("#mc-model input").press("Enter")
    page.locator("#mc-model input").blur()
    expect(page.get_by_text("Downloads 2 to 4 GB")).to_be_visible()
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Step “Learn”: The model nobody/nothing-such")
    expect(page.locator("#mc-progress")).to_contain_text("Go online once")
    expect(page.locator("#mc-start")).to_be_visible()


@pytest.mark.long
def test_out_of_memory_offers_to_go_on_with_less(page: Any, server: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    calls = 0

    def explode(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = server.studio.models._loaded[1].unet.register_forward_pre_hook(explode)
    try:
        page.locator("#mc-start").click()
        expect(page.locator("#mc-progress")).to_contain_text("ran out of memory")
        page.get_by_role("button", name="Go on with less memory").click()
        expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    finally:
        handle.remove()
    runs = json.loads((session_of(page, server) / "session.json").read_text(encoding="utf-8"))["runs"]
    # A step has one item already, so that only checkpointing takes less.
    assert [run["settings"]["items_per_call"] for run in runs] == [None, None]
    assert [run["settings"]["gradient_checkpointing"] for run in runs] == [False, True]


@pytest.mark.long
def test_a_full_disk_is_said_before_anything_is_lost(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=10**6))
        page.locator("#mc-start").click()
        expect(page.get_by_text("disk is almost full")).to_contain_text("Delete past trainings")
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")


@pytest.mark.long
def test_a_prompt_without_placeholders_warns_and_a_misspelt_one_is_refused(page: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    page.locator("#mc-next-3").click()
    prompt = page.locator("#mc-prompt textarea")
    prompt.fill("a photo of a {sujet}")
    page.locator("#mc-make").click()
    expect(page.get_by_text("expected only {subject} and {style}")).to_be_visible()
    prompt.fill("a photo of a woman")
    page.locator("#mc-make").dblclick()  # one job all the same
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(4)
    expect(page.locator("#mc-make-progress")).to_contain_text("does not mention “me”")


@pytest.mark.long
def test_stopping_while_it_prepares_in_phase_2_and_while_it_draws(page: Any, server: Any) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    setting(page, ti_steps=5000)
    page.locator("#mc-start").dblclick()
    page.locator("#mc-pause").click()
    expect(page.locator("#mc-progress")).to_contain_text(
        re.compile("Stopped before it began|Paused and saved")
    )
    assert (
        len(json.loads((session_of(page, server) / "session.json").read_text(encoding="utf-8"))["runs"]) == 1
    )
    setting(page, ti_steps=1, lora_steps=5000)
    expect(page.get_by_text("5001 steps.")).to_be_visible()
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Learning the face in this look")
    page.locator("#mc-stop").click()
    expect(page.locator("#mc-make")).to_be_visible()
    page.locator("#mc-count input[type=number]").fill("16")
    page.get_by_role("button", name="Advanced").click()
    page.locator("#mc-steps-drawn input[type=number]").fill("100")
    page.locator("#mc-make").click()
    expect(page.locator("#mc-make-progress")).to_contain_text("Drawing")
    page.locator("#mc-make-stop").click()
    expect(page.locator("#mc-make-stop")).to_be_hidden()
    expect(page.locator("#mc-make")).to_be_enabled()


@pytest.mark.long
def test_a_photo_of_the_camera_is_judged_like_any_other(server: Any, browser: Any) -> None:
    from conftest import ARGUMENTS, CHROMIUM, PATIENCE

    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    filming = browser.browser_type.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *fake])
    page = filming.new_context(permissions=["camera"]).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.wait_for_selector("#mc-people [data-act=person]")
    agree(page)
    page.get_by_role("button", name="Take a photo with this device's camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("[...document.querySelectorAll('video')].some(video => video.videoWidth)")
    page.get_by_label("capture photo").click()
    page.get_by_role("button", name="Use this photo").click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(1)
    expect(page.locator("#mc-photos")).to_contain_text("No face was found")
    filming.close()


@pytest.mark.long
def test_strengths_are_compared_and_the_recommended_one_is_used(page: Any, server: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    page.locator("#mc-next-3").click()
    page.get_by_role("button", name="Which strength suits these photos?").click()
    expect(page.locator("#mc-adopt")).to_be_hidden()
    page.locator("#mc-compare-strengths").click()
    page.locator("#mc-compare-stop").click()
    expect(page.locator("#mc-compare-stop")).to_be_hidden()
    expect(page.locator("#mc-adopt")).to_be_hidden()
    page.locator("#mc-compare-strengths").click()
    expect(page.locator("#mc-compared")).to_contain_text("Recommended: strength")
    folder = session_of(page, server)
    expect(page.locator("#mc-compared img")).to_have_count(3)  # of the checkpoint in use
    page.wait_for_function("document.querySelector('#mc-compared img').naturalWidth > 400")
    expect(page.locator("#mc-compared figcaption", has_text="recommended")).to_have_count(1)
    assert str(weights_dir()) not in page.locator("#mc-compared").inner_text()  # no paths of the server's
    (run,) = json.loads((folder / "session.json").read_text(encoding="utf-8"))["runs"]
    assert run["adapter_scale"] is None
    wanted = run["choice"]
    assert all(read_provenance(row["picture"]).generated for row in wanted["rows"])
    page.locator("#mc-adopt").click()
    expect(page.get_by_text(f"made at strength {wanted['scale']:g}")).to_be_visible()
    (run,) = json.loads((folder / "session.json").read_text(encoding="utf-8"))["runs"]
    assert run["adapter_scale"] == wanted["scale"]
    stored = folder / "runs" / run["id"]
    for name in ("subject.safetensors", "style.safetensors"):
        taken = (stored / "adapter" / name).read_bytes()
        assert taken == (stored / wanted["checkpoint"] / name).read_bytes()
    page.get_by_role("button", name="Advanced").click()
    strength = page.locator("#mc-adapter-scale input[type=number]")
    expect(strength).to_have_value(f"{wanted['scale']:g}")
    page.reload()
    page.locator("#mc-next-3").click()  # it lands where the training is, for there are no portraits
    expect(page.locator("#mc-make")).to_be_visible()
    page.get_by_role("button", name="Advanced").click()
    expect(strength).to_have_value(f"{wanted['scale']:g}")
