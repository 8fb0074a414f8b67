"""Commands on the pages run as they are written, except those listed here."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lwm_edge.cli.commands import app
from tests.support.pages import PAGES, ROOT, blocks, code_spans, commands, read

# Every block of commands on these pages is in one of three tables; the blocks in PRINTED run here.
FOLLOWED = ("README.md", "deploy/README.md", "examples/README.md")
RUN_ELSEWHERE = {  # blocks that a script or another test runs as they are written, because they need more
    "README.md demo-command": ".ci/run",
    "README.md test-command": ".ci/run",
    "deploy/README.md clone": ".ci/extended",
    "deploy/README.md install-instant": ".ci/extended",
    "deploy/README.md install-device": ".ci/extended",
    "deploy/README.md install-jetson": ".ci/extended",
    "deploy/README.md activate": ".ci/extended",
    "deploy/README.md plan-training": ".ci/extended",
    "deploy/README.md install-release": ".ci/release",
    "deploy/README.md service": ".ci/live_systemd",
    "deploy/README.md hand-over": "tests/test_tensorrt.py",
    "deploy/README.md engine": "tests/test_tensorrt.py",
    "deploy/README.md owners-day": "tests/cli/test_owners_day.py",
    "examples/README.md several-processes": "tests/base/test_several_processes.py",
}
NEVER_RUN = {  # blocks that nothing runs, and why
    "deploy/README.md install-jetpack-6": "needs a Jetson, and downloads for it",
    "deploy/README.md install-jetpack-7-orin": "needs a Jetson, and downloads for it",
    "deploy/README.md images": "needs Docker and a Jetson; .ci/container_image builds the first by buildah",
    "deploy/README.md containers": "needs Docker; .ci/container_image runs such containers in namespaces",
}
TOO_LONG = {  # commands of which only the options are parsed, and why
    "protocol.py": "up to hours, on data that is not here; .ci/extended runs a small one",
    "sweep.py": "hours, on data that is not here; .ci/extended runs a small one",
    "gradients.py": "minutes, on data that is not here; .ci/extended runs a small one",
    "attention_maps.py": "draws maps of the models that protocol.py made; .ci/extended runs a small one",
    "crash_rounds.py": "a minute; .ci/extended runs it",
    "failing_operations.py": "five minutes; .ci/extended runs it, and test_failing_operations.py runs a part",
    "crash.py": "25 minutes; test_benchmarks.py runs twelve kills, in .ci/extended",
    "inbox_crash.py": "fifteen minutes; .ci/extended runs forty kills",
    "overfitted.py": "minutes, on data that is not here",
    "doctor.py": "minutes, on data that is not here",
    "patches.py": "minutes, on data that is not here; .ci/extended runs a small one",
    "coverage.py": "a minute for each row, on data that is not here",
    "make_demo_data.py": "its data come from a Debian package",
    "few_photos.py": "minutes, on data that is not here",
    "unknown.py": "minutes, on data that is not here",
    "estimates.py": "needs a base and its test photos",
    "speed.py": "minutes, and only figures from an idle machine count",
    "speed_training.py": "minutes, and only figures from an idle machine count",
    "speed_instant.py": "minutes, and only figures from an idle machine count",
    "large_base.py": "minutes",
    "several_processes.py": "minutes; .ci/extended trains with several processes",
    "forms.py": "minutes, on data that is not here",
    "memory.py": "minutes, and only figures from an idle machine count",
    "audit": "fifty increments take more than a minute; deploy/README.md's three are run",
}
PRINTED = {  # text that shows that a block did what the page says
    "README.md device-path": ("Learnt 2 classes", "passed: nothing is unexplained"),
    "README.md python": ("lda ran:", "Bag"),
    "README.md vendor-path": ("small_resnet20", "vendor.pub"),
    "deploy/README.md first-prediction": ("Learnt 2 classes", "test/2/Bag/000.png: Bag"),
    "deploy/README.md operator-path": ("Ankle boot", "classifier.onnx"),
    "deploy/README.md mind-path": (
        "Learnt from 100 more photos of Ankle boot and Bag",
        "Merged Ankle boot into Handbag",
        "removed Handbag",
    ),
    "deploy/README.md inbox-path": ("Learnt Bag (new class)", "000.png", "added Bag"),
    "deploy/README.md seeing-path": ("-: Coat", "In the top 5", "Page written"),
    "deploy/README.md unknown-path": (
        "300 of 6 classes",
        "95% of photos of known classes",
        "unknown (at best",
    ),
    "deploy/README.md variants-path": ("same class on", "fixed.onnx"),
    "deploy/README.md audit-path": (
        "passed: nothing is unexplained",
        "passed: storage and memory stay constant",
    ),
    "deploy/README.md custody-path": ("signed changes 1, 2", "This model is that base, unchanged."),
    "examples/README.md example": ("Learnt: Ankle boot, Bag", "is a Bag"),
    "examples/README.md python": ("classifier.onnx", "Bag 0.", "(1, 8)"),
    "examples/README.md classify": ("Trouser",),
    "examples/README.md base-path": ("small_resnet20", "32 classes"),
    "examples/README.md pack-path": ("Base made", "on 300 photos that it never saw", "256"),
}
COMMAND = r"(\$ |sudo |docker |git |python3? |\S*pip |\S*lwm-edge )"
IN_TEXT = {  # commands outside of blocks, lwm-edge's own aside: what reads or runs them, or why nothing does
    r"pip install '\S*\[[\w,]+\]'": "test_page_numbers.py looks for the extras",
    r"pip install (?!sympy)[a-z2 -]+": "test_page_numbers.py looks for the libraries",
    r"pytest .*": "test_the_tests_that_the_page_names_exist",
    r"python benchmarks/\S+ .*": "a block of benchmarks/README.md has the same command",
    r"\.ci/extended \w+": "test_sections_of_the_extended_tests_that_pages_name_exist",
    r"\.ci/release (FOLDER|--lock)": ".ci/extended runs the first; the second changes what a release has",
    r"\. \.venv/bin/activate": "the commands after it run with that environment's programs first in PATH",
    r"sudo (apt|chown).*|apt show .*|sudo adduser .*": "changes the system, or asks a Jetson's",
    r"sudo /opt/lwm-edge/bin/lwm-edge info .*": ".ci/live_systemd asks the installed service's home",
    r"python3 --version|pip hash FILE": "are Python's and pip's own",
    r"python -c .*|pip install sympy": "need the device's own torch",
    r"export PIP_EXTRA_INDEX_URL=THAT_ADDRESS": "needs an address that a web page shows",
}
PARSE = """
import importlib, json, pathlib, shlex, sys, typer
sys.path.insert(0, "benchmarks")
from methods import BASELINES, recipe_of, settings_of
from trials import method_of
from lwm_edge.cli.settings import base_config
for line in json.load(sys.stdin):
    script, *arguments = shlex.split(line)[1:]
    module, app = importlib.import_module(pathlib.Path(script).stem), typer.Typer()
    if hasattr(module, "main"):
        app.command()(module.main)
    else:
        app = module.app
    context = typer.main.get_command(app).make_context(script, arguments)
    for method in context.params.get("method") or ():
        if method.startswith("joint"):
            base_config(architecture="small_resnet20", **settings_of(method))
        elif method not in BASELINES:
            recipe_of(method)
    for trial in context.params.get("trial") or ():
        recipe_of(method_of("lwf-mc", trial))
