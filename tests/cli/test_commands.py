"""Each command explains itself, prints JSON if asked, and has an exit code for each kind of error."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lwm_edge import errors, remove_class, rename_class
from lwm_edge.base import build
from lwm_edge.cli import commands, teaching
from lwm_edge.cli.options import path_from
from lwm_edge.cli.settings import CONFIG_FILE, increment_config
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ConfigError, PhotosError
from lwm_edge.home.home import Home
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.bundle import open_bundle
from tests.support.folders import PhotoMaker, photo_folder, state_of

PHOTO = DEMO_DATA / "test" / "base" / "Trouser" / "000.png"


COMMANDS = (
    "demo", "build-base", "pack", "init", "check", "add-classes", "add-photos", "remove-class",
    "rename-class", "undo", "predict", "calibrate", "evaluate", "info", "report", "export", "repair", "audit",
    "inbox", "keygen", "sign", "verify",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Any, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0 and "--json" in result.out and "Usage" in result.out


def test_predict_says_what_is_unknown_once_calibrated(run: Any, home: Home) -> None:
    photos = sorted((DEMO_DATA / "test").glob("*/*/000.png"))
    before = run("predict", "--unknown", *photos, "--home", home.path)
    assert before.code == 0 and "unknown" not in before.out
    assert "no threshold for unknown objects" in before.err
    calibrated = run("calibrate", DEMO_DATA / "test" / "base", "--home", home.path)
    assert calibrated.code == 0 and "300 of 6 classes" in calibrated.out
    after = run("predict", "--unknown", "--keep", "0.8", *photos, "--home", home.path)
    assert after.code == 0 and "unknown (at best" in after.out
    assert "unknown" not in run("predict", *photos, "--home", home.path).out  # only with --unknown
    refused = run("predict", "--unknown", "--keep", "0.7", *photos, "--home", home.path)
    assert refused.code == 2 and "0.8, 0.9, 0.95, 0.98 or 0.99" in refused.err


def test_the_list_of_commands_is_complete() -> None:
    assert {command.name for command in commands.app.registered_commands} == set(COMMANDS)


@pytest.mark.slow
def test_the_whole_workflow_in_json(run: Any, tmp_path: Path, make_photos: PhotoMaker) -> None:
    home = tmp_path / "home"
    assert run("init", BASE_BUNDLE, "--home", home, "--json").json["class_names"][0] == "Coat"
    photos = make_photos("Bag", count=8)
    added = run("add-classes", photos, "--home", home, "--recipe", "lwm", "--epochs", 1, "--json")
    assert added.code == 0 and added.json["new_classes"] == ["Bag"]
    assert "Training" in added.err
    assert (
        run("predict", PHOTO, "--home", home, "--json").json["predictions"][0]["class_names"][0] == "Trouser"
    )
    assert run("evaluate", DEMO_DATA / "test" / "base", "--home", home, "--json").json["photos"] == 300
    assert run("info", "--home", home, "--json").json["increment_count"] == 1
    assert run("export", tmp_path / "o.onnx", "--home", home, "--json").json["class_names"][-1] == "Bag"
    assert run("audit", "--home", home, "--json").json["passed"] is True
    assert run("remove-class", "Bag", "--home", home, "--json").json["removed_class"] == "Bag"


@pytest.mark.slow
def test_reports_for_people(run: Any, home: Home, make_photos: PhotoMaker) -> None:
    added = run("add-classes", make_photos("Bag"), "--home", home.path, "--epochs", 1)
    assert "Learnt 1 class in" in added.out and "cannot be measured on this device" in added.out
    assert "classifier.onnx" in added.out and "Bag: 7 of 8 photos recognised" in added.out
    assert "have no effect: epochs" in added.out and "lwm-edge predict PHOTO" in added.out
    for jargon in ("Drift", "digest", "Verified", "MiB", "beta", "attention"):
        assert jargon not in added.out
    assert "Trouser" in run("predict", PHOTO, "--home", home.path).out
    assert "Shipped classes" in run("evaluate", DEMO_DATA / "test" / "base", "--home", home.path).out
    assert "25 free" in run("info", "--home", home.path).out
    assert "small_resnet20" in run("info", BASE_BUNDLE).out
    assert "passed" in run("audit", "--home", home.path).out
    assert "Removed Bag" in run("remove-class", "bag", "--home", home.path).out
    assert "Exported" in run("export", "o.onnx", "--home", home.path).out


@pytest.mark.slow
def test_reports_for_people_on_changes(run: Any, permitting_home: Home, tmp_path: Path) -> None:
    home = permitting_home.path
    assert "none since it was shipped" in run("info", "--history", "--home", home).out
    assert "Renamed Coat to Mantel" in run("rename-class", "coat", "Mantel", "--home", home).out
    removed = run("remove-class", "Dress", "--shipped", "--home", home)
    assert "Removed Dress" in removed.out and "Still there" in removed.out
    assert "Undid change 2" in run("undo", "--home", home).out
    photos = DEMO_DATA / "train" / "base"
    trained = run("add-photos", photos, "--home", home, "--dry-run")
    assert trained.code == 2 and "the last layer was trained" in trained.err
    planned = run("add-photos", photos, "--home", home, "--solve-head", "--dry-run")
    assert planned.code == 3 and "Coat: the model does not know this class" in planned.err
    photos = photo_folder(tmp_path / "more", {"Mantel": "Coat"})
    assert "nothing was learnt" in run("add-photos", photos, "--home", home, "--solve-head", "--dry-run").out
    learnt = run("add-photos", photos, "--home", home, "--solve-head")
    assert "Learnt from 8 more photos of Mantel" in learnt.out and "Mantel: 8 of 8 photos" in learnt.out
    told = " ".join(run("info", "--history", "--home", home).out.split())
    assert (
        "UTC: removed Dress; 5 classes afterwards; not signed Change 3" in told and "undid change 2" in told
    )
    assert run("info", "--home", home, "--json").json["history"][0]["class_names"] == ["Coat", "Mantel"]


@pytest.mark.slow
def test_a_base_from_the_command_line(
    run: Any, tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--arch",
        "small_resnet20",
        "--image-size",
        28,
        "--capacity",
        4,
        "--epochs",
        1,
        "--batch-size",
        8,
    ]
    words = ["--author", "A vendor", "--license", "MIT", "--description", "Bags.", "--permit", "undo"]
    photos = make_photos("Bag", "Shirt")
    result = run("build-base", photos, *arguments, *words, "-o", tmp_path / "base.lwm")
    assert result.code == 0 and "2 of at most 4: Bag, Shirt" in result.out
    manifest = open_bundle(tmp_path / "base.lwm").manifest
    assert (manifest.author, manifest.license, manifest.description) == ("A vendor", "MIT", "Bags.")
    assert manifest.permits == ("undo",)

    def printing(name: str) -> Any:
        print("Building a network")
        return find_architecture(name)

    monkeypatch.setattr(build, "find_architecture", printing)
    result = run("build-base", photos, *arguments, "--json", "-o", tmp_path / "base.lwm")
    assert result.json["class_names"] == ["Bag", "Shirt"] and "Building a network" in result.err


@pytest.mark.parametrize("command", ["add-classes", "add-photos"])
def test_switches_on_the_command_line_override_the_settings_file(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen = []

    def record(*given: Any, **named: Any) -> Any:
        seen.append(increment_config(*given, **named))
        raise ConfigError("seen")

    monkeypatch.setattr(teaching, "increment_config", record)
    (tmp_path / CONFIG_FILE).write_text("[increment]\nforce = true\nfresh = true\n")
    for switches in ([], ["--no-force"], ["--no-force", "--no-fresh"]):
        assert run(command, "photos", *switches).code == 2
    assert [(config.force, config.fresh) for config in seen] == [(True, True), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["add-classes", "nowhere"], 3, "does not exist", marks=pytest.mark.slow),
        pytest.param(["add-classes", "."], 3, "has no sub-folders", marks=pytest.mark.slow),
        (["add-classes", "x", "--gamma", "-1"], 2, "greater than or equal to 0"),
        (["add-classes", "x", "--recipe", "icarl"], 2, "recipe"),
        (["add-classes", "x", "--recipe", "lwf-mc", "--gamma", "1"], 2, "has no gamma"),
        (["remove-class", "Hat"], 2, "no class 'Hat'"),
        (["remove-class", "Coat", "--shipped", "--exact"], 2, "cannot be removed exactly"),
        (["rename-class", "Coat", "Dress"], 2, "pass --merge"),
        (["rename-class", "Coat", "Dress", "--merge"], 2, "pass --shipped"),
        (["undo"], 2, "the vendor does not permit undo"),
        pytest.param(["add-photos", "nowhere", "--solve-head"], 3, "does not exist", marks=pytest.mark.slow),
        (["predict", "nothing.png"], 3, "none of the photos"),
        (["info", "nothing.lwm"], 4, "does not exist"),
        (["init", "nothing.lwm"], 4, "does not exist"),
        (["no-such-command"], 2, "No such command"),
        (["build-base", "x", "--arch", "vgg11", "-o", "y"], 4, "choose one of"),
        (["build-base", "x", "--arch", "resnet18", "-o", "none/y"], 2, "in a folder that exists"),
        (["export", ".."], 2, "it is a folder"),
        (["export", "x.onnx", "--fp16", "--int8"], 2, "pass one of them"),
        (["export", "x.onnx", "--int8"], 2, "int8 must be checked on photos"),
        (["export", "x.onnx", "--static-batch", "0"], 2, "greater than or equal to 1"),
        (["export", "x.onnx", "--fp16", "--photos", "none"], 3, "does not exist"),
    ],
)
def test_exit_codes_by_cause(run: Any, home: Home, arguments: list[str], code: int, text: str) -> None:
    before = state_of(home.path)
    home_option = (
        [] if arguments[0] in ("info", "build-base", "no-such-command", "init") else ["--home", home.path]
    )
    (home.path.parent / "empty").mkdir()
    result = run(*[a if a != "." else "empty" for a in arguments], *home_option)
    assert result.code == code
    assert text in " ".join(result.err.split()) and "Traceback" not in result.err and result.out == ""
    assert state_of(home.path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["inbox", "", "--delete", "--once"], ["inbox", "x", "--taught", ""], ["predict", ""], ["init", ""],
        ["add-classes", ""], ["info", "--home", ""], ["undo", "--sign-with", ""], ["report", "-o", ""],
        ["verify", "--trust", ""], ["keygen", ""], ["export", ""],
    ],
)  # fmt: skip
def test_an_empty_path_is_refused(run: Any, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2 and "the path is empty" in " ".join(result.err.split())


def test_every_path_of_every_command_is_read_in_the_same_way() -> None:
    for command in commands._COMMANDS.values():
        hints = get_type_hints(command, include_extras=True)
        paths = [get_args(hint) for hint in hints.values() if "Path" in repr(get_args(hint)[:1])]
        assert all(option.parser is path_from for _, option, *_ in paths)


@pytest.mark.slow
def test_an_error_in_json(run: Any, home: Home, make_photos: PhotoMaker) -> None:
    result = run("add-classes", make_photos("Bag", "Shirt", count=2), "--home", home.path, "--json")
    assert result.code == 3
    assert result.json["error"]["kind"] == "PhotosError" and result.json["error"]["exit_code"] == 3
    assert len(result.json["error"]["problems"]) == 2


def test_advice_on_a_folder_with_a_known_and_a_new_class_works(
    run: Any, permitting_home: Home, make_photos: PhotoMaker
) -> None:
    path, photos = permitting_home.path, make_photos(renamed={"-Coat": "Coat", "Bag": "Bag"})
    rename_class(permitting_home, "Coat", "-Coat")
    solve = ["--solve-head"]
    for verb, given, added in (("add-classes", [], solve), ("add-photos", solve, [])):
        refused = run(verb, photos, *given, "--home", path, "--json")
        (problem,) = refused.json["error"]["problems"]
        command = re.search(r"run lwm-edge ([^;]*);", problem)
        assert refused.code == PhotosError.exit_code and command is not None
        assert run(*shlex.split(command[1]), *added, "--dry-run").code == 0


@pytest.mark.parametrize("name", ["-Coat", "it's a coat"])
def test_advice_on_a_class_works_whatever_its_name_starts_with(run: Any, home: Home, name: str) -> None:
    rename_class(home, "Coat", name)
    with pytest.raises(ConfigError) as refused:
        remove_class(home, name)
    command = refused.value.message.partition("remove it anyway: ")[2]
    assert run(*shlex.split(command)[1:]).code == 0
    assert name not in home.open_bundle().manifest.class_names


def test_a_failed_audit_has_its_exit_code(run: Any, home: Home) -> None:
    (home.path / "planted").write_text("x")
    result = run("audit", "--home", home.path)
    assert result.code == 4 and "planted (1 byte) is unexplained" in result.err
    assert f"lwm-edge repair --home {home.path}" in result.out and "of which 1 are unexplained" in result.out


def test_an_audit_is_written_for_owners_and_with_details_for_engineers(run: Any, home: Home) -> None:
    for_owners = run("audit", "--home", home.path).out
    for_engineers = run("audit", "--home", home.path, "--details").out
    assert "each in a known part of the home (--details lists the parts)" in for_owners
    assert "classifier.onnx has not grown since the home was made" in for_owners
    words = ("hash chain", "rows reserved", "parity probe")
    assert not any(word in for_owners for word in words) and all(word in for_engineers for word in words)


@pytest.mark.slow
def test_custody_in_json_and_for_people(run: Any, tmp_path: Path, make_photos: PhotoMaker) -> None:
    home, base = tmp_path / "home", Path(shutil.copy(BASE_BUNDLE, tmp_path / "base.lwm"))
    vendor = run("keygen", "vendor", "--json").json
    assert vendor["private_key_file"] == "vendor.key" and run("keygen", "vendor").code == 2
    assert "device.key" in run("keygen", "device").out
    unsigned = run("init", base, "--home", home, "--trust", "vendor.pub", "--json")
    assert unsigned.code == 8 and unsigned.json["error"]["kind"] == "TrustError"
    assert unsigned.json["error"]["problems"] == ["the base is not signed"]
    assert run("sign", base, "--key", "vendor.key", "--json").json["key"] == vendor["key"]
    assert vendor["key"] in run("sign", base, "--key", "vendor.key").out
    assert vendor["key"] in run("init", base, "--home", home, "--trust", "vendor.pub").out

    photos, options = make_photos("Bag", "Shirt"), ["--home", home, "--recipe", "lda"]
    assert run("add-classes", photos, *options, "--sign-with", "device.key").code == 0
    (tmp_path / "lwm-edge.toml").write_text('[increment]\nsign_with = "device.key"\n')
    assert run("remove-class", "Bag", "--home", home).code == 0
    verified = run("verify", "--home", home, "--device-key", "device.pub", "--json")
    assert verified.code == 0 and verified.json["passed"] and verified.json["links_signed"] == 2
    assert "Verdict       passed" in (shown := run("verify", "--home", home).out) and "Not proven" in shown
    assert "This model is that base" in run("verify", base, "--trust", "vendor.pub").out


def test_a_failed_verification_has_its_exit_code(run: Any, home: Home, tmp_path: Path) -> None:
    no_key = run("verify", BASE_BUNDLE)
    assert no_key.code == 8 and "FAILED" in no_key.out and "no key to verify against" in no_key.err
    run("keygen", "vendor")
    unsigned = run("verify", "--home", home.path, "--trust", "vendor.pub", "--json")
    assert unsigned.code == 8 and unsigned.json["problems"] == ["the base is not signed"]
    (tmp_path / "vendor.key").chmod(0o644)
    readable = run("sign", BASE_BUNDLE, "--key", "vendor.key")
    assert readable.code == 8 and "chmod 600" in readable.err and readable.out == ""
    damaged = tmp_path / "damaged.lwm"
    damaged.write_bytes(BASE_BUNDLE.read_bytes()[:-1])
    assert run("verify", damaged, "--trust", "vendor.pub").code == 8
    assert run("verify", "nothing.lwm", "--trust", "vendor.pub").code == 4


def test_where_the_home_comes_from(
    run: Any, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert str(tmp_path / "data" / "lwm-edge") in run("info").err
    (tmp_path / "lwm-edge.toml").write_text(f'home = "{home.path}"\n[increment]\nepochs = 0\n')
    assert run("info", "--json").json["home"] == str(home.path)
    assert "epochs" in run("add-classes", "x").err
    monkeypatch.setenv("LWM_EDGE_HOME", str(tmp_path / "from_variable"))
    assert "from_variable" in run("info").err
    assert run("info", "--home", home.path).code == 0


@pytest.mark.parametrize("text", ["home = [", 'hom = "x"', "home = 7"])
def test_a_broken_settings_file(run: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "lwm-edge.toml").write_text(text)
    result = run("info")
    assert result.code == 2 and "lwm-edge.toml" in result.err


def test_interrupting_leaves_the_model(run: Any, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lwm_edge.increment.add.add_classes", interrupted)
    result = run("add-classes", "x", "--home", home.path)
    assert result.code == 130 and "the model is unchanged" in result.err and "Traceback" not in result.err


def _break(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        secret = "12345"
        raise ZeroDivisionError(f"division by zero, {len(secret)} digits")

    monkeypatch.setattr("lwm_edge.home.readers.info", broken)


def test_an_unforeseen_error_is_one_line_and_has_a_traceback_with_debug(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch)
    plain = run("info", BASE_BUNDLE)
    assert plain.code == 1 and "Traceback" not in plain.err and plain.out == ""
    assert "unexpected ZeroDivisionError (test_commands.py, line" in plain.err and "--debug" in plain.err
    debug = run("--debug", "info", BASE_BUNDLE, "--json")
    assert debug.code == 1 and "Traceback" in debug.err and "12345" not in debug.err.replace('"12345"', "")
    assert debug.json["error"]["kind"] == "LwmEdgeError" and debug.json["error"]["exit_code"] == 1


@pytest.mark.slow
def test_a_users_mistake_has_a_traceback_only_on_demand(run: Any, home: Home) -> None:
    for command in (["remove-class", "Hat"], ["add-classes", "nowhere"]):
        plain, debug = run(*command, "--home", home.path), run("--debug", *command, "--home", home.path)
        assert plain.code == debug.code in (2, 3)
        assert "Traceback" not in plain.err and plain.err.splitlines()[-1] in debug.err
        assert "Traceback (most recent call last)" in debug.err
    assert "in learn_classes" in debug.err  # the training process's traceback is there too


def test_repair_and_its_report_for_people(run: Any, home: Home) -> None:
    assert "nothing: all files" in run("repair", "--home", home.path).out
    home.current().labels.write_text("Hut\n")
    result = run("repair", "--home", home.path)
    assert "labels.txt does not list" in result.out and result.code == 0
    assert run("audit", "--home", home.path).code == 0


@pytest.mark.slow
def test_the_second_writer_is_busy_or_waits(run: Any, home: Home) -> None:
    with home.lock():
        busy = run("repair", "--home", home.path)
        command = [sys.executable, "-m", "lwm_edge", "remove-class", "Coat", "--shipped", "--wait"]
        pipe = subprocess.PIPE
        waiting = subprocess.Popen([*command, "--home", home.path], stdout=pipe, stderr=pipe, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(4)
    assert busy.code == 75 and "or pass --wait" in busy.err
    out, err = waiting.communicate()
    assert "Removed Coat" in out and waiting.returncode == 0
    assert err.startswith("Waiting until another change of the home is done ...\n")


def test_the_package_runs_with_python_m() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "lwm_edge", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("lwm-edge 0.")


def test_the_docstring_of_errors_lists_every_error_with_its_exit_code() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.LwmEdgeError)]
    for kind in kinds:
        (line,) = [line for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line.split()]
        assert str(kind.exit_code) in line.split(), kind


@pytest.mark.slow
def test_audit_simulate(run: Any, home: Home) -> None:
    command = ("audit", "--home", home.path, "--simulate", "3", "--recipe", "lda", "--isolated")
    result = run(*command, "--json")
    assert result.code == 0 and result.json["passed"] and result.json["isolated"]
    assert [step["classes"] for step in result.json["steps"]] == [7, 8, 9]


@pytest.mark.slow
def test_audit_simulate_for_people(run: Any, home: Home) -> None:
    command = ("audit", "--home", home.path, "--simulate", "3", "--classes", "2", "--recipe", "lda")
    result = run(*command, "--details")
    assert result.code == 0 and "3 simulated increments of 2 classes with the recipe lda" in result.out
    assert (
        "only classifier.onnx and labels.txt grew" in result.out
        and "MiB in the last (2% more is allowed" in result.out
    )
    assert "█" in result.out and "passed: storage and memory stay constant" in result.out


def test_simulation_options_without_simulate_are_a_mistake(run: Any, home: Home) -> None:
    assert run("audit", "--home", home.path, "--isolated").code == 2


@pytest.mark.slow
def test_a_current_folder_that_is_gone(home: Home, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    start = (
        "import os, sys; os.chdir(sys.argv.pop(1)); os.rmdir(os.getcwd()); "
        "from lwm_edge.__main__ import main; main()"
    )

    def run_there(*arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "gone").mkdir(exist_ok=True)
        command = [sys.executable, "-c", start, str(tmp_path / "gone"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run_there("remove-class", "Coat", "--shipped", "--home", str(home.path))
    assert done.returncode == 0, done.stderr
    assert "Coat" not in home.open_bundle().manifest.class_names
    failed = run_there("keygen", "device")
    assert failed.returncode == 2 and "device starts from the current folder" in failed.stderr
