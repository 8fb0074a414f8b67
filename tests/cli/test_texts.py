"""Names are UTF-8 whatever the locale, but the paths of homes, photos and keys need not be UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import (
    IncrementConfig,
    add_classes,
    audit,
    evaluate,
    export_onnx,
    generate_key,
    info,
    init_home,
    predict,
    remove_class,
    repair_home,
    verify,
)
from lwm_edge.advice import quoted
from lwm_edge.cli import display_proofs
from lwm_edge.home.home import Home
from lwm_edge.records import utf8_text
from tests.support.folders import PhotoMaker, photo_folder
from tests.support.samples import WITHOUT_LEVELS

LDA = IncrementConfig(recipe="lda", device="cpu")


@pytest.fixture(scope="session")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Makes an ISO-8859-1 locale, and returns the environment variables that select it."""
    name, folder = "en_US.ISO-8859-1", tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / name)]
    try:
        subprocess.run(command, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no localedef")
    if not (folder / name).is_dir():
        pytest.skip("localedef cannot make a locale here")
    return {"LOCPATH": str(folder), "LC_ALL": name, "PYTHONUTF8": "0"}


def _run(arguments: list[str | bytes], variables: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "lwm_edge", *arguments, "--json"],
        capture_output=True,
        env={**os.environ, **variables},
        check=False,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_class_folder_is_read_as_utf_8_in_a_latin_1_locale(
    home: Home, make_photos: PhotoMaker, latin_1: dict[str, str]
) -> None:
    photos = str(make_photos(renamed={"café": "Bag"})).encode()
    where = ["--home", str(home.path)]
    assert _run(["add-classes", photos, "--recipe", "lda", *where], latin_1)["new_classes"] == ["café"]
    assert home.open_bundle().manifest.class_names[-1] == "café"
    assert _run(["remove-class", "café".encode(), *where], latin_1)["removed_class"] == "café"


@pytest.mark.slow
def test_verbs_work_on_paths_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    key = generate_key(folder / "device").private_key_file
    init_home(WITHOUT_LEVELS, folder / "home")
    photos = photo_folder(folder / "photos", {"Bag": "Bag"})
    config = LDA.model_copy(update={"sign_with": key})
    reports = [
        add_classes(folder / "home", photos, config),
        predict(folder / "home", [photos / "Bag" / "000.png"]),
        evaluate(folder / "home", photos),
        info(folder / "home"),
        export_onnx(folder / "home", folder / "o.onnx"),
        remove_class(folder / "home", "Bag", sign_with=key),
        repair_home(folder / "home"),
        audit(folder / "home"),
        verify(folder / "home", device_key=key.with_suffix(".pub")),
    ]
    assert audit(folder / "home").passed
    for report in reports:
        json.loads(report.model_dump_json())
    assert json.loads(reports[3].model_dump_json())["home"].endswith("caf\\xe9/home")


def test_settings_take_a_path_that_is_not_utf_8() -> None:
    odd = os.fsdecode(b"caf\xe9.key")
    config = IncrementConfig(sign_with=odd)  # type: ignore[arg-type]
    assert config.sign_with == Path(odd)
    assert IncrementConfig.model_validate_json(config.model_dump_json()) == config


def test_a_path_in_advice_can_be_pasted_into_a_shell() -> None:
    for name in (b"caf\xe9 b", "caf\u00e9 b".encode(), b"it's\n\\x", b"plain", b"\xc2\x9b"):
        command = ["bash", "-c", f"printf %s {quoted(Path(os.fsdecode(name)))}"]
        assert quoted(Path(os.fsdecode(name))).isprintable()
        assert subprocess.run(command, capture_output=True, check=True).stdout == name


def test_there_is_one_way_to_write_bytes_that_are_not_utf_8() -> None:
    assert utf8_text("caf" + os.fsdecode(b"\xe9") + " café \ud800") == "caf\\xe9 café \\ud800"


@pytest.mark.slow
def test_an_error_about_a_path_that_is_not_utf_8_is_json(tmp_path: Path) -> None:
    error = _run(["info", "--home", os.fsencode(tmp_path) + b"/caf\xe9"], {})["error"]
    assert "/caf\\xe9 is not a model home" in error["message"]


def test_no_path_reaches_the_terminal_unescaped(home: Home, tmp_path: Path, capsys: Any) -> None:
    odd = tmp_path / "\x1b[31m\x9b\u202e\x7f[bold]"
    home.path.rename(odd)
    display_proofs.verification(verify(odd))
    display_proofs.audit(audit(odd))
    printed = capsys.readouterr().out
    assert printed.count("\\x1b[31m\\x9b\\u202e\\x7f[bold]") >= 2
    assert not [c for c in printed if not c.isprintable() and c != "\n"]
    cli = Path(display_proofs.__file__).parent
    assert [path.stem for path in cli.glob("*.py") if "rich.markup" in path.read_text()] == ["terminal"]