"""


def _run(script: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LWM_EDGE_HOME": "", "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _script(line: str) -> str:
    """Returns the name of the script or of the lwm-edge command that a line runs."""
    return Path(line.split()[1]).name


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copies the folders of a checkout that the commands on the pages need."""
    for folder in ("lwm_edge", "deploy", "examples", "benchmarks", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", FOLLOWED)
def test_the_blocks_of_a_page_run_one_after_the_other(page: str, clone: Path) -> None:
    printed: dict[str, str] = {}
    for name, language, text in blocks(page):
        if language == "python":
            output = _run(f"python - <<'END'\n{text}\nEND", clone)
            printed[f"{page} python"] = printed.get(f"{page} python", "") + output
        elif language == "sh" and f"{page} {name}" in PRINTED:
            printed[f"{page} {name}"] = _run(text, clone)
    assert printed.keys() == {name for name in PRINTED if name.startswith(f"{page} ")}
    for name, output in printed.items():
        missing = [text for text in PRINTED[name] if text not in " ".join(output.split())]
        assert not missing, f"{name}: {missing} in\n{output}"


def test_every_block_of_commands_runs_here_or_elsewhere_or_never_for_a_reason() -> None:
    on_pages = [f"{page} {b.name}" for page in FOLLOWED for b in blocks(page) if b.language == "sh"]
    on_pages += {f"{page} python" for page in FOLLOWED for b in blocks(page) if b.language == "python"}
    assert sorted(on_pages) == sorted([*PRINTED, *RUN_ELSEWHERE, *NEVER_RUN])
    for block_on_page, runner in RUN_ELSEWHERE.items():
        page, name = block_on_page.split()
        by_a_test, by_a_script = f'"{name}"', rf"{_asked_for(page)}[^#\n]*(?<![\w-]){name}(?![\w-])"
        named = re.search(by_a_test if runner.endswith(".py") else by_a_script, read(runner))
        assert named, f"{runner} does not run {block_on_page}"


def _asked_for(page: str) -> str:
    """Returns a pattern of what precedes the names of a page's blocks in the scripts that run them."""
    return rf"(?:\.ci/block\"? {page} |\breadme_command |\bfor (?:way|block) in )"


def test_scripts_get_a_block_as_it_is_written_and_no_other() -> None:
    def printed(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ROOT / ".ci/block", *arguments], capture_output=True, text=True, check=False)

    for page in FOLLOWED:
        for b in blocks(page):
            assert not b.name or printed(page, b.name).stdout == b.text, b.name
    for odd in ("install.instant", "install-.*", "clone\\|service", "a/b", "-n", ""):
        refused = printed("deploy/README.md", odd)
        assert (refused.returncode, refused.stdout) == (1, "") and "there is no block" in refused.stderr, odd
    assert printed("deploy/README.md").returncode == 2


