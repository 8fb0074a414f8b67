"""The auditor: accounts for every byte of a home, and shows that nothing else is there.

First form: what lies in the home now. Folders' own entries, whose size is the file system's affair, are
not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from . import manifest as manifests
from .bundle import MANIFEST, ONNX_GRAPH, ROWS_BY_CLASS, Bundle, open_bundle
from .class_statistics import COVARIANCE, MEANS, PHOTOS
from .generation import missing_or_changed
from .home import CURRENT, GENERATION_FILES, GENERATIONS, LOCK, AnyPath, Generation, Home, open_home
from .manifest import Manifest
from .network import empty_network
from .reports import AuditItem, AuditReport, OnnxGrowth
from .trust import trust_problems


def audit(home: Home | AnyPath) -> AuditReport:
    """Accounts for every byte of a home.

    Args:
        home: The model home, or its folder.

    Returns:
        The account; `passed` is False and `problems` says why where something is unexplained.

    Raises:
        HomeError: There is no home.
        BundleError: The bundle cannot be read at all.
    """
    home = open_home(home)
    return home.read(lambda generation: _audit(home, generation))


def _audit(home: Home, generation: Generation) -> AuditReport:
    bundle = open_bundle(generation.bundle)
    problems: list[str] = []
    items = [*_bundle_items(bundle, problems), *_other_items(home, generation, bundle, problems)]
    expected = {home.path / CURRENT, home.path / LOCK, *(generation.path / name for name in GENERATION_FILES)}
    expected |= {home.trust} if home.trust.is_file() else set()
    sizes = {path: path.lstat().st_size for path in _files(home.path)}
    strangers, missing = sizes.keys() - expected, expected - sizes.keys() - {home.path / LOCK}
    problems += [_unexplained(path.relative_to(home.path), sizes[path]) for path in sorted(strangers)]
    problems += [f"{path.relative_to(home.path)} is missing" for path in sorted(missing)]
    total, accounted = sum(sizes.values()), sum(item.bytes for item in items)
    if total != accounted:
        problems.append(f"{total} bytes are on disk, and {accounted} are accounted for")
    first = bundle.manifest.ledger.first
    shipped_bytes = first.bundle_bytes if first else bundle.manifest.bundle_bytes
    if bundle.path.stat().st_size != shipped_bytes:
        problems.append(f"the bundle is {bundle.path.stat().st_size} bytes long, and was {shipped_bytes}")
    return AuditReport(
        home=home.path,
        passed=not problems,
        problems=tuple(problems),
        items=tuple(items),
        total_bytes=total,
        accounted_bytes=accounted,
        bundle_bytes=bundle.path.stat().st_size,
        bundle_bytes_shipped=shipped_bytes,
        onnx_growth=_onnx_growth(bundle.manifest, generation),
    )


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, hidden or not; links are not followed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _unexplained(path: Path, size: int) -> str:
    if path.parts[0] == GENERATIONS:
        hint = "left by an interrupted change, the next change removes it, unless one is running now"
    else:
        hint = "no part of a home"
    return f"{path} ({size} bytes) is unexplained: {hint}"


def _bundle_items(bundle: Bundle, problems: list[str]) -> Iterator[AuditItem]:
    m = bundle.manifest
    classes = len(m.class_names)
    network = empty_network(m.architecture, classes, m.capacity, m.preprocessing)
    declared = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    d = network.head.in_features
    declared |= {MEANS: [m.capacity, d], COVARIANCE: [d, d], PHOTOS: [1]}
    tensor_bytes = 0
    with safe_open(bundle.path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            array = file.get_tensor(name)
            tensor_bytes += array.nbytes
            if name == MANIFEST:
                text = len(manifests.decode_text(array.tobytes()))
                yield AuditItem(owner="manifest", part="text", bytes=text)
                yield AuditItem(owner="manifest", part="padding", bytes=array.nbytes - text)
            elif name == ONNX_GRAPH:
                yield AuditItem(owner="onnx graph", part=name, bytes=array.nbytes)
            elif name not in declared or list(array.shape) != declared[name]:
                problems.append(f"tensor {name} {list(array.shape)} is none that {m.architecture} declares")
                yield AuditItem(owner="unexplained", part=name, bytes=array.nbytes)
            elif name in ROWS_BY_CLASS:
                owner, in_use = "means" if name == MEANS else "head", array[:classes].nbytes
                yield AuditItem(owner=f"{owner} rows in use", part=name, bytes=in_use)
                yield AuditItem(owner=f"{owner} rows reserved", part=name, bytes=array.nbytes - in_use)
            elif name in (COVARIANCE, PHOTOS):
                yield AuditItem(owner="shared covariance", part=name, bytes=array.nbytes)
            else:
                yield AuditItem(owner="backbone", part=name, bytes=array.nbytes)
    header = bundle.path.stat().st_size - tensor_bytes
    yield AuditItem(owner="bundle header", part="names, shapes, offsets", bytes=header)


def _other_items(
    home: Home, generation: Generation, bundle: Bundle, problems: list[str]
) -> Iterator[AuditItem]:
    yield AuditItem(owner="link", part=CURRENT, bytes=(home.path / CURRENT).lstat().st_size)
    for path, owner in (
        (generation.onnx, "onnx file"),
        (generation.labels, "labels"),
        (generation.receipt, "receipt"),
        (home.trust, "trusted key"),
    ):
        if path.is_file():
            yield AuditItem(owner=owner, part=path.name, bytes=path.stat().st_size)
    problems += trust_problems(home)
    for name, why in missing_or_changed(generation, bundle).items():
        if (generation.path / name).is_file():  # what is missing, `_audit` says
            problems.append(f"{name} {why}")


def _onnx_growth(manifest: Manifest, generation: Generation) -> OnnxGrowth | None:
    first = manifest.ledger.first
    if first is None or not generation.onnx.is_file():
        return None
    classes = len(manifest.class_names) - first.classes
    grown = generation.onnx.stat().st_size - first.onnx_bytes
    return OnnxGrowth(classes=classes, bytes=grown, bytes_per_class=grown / classes if classes > 0 else None)
