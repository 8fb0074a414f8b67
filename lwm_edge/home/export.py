"""Rebuilds a model's ONNX file, checks it against the network, and writes the file or a variant of it."""

from __future__ import annotations

from pathlib import Path

from .. import outputs
from ..errors import ConfigError, ParityError, PhotosError
from ..model.bundle import Bundle, open_bundle
from ..model.manifest import Manifest
from ..model.onnx import variants
from ..model.onnx.comparison import VariantReport, compare
from ..model.onnx.parity import shipped_probe, verified_file
from ..model.onnx.reports import ParityReport
from ..photos.class_names import fold_class_name
from ..photos.folders import read_photo_folder
from ..photos.photo_set import PhotoSet, PixelCache
from ..records import AnyPath, ProgressCallback, StepReporter, ignore_progress, one_step
from ..wording import counted, percent_reached
from .config import ExportConfig
from .home import Home, home_or_bundle
from .reports import ExportReport

_MIN_AGREEMENT = {"float32": 1.0, "fp16": 0.99, "int8": 0.97}
_MIN_PHOTOS = 20
_MAX_CALIBRATION_PHOTOS = 200
_PIXEL_CACHE_BYTES = 64 * 2**20


def export_onnx(
    source: Home | AnyPath,
    output: AnyPath,
    config: ExportConfig | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> ExportReport:
    """Writes a model's verified ONNX file, or a variant of it.

    Args:
        source: Model home, or the path of its folder or of a bundle.
        output: Path of the ONNX file to write, which is replaced if it exists; the text `-` means standard
            output.
        config: Variant to write; None means the same file as a home's classifier.onnx.
        on_progress: Function that is called before the file is made, before each photo is read, and again
            each time a photo is used for calibration or classified. If it raises an exception, the call
            ends, and nothing is written.

    Raises:
        HomeError: There is no home, or writing the file failed.
        ConfigError: No file can be written at `output`, or it is the bundle itself or inside a home.
        BundleError: The bundle is damaged.
        PhotosError: The photos cannot be used, or are too few to check the variant on.
        ExportError: The ONNX file cannot be made.
        ParityError: The ONNX file differs from the network, or its variant disagrees with the original
            on too many photos and `force` is not set.
        ResourceError: Memory or disk space ran out.
    """
    config = config or ExportConfig()
    target = outputs.STDOUT if output == outputs.STDOUT else Path(output)
    outputs.check_output(target, may_be_stdout=True)
    if isinstance(target, Path):
        _refuse_source(target, source)
    found = home_or_bundle(source)
    if isinstance(found, Home):
        content, manifest, parity = found.read(lambda g: _verified(open_bundle(g.bundle), on_progress))
    else:
        content, manifest, parity = _verified(open_bundle(found), on_progress)
    comparison = None
    if not config.is_plain or config.photos:
        content, comparison = _converted(content, manifest, config, on_progress)
    outputs.write_output(target, content)
    return ExportReport(
        onnx=Path(target),
        onnx_bytes=len(content),
        class_names=manifest.class_names,
        model_digest=manifest.model_digest,
        parity=parity,
        comparison=comparison,
    )


def _verified(bundle: Bundle, on_progress: ProgressCallback) -> tuple[bytes, Manifest, ParityReport]:
    on_progress(one_step("export", bundle.manifest.ledger.fastest_seconds))
    return verified_onnx(bundle)


def _refuse_source(output: Path, source: Home | AnyPath) -> None:
    """Refuses to write over the bundle being exported.

    Raises:
        ConfigError: The output is that bundle.
    """
    is_file = not isinstance(source, Home) and Path(source).exists() and output.exists()
    if is_file and output.samefile(str(source)):
        raise ConfigError(f"cannot write {output}: it is the bundle itself; choose another file")


def verified_onnx(bundle: Bundle) -> tuple[bytes, Manifest, ParityReport]:
    """Makes a bundle's ONNX file; returns the file, the manifest, and the comparison with the network."""
    arrays = bundle.arrays()
    content, parity = verified_file(arrays, bundle.manifest, shipped_probe(arrays, bundle.manifest))
    return content, bundle.manifest, parity


def _converted(
    original: bytes, manifest: Manifest, config: ExportConfig, on_progress: ProgressCallback
) -> tuple[bytes, VariantReport | None]:
    """Makes the variant that was asked for, and compares it with the original if there are photos."""
    photos, labels = (None, None)
    if config.photos:
        photos, labels = _read_photos(config.photos, manifest, on_progress)
    content = original
    if config.fixed_head:
        content = variants.with_fixed_head(content, manifest.capacity)
    if config.precision == "fp16":
        content = variants.in_half_precision(content)
    if config.precision == "int8" and photos:
        calibration, photos, labels = _split(photos, labels)
        count = len(calibration.photos)
        images = calibration.load(range(count), report=StepReporter("photos", count, on_progress))
        content = variants.in_eight_bits(
            content, images, float_weights=config.float_weights, on_progress=on_progress
        )
    if config.static_batch:
        content = variants.with_static_batch(content, config.static_batch)
    if not photos:
        return content, None
    report = compare(
        original, content, photos, labels, _MIN_AGREEMENT[config.precision], on_progress=on_progress
    )
    if report.agreement < report.min_agreement and not config.force:
        raise ParityError(
            f"this variant agrees with the original ONNX file on {percent_reached(report.agreement)} of "
            f"{report.photos} photos; at least {100 * report.min_agreement:.0f}% is needed, so nothing was "
            "written; try more photos, other photos or another precision, or pass --force"
        )
    return content, report


def _read_photos(
    folder: Path, manifest: Manifest, on_progress: ProgressCallback
) -> tuple[PhotoSet, list[int] | None]:
    """Reads photos, and finds their class indices (None if some folder is not a class of the model)."""
    cache = PixelCache(_PIXEL_CACHE_BYTES)
    found = read_photo_folder(folder, manifest.preprocessing, cache, min_photos=1, on_progress=on_progress)
    photos = PhotoSet([p for group in found.photos for p in group], manifest.preprocessing, cache)
    if len(photos.photos) < _MIN_PHOTOS:
        found_photos = counted(len(photos.photos), "photo", "photos")
        raise PhotosError(f"{folder} has {found_photos}; at least {_MIN_PHOTOS} are needed")
    index = {fold_class_name(name): i for i, name in enumerate(manifest.class_names)}
    rows = [index.get(fold_class_name(name)) for name in found.class_names]
    labels = [rows[label] for label in photos.labels]
    known = [label for label in labels if label is not None]
    return photos, known if len(known) == len(labels) else None


def _split(photos: PhotoSet, labels: list[int] | None) -> tuple[PhotoSet, PhotoSet, list[int] | None]:
    """Takes every second photo for the comparison, and up to 200 of the others for calibration."""
    every = photos.photos
    step = max(1, -(-len(every) // (2 * _MAX_CALIBRATION_PHOTOS)))
    calibration = PhotoSet(every[:: 2 * step], photos.preprocessing, photos.cache)
    others = PhotoSet(every[1::2], photos.preprocessing, photos.cache)
    return calibration, others, labels[1::2] if labels else None
