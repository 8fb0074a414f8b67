"""The classifier says what it cannot load, and takes one path where a list of paths may stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwm_edge import Classifier, predict
from lwm_edge.errors import ExportError
from lwm_edge.home.home import Home
from tests.support.folders import DEMO_DATA

PHOTO = DEMO_DATA / "test" / "base" / "Coat" / "000.png"


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
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
