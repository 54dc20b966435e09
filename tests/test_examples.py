"""The small pictures beside the upload box: each is judged as it says."""

from __future__ import annotations

import pytest

from magicapture_core.concepts import judge_photos
from magicapture_core.faces import choose_analyser
from magicapture_core.photos import list_photos, read_photo
from magicapture_core.ui.step_photos import BAD, EXAMPLES, GOOD

pytestmark = pytest.mark.real_faces


def test_good_examples_are_accepted_and_bad_ones_are_not_for_the_reason_they_show() -> None:
    analyser = choose_analyser("bundled")[0]
    assert {path.stem for path in list_photos(EXAMPLES)} == {*GOOD, *BAD}
    for name in (*GOOD, *BAD):
        photo = read_photo(EXAMPLES / f"{name}.webp")
        (verdict,) = judge_photos([photo], "subject", analyser=analyser, resolution=128)
        codes = [reason.code for reason in verdict.reasons]
        assert (verdict.level, codes) == ("accept", []) if name in GOOD else name in codes, name
