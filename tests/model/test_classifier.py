"""The classifier says why it cannot load a file, takes photos in any form, and notices a newer model."""

from __future__ import annotations

import gzip
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lwm_edge import Classifier, evaluate, info, open_home, predict, prepare_photo, remove_class, rename_class
from lwm_edge.errors import ConfigError, ExportError, HomeError
from lwm_edge.home.home import Home
from lwm_edge.model.onnx_file import Outputs
from lwm_edge.photos.opening import KNOWN_FORMATS
from lwm_edge.records import Progress
from tests.support.folders import DEMO_DATA

PHOTO = DEMO_DATA / "test" / "base" / "Coat" / "000.png"


def test_a_path_that_is_not_a_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"is a folder; give the ONNX file, such as HOME/current/classifier"
    ):
        Classifier(tmp_path)
    with pytest.raises(ExportError, match="does not exist; rebuild it"):
        Classifier(tmp_path / "missing.onnx")


@pytest.mark.parametrize("kind", [str, Path])
def test_one_path_is_one_photo(home: Home, kind: type) -> None:
    (alone,) = predict(home, kind(PHOTO)).predictions
    (in_a_list,) = Classifier(home.onnx).classify([PHOTO])
    assert alone == in_a_list and not alone.error


def test_photos_in_memory_are_classified_as_their_files_are(home: Home) -> None:
    classifier, content = Classifier(home.onnx), PHOTO.read_bytes()
    with Image.open(PHOTO) as image:
        pixels = np.asarray(image)
        forms: list[Any] = [content, bytearray(content), io.BytesIO(content), image, pixels, str(PHOTO)]
        found = [
            *classifier.classify(forms),
            *classifier.classify(np.stack([pixels] * 2)[..., None].repeat(3, 3)),
        ]
    (of_file,) = classifier.classify(PHOTO)
    assert {(p.class_names, p.probabilities) for p in found} == {(of_file.class_names, of_file.probabilities)}
    assert [p.photo for p in found] == [None] * 5 + [PHOTO, None, None]
    ready = np.stack([prepare_photo(content, classifier.preprocessing)])
    assert classifier.outputs(ready).probabilities.max() == of_file.probabilities[0]
    (only,) = predict(home, content).predictions
    assert only.probabilities == of_file.probabilities


