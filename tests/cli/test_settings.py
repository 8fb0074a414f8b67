"""Settings out of range are a ConfigError that lists all of them, wherever they come from."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lwm_edge import BaseConfig, IncrementConfig
from lwm_edge.cli.settings import CONFIG_FILE, FileConfig, increment_config, read_file_config
from lwm_edge.errors import ConfigError
from tests.support.hostile import no_hang, published

SOUND = b"""home = "/var/lib/lwm-edge"

[increment]
recipe = "auto"
epochs = 10
gamma = 1.5
"""


def test_settings_made_by_hand_are_checked_alike() -> None:
    with pytest.raises(ConfigError) as caught:
        IncrementConfig(epochs=0, beta=-1, colour="red")  # type: ignore[call-arg]
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["beta", "epochs", "colour"]
    with pytest.raises(ConfigError, match="not both"):
        BaseConfig(architecture="resnet18", weights="imagenet", checkpoint=Path("x"))
    assert IncrementConfig.model_validate_json(IncrementConfig(epochs=3).model_dump_json()).epochs == 3


@pytest.mark.parametrize(
    ("recipe", "setting"), [("auto", "head_learning_rate"), ("lda", "beta"), ("lwf-mc", "gamma")]
)
def test_what_a_recipe_does_not_have(recipe: str, setting: str) -> None:
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