def test_every_command_that_is_too_long_is_on_a_page() -> None:
    assert TOO_LONG.keys() == {_script(line) for line in _commands_of_the_benchmarks()} & TOO_LONG.keys()


def test_every_command_is_in_a_block_of_shell_or_python() -> None:
    for page in PAGES:
        for name, language, text in blocks(page):
            assert language in ("sh", "python", "toml", ""), (page, name)
            hidden = re.search(rf"^{COMMAND}", text, re.MULTILINE)
            assert language in ("sh", "python") or not hidden, (page, text)
        outside = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
        indented = re.search(rf"\n\n {{4,}}{COMMAND}.*", outside)
        assert not indented, f"{page}: put this into a block between fences:{indented[0] if indented else ''}"


def _commands_of_the_benchmarks() -> list[str]:
    fenced = [c for b in blocks("benchmarks/README.md") if b.language == "sh" for c in commands(b.text)]
    spans = [span for page in PAGES for span in code_spans(page) if span.startswith("python benchmarks/")]
    return [*fenced, *spans]


@pytest.mark.slow
def test_the_commands_of_the_benchmarks_run_or_can_at_least_be_parsed(clone: Path) -> None:
    parsed = []
    results = {"full": "cifar100-full", "results": "cifar100-reduced", "caltech101": "caltech101"}
    for name, kept in results.items():
        shutil.copy(ROOT / "benchmarks" / "results" / f"{kept}.json", clone / f"{name}.json")
    for line in _commands_of_the_benchmarks():
        if line.startswith("python") and _script(line) in TOO_LONG:
            parsed.append(line)
        elif _script(line) not in TOO_LONG:
            _run(line, clone)
        else:
            _parse_lwm_edge(line.partition(">")[0])
    assert (clone / "full.png").is_file() and (clone / "caltech101.png").is_file() and len(parsed) > 10
    checked = subprocess.run(
        [sys.executable, "-c", PARSE],
        cwd=clone,
        input=json.dumps(parsed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def _parse_lwm_edge(line: str) -> None:
    """Raises an error if a command line has an option that does not exist."""
    name, *arguments = shlex.split(line)[1:]
    typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def _options() -> dict[str, set[str]]:
    named = typer.main.get_command(app)
    options = {name: {o for p in command.params for o in p.opts} for name, command in named.commands.items()}  # type: ignore[attr-defined]
    return {**options, "": {o for parameter in named.params for o in parameter.opts}}


def test_commands_and_options_in_the_text_exist() -> None:
    options = _options()
    known = set().union(*options.values())
    elsewhere = {"--beta", "--method", "--help", "--rebuild", "--engines"}  # of scripts, and of all commands
    elsewhere |= {"--max-restarts", "--index-url", "--no-deps", "--lock"}  # of torchrun, pip, .ci/release
    for page in PAGES:
        for span in code_spans(page):
            words = span.split()
            named = [word for word in words if re.fullmatch(r"--?[a-z][\w-]*", word)]
            if words[0] == "lwm-edge" and len(words) > 1 and not words[1].startswith("-"):
                assert set(named) <= options[words[1]], f"{page}: `{span}`"
            elif words[0] not in ("pip", "pytest", "python"):
                assert set(named) <= known | elsewhere, f"{page}: `{span}`"


def test_every_command_in_the_text_is_checked_or_has_a_reason_not_to_be() -> None:
    command = re.compile(
        r"(sudo|docker|git|python3?|\S*pip|apt|bash|pytest|\.|\.ci/\w+|torchrun|export) [^-]|python3 --"
    )
    spans = {span for page in PAGES for span in code_spans(page) if command.match(span)}
    known = {span: [kind for kind in IN_TEXT if re.fullmatch(kind, span)] for span in spans}
    assert all(len(kinds) == 1 for kinds in known.values()), known
    assert {kind for kinds in known.values() for kind in kinds} == IN_TEXT.keys()


def test_sections_of_the_extended_tests_that_pages_name_exist() -> None:
    script = (ROOT / ".ci" / "extended").read_text(encoding="utf-8")
    for page in PAGES:
        for span in code_spans(page):
            if section := re.fullmatch(r"\.ci/extended (\w+)", span):
                assert f"\n{section[1]}() {{" in script, f"{page}: `{span}`"


def test_the_tests_that_the_page_names_exist() -> None:
    for span in code_spans("tests/README.md"):
        if span.startswith("pytest "):
            files = [ROOT / word for word in span.split() if word.startswith("tests/")]
            assert files and all(file.is_file() for file in files), span
            if chosen := re.search(r" -k (\w+)", span):
                names = re.findall(r"^def (test_\w+)", files[0].read_text(), re.MULTILINE)
                assert any(chosen[1] in name for name in names), span