def test_arrays_of_any_size_are_classified_even_if_other_photos_are_bad(home: Home) -> None:
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(9, 9), (300, 20, 3), (50, 70, 4), (28, 28, 1)]
    photos: list[Any] = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    photos.append(rng.integers(0, 65_536, (40, 30)).astype(np.uint16))
    found = Classifier(home.onnx).classify([*photos, b"no photo", b""])
    assert [bool(p.error) for p in found] == [False] * 5 + [True] * 2
    assert found[5].error == f"is not a {KNOWN_FORMATS} image" and found[6].error == "is empty"


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        (5, "a photo is a path, bytes, a file .* not an object of type int"),
        (None, "not an object of type NoneType; give one, or a list of them"),
        ({"a": 1}, "not an object of type dict"),
        ([PHOTO, 7], "item 1 of the list is an object of type int"),
        (np.zeros((3, 3)), r"float64 \[3, 3\] is not a photo; give uint8"),
        (np.zeros((2, 2, 2), np.uint8), r"uint8 \[2, 2, 2\] is not a photo"),
        (np.zeros(3, np.uint8), r"not an array \[3\]"),
        (io.StringIO("x"), "opened in text mode"),
        (Image.new("F", (3, 3)), "mode 'F'"),
    ],
)
def test_a_wrong_type_is_refused_with_the_right_types(home: Home, photo: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Classifier(home.onnx).classify(photo)


@pytest.mark.parametrize("wrong", [5, None, ["x"], b"x"])
def test_functions_refuse_an_object_that_is_not_a_path(home: Home, wrong: Any) -> None:
    calls: list[Any] = [lambda: info(wrong), lambda: open_home(wrong), lambda: evaluate(home, wrong)]
    if not isinstance(wrong, bytes):
        calls.append(lambda: Classifier(wrong))
    for call in calls:
        with pytest.raises(ConfigError, match="a path must be a str or an os\\.PathLike object, not "):
            call()


def test_a_call_ends_with_the_model_that_it_began_with(home: Home) -> None:
    """Another thread may reload the classifier at any moment, here before the second photo is read."""
    classifier, photos = Classifier(home.onnx), [PHOTO, PHOTO]
    before = classifier.classify(PHOTO)[0].class_names[0]
    rename_class(home, before, "Mantel")

    def reload(progress: Progress) -> None:
        if progress.done == 1:
            classifier.reload()

    found = classifier.classify(photos, on_progress=reload)
    assert [prediction.class_names[0] for prediction in found] == [before, before]
    assert [p.class_names[0] for p in classifier.classify(photos)] == ["Mantel", "Mantel"]


def test_what_a_subclass_or_another_thread_sets_is_kept(home: Home) -> None:
    class Counting(Classifier):
        calls = 0

        def outputs(self, images: Any) -> Outputs:
            self.calls += 1
            return super().outputs(images)

    classifier = Counting(home.onnx)
    classifier.classify(PHOTO)
    assert classifier.calls == 1
    classifier.reload()
    assert classifier.calls == 1
    images = [np.zeros((28, 28, 3), np.uint8)]
    assert classifier.outputs(images).logits.shape == (1, len(classifier.class_names))  # a list will do


def test_a_relative_path_leads_to_the_same_file_from_any_folder(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.path)
    classifier = Classifier("current/classifier.onnx")
    monkeypatch.chdir(tmp_path)
    assert classifier.path == home.onnx and not classifier.stale
    rename_class(home, "Coat", "Mantel")
    assert classifier.stale
    classifier.reload()
    assert "Mantel" in classifier.class_names


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 32, 32, 3), np.float32), ((32, 32, 3), np.uint8), ((1, 3, 32, 32), np.uint8)]
)
def test_images_of_another_shape_or_type_are_the_callers_mistake(home: Home, shape: Any, dtype: Any) -> None:
    for images in (np.zeros(shape, dtype), None, 3):
        with pytest.raises(ConfigError, match=r"must be RGB images \[B, \d+, \d+, 3\] of uint8, not \["):
            Classifier(home.onnx).outputs(images)  # type: ignore[arg-type]


def test_a_path_with_a_nul_character_is_refused(home: Home) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        Classifier("\0")
    with pytest.raises((ConfigError, HomeError)):
        info("\0")
    (prediction,) = Classifier(home.onnx).classify("a\0b")
    assert prediction.error == "cannot be read (its path has a NUL character)"
    with pytest.raises(ConfigError, match="top_k must be a whole number"):
        Classifier(home.onnx).classify(PHOTO, 0)


def test_a_classifier_notices_a_newer_model_and_loads_it(home: Home, tmp_path: Path) -> None:
    classifier = Classifier(home.onnx)
    assert not classifier.stale
    rename_class(home, "Coat", "Mantel")
    assert classifier.stale and "Coat" in classifier.class_names
    classifier.reload()
    assert not classifier.stale and classifier.class_names[0] == "Mantel"
    copy = tmp_path / "copy.onnx"
    shutil.copy(home.onnx, copy)
    of_copy = Classifier(copy)
    remove_class(home, "Mantel", shipped=True)
    assert classifier.stale and not of_copy.stale
    copy.write_bytes(b"damaged")
    with pytest.raises(ExportError):
        of_copy.reload()
    assert of_copy.classify(PHOTO)[0].class_names[0] == "Mantel"  # the failed reload changed nothing
    copy.unlink()
    assert not of_copy.stale
    of_bytes = Classifier(home.onnx.read_bytes())
    assert not of_bytes.stale
    with pytest.raises(ConfigError, match="made from bytes"):
        of_bytes.reload()


def test_a_file_object_that_fails_does_not_keep_other_photos_from_being_classified(home: Home) -> None:
    content = PHOTO.read_bytes()
    cut: Any = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)[:-40]))
    sound, failed = Classifier(home.onnx).classify([content, cut])
    assert sound.error is None and str(failed.error).startswith("cannot be read (")
    released = memoryview(content)
    released.release()
    with pytest.raises(ConfigError, match="this memoryview cannot be read"):
        Classifier(home.onnx).classify(released)
