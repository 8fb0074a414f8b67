"""Makes a model's ONNX file again and compares it with the network: `export_onnx`."""

from __future__ import annotations

from pathlib import Path

from .. import storage
from ..errors import ConfigError
from ..model.bundle import ONNX_GRAPH, Bundle, open_bundle
from ..model.loading import load_network
from ..model.manifest import Manifest
from ..model.onnx_file import ParityReport, check_parity, fill_graph, parity_probe
from ..records import AnyPath
from . import ownership
from .home import Home, home_or_bundle
from .reports import ExportReport


def export_onnx(source: Home | AnyPath, output: AnyPath) -> ExportReport:
    """Writes a model's verified ONNX file.

    Args:
        source: Model home, or the path of a bundle.
        output: Path of the ONNX file, which is replaced if it exists; `-` is standard output.

    Raises:
        HomeError: There is no home, or the file cannot be written.
        ConfigError: Something other than a file is where the file should go.
        BundleError: The bundle is damaged.
        ExportError: The ONNX file could not be made, or differs from the network (ParityError).
    """
    output = Path(output)
    storage.check_output(output, may_be_stdout=True)
    _require_no_file_of_a_model(output, source)
    found = home_or_bundle(source)
    if isinstance(found, Home):
        content, manifest, parity = found.read(lambda g: verified_onnx(open_bundle(g.bundle)))
    else:
        content, manifest, parity = verified_onnx(open_bundle(found))
    storage.write_output(output, content)
    return ExportReport(
        onnx=output,
        onnx_bytes=len(content),
        class_names=manifest.class_names,
        model_digest=manifest.model_digest,
        parity=parity,
    )


def _require_no_file_of_a_model(output: Path, source: Home | AnyPath) -> None:
    """Refuses to write over the bundle that is exported, or over a file of any home.

    Raises:
        ConfigError: The output is one of these.
    """
    is_source = not isinstance(source, Home) and output.exists() and output.samefile(source)
    folders = output.resolve().parents
    if is_source or any(ownership.is_home(folder) for folder in folders[:3]):
        raise ConfigError(f"cannot write {output}: it is a file of a model; choose a file of its own")


def verified_onnx(bundle: Bundle) -> tuple[bytes, Manifest, ParityReport]:
    """Makes a bundle's ONNX file; returns it, the manifest, and how the file compares with the network."""
    arrays, manifest = bundle.arrays(), bundle.manifest
    content = fill_graph(arrays[ONNX_GRAPH].tobytes(), arrays, manifest)
    return content, manifest, check_parity(content, parity_probe(load_network(bundle)))
