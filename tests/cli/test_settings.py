"""Wrong settings raise a ConfigError that lists all of them, wherever they come from."""

from __future__ import annotations

import os
import pwd
import random
import shutil
from pathlib import Path

import pytest

from lwm_edge import BaseConfig, IncrementConfig
from lwm_edge.cli.settings import CONFIG_FILE, FileConfig, find_home, increment_config, read_file_config
from lwm_edge.errors import ConfigError
from tests.support.hostile import no_hang, ordinary_user, published

SOUND = b"""home = "/var/lib/lwm-edge"

[increment]
recipe = "auto"
epochs = 10
gamma = 1.5
"""


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(ConfigError) as caught:
        IncrementConfig(epochs=0, beta=-1, colour="red")  # type: ignore[call-arg]
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["beta", "epochs", "colour"]
    with pytest.raises(ConfigError) as caught:  # whether settings fit together is checked only afterwards
        BaseConfig(architecture="resnet18", weights="imagenet", checkpoint=Path("x"), epochs=0)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["epochs"]
    with pytest.raises(ConfigError, match="not both"):
        BaseConfig(architecture="resnet18", weights="imagenet", checkpoint=Path("x"))
    assert IncrementConfig.model_validate_json(IncrementConfig(epochs=3).model_dump_json()).epochs == 3


@pytest.mark.parametrize(
    ("recipe", "setting"), [("auto", "head_learning_rate"), ("lda", "beta"), ("lwf-mc", "gamma")]
)
def test_settings_that_a_recipe_does_not_have(recipe: str, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        increment_config(FileConfig(), recipe=recipe, **{setting: 0.5})
    assert caught.value.problems == (
        f"recipe {recipe} has no {setting}; leave it out or choose another recipe",
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b"home = ", b"[" * 100_000, b"x = " + b"9" * 10_000, b"home = 7", b'home = "a\\u0000b"',
        b"[increment]\nepochs = nan", b"[increment]\n'a\\u001b[2J' = 1", b"[[increment]]", b"\0" * 100,
        b"increment = " + b"{a=" * 5_000 + b"1" + b"}" * 5_000,
    ],
)  # fmt: skip
def test_a_hostile_settings_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(content)
    with no_hang(), pytest.raises(ConfigError) as caught:
        increment_config(read_file_config(tmp_path))
    assert len(str(caught.value)) < 2_000


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        read_file_config(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_a_settings_file_without_an_end(tmp_path: Path, kind: str) -> None:
    path = tmp_path / CONFIG_FILE
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with no_hang(), pytest.raises(ConfigError, match=r"not a file|is longer than 1024 KiB"):
        read_file_config(tmp_path)


def test_a_mutated_settings_file_is_read_or_refused(tmp_path: Path) -> None:
    draw, tried = random.Random(0), 2_000
    for _ in range(tried):
        content = bytearray(SOUND)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / CONFIG_FILE).write_bytes(content)
        try:
            increment_config(read_file_config(tmp_path))
        except ConfigError as error:
            assert CONFIG_FILE in str(error) or "these settings" in str(error)
    assert published(f"| lwm-edge.toml changed | {tried:,} | nothing |")


def test_a_byte_order_mark_is_no_part_of_the_first_setting(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(b"\xef\xbb\xbf" + SOUND)
    assert read_file_config(tmp_path).home == Path("/var/lib/lwm-edge")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[increment]\nmin_new_acuracy = 0.8", "min_new_acuracy is unknown; did you mean min_new_accuracy?"),
        ("min_new_accuracy = 0.8", "min_new_accuracy belongs in the table [increment]"),
        ("hom = 'x'", "hom is unknown; did you mean home?"),
        ("[incremnt]\nepochs = 1", "incremnt is unknown; did you mean increment?"),
        ("[increment]\nq7 = 1", "q7 is unknown"),
    ],
)
def test_a_misspelt_setting_is_named_with_its_file_and_the_nearest_right_one(
    tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / CONFIG_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=CONFIG_FILE) as caught:
        read_file_config(tmp_path)
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("home = ''", "home: the path is empty"),
        ("home = 7", "home: it is not a path"),
        ("increment = 7", "increment: it must be a table"),
        ("[increment]\nepochs = 'x'", "epochs: it must be a whole number"),
        ("[increment]\nsign_with = ''", "sign_with: the path is empty"),
        (
            "[increment]\nrecipe = 'x'",
            "recipe: it must be 'lwm', 'lwf-mc', 'finetune', 'lwm-lda', 'lda' or 'auto'",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_what_is_allowed(
    tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / CONFIG_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=CONFIG_FILE) as caught:
        increment_config(read_file_config(tmp_path), min_photos=9)
    assert caught.value.problems == (problem,)


def test_all_problems_of_the_file_are_named_at_once(tmp_path: Path) -> None:
    content = "home = 3\nbogus = 1\n[increment]\nepochs = -1\nseedd = 3\n"
    (tmp_path / CONFIG_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=CONFIG_FILE) as caught:
        read_file_config(tmp_path)
    words = ("bogus is unknown", "seedd is unknown; did you mean seed?", "home: it is not a path", "epochs: ")
    assert len(caught.value.problems) == len(words)
    for problem, start in zip(caught.value.problems, words, strict=True):
        assert problem.startswith(start)


def test_wrong_options_and_wrong_settings_of_the_file_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        increment_config(FileConfig(increment={"epochs": -1}), beta=-1)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["beta", "epochs"]


def test_a_wrong_option_is_not_blamed_on_the_file() -> None:
    with pytest.raises(ConfigError, match="these settings") as caught:
        increment_config(FileConfig(increment={"epochs": 3}), min_photos=0)
    assert len(caught.value.problems) == 1


def test_a_tilde_stands_for_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LWM_EDGE_HOME", raising=False)
    assert find_home(None, FileConfig(home=Path("~/a"))) == tmp_path / "a"
    monkeypatch.setenv("LWM_EDGE_HOME", "~/b")
    assert find_home(None, FileConfig(home=Path("~/a"))) == tmp_path / "b"
    assert find_home(Path("~/c"), FileConfig()) == tmp_path / "c"
    for unknown in ("~no-such-user", "~no-such-user/home"):
        with pytest.raises(ConfigError, match="nothing says which folder ~no-such-user stands for"):
            find_home(Path(unknown), FileConfig())


def test_a_user_without_a_folder_must_name_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "LWM_EDGE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unlisted(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unlisted)
    with pytest.raises(ConfigError, match="pass --home, or set LWM_EDGE_HOME"):
        find_home(None, FileConfig())
    assert find_home(Path("/somewhere"), FileConfig()) == Path("/somewhere")


def test_a_current_folder_that_is_gone_or_forbidden_has_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / CONFIG_FILE).write_bytes(b"[")
    with pytest.raises(ConfigError):
        read_file_config()
    folder.chmod(0)
    with ordinary_user():
        assert read_file_config() == FileConfig()
    shutil.rmtree(folder)
    assert read_file_config() == FileConfig()
