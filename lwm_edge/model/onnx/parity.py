"""Compares an ONNX file, run in ONNX Runtime, with its network before anybody may use the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ParityError
from ...freed_memory import freed_memory_kept
from ...photos.pixels import Pixels
from ..manifest import Manifest
from ..onnx_file import UNKNOWN, OnnxFile
from ..tensors import AXES, AXES_OFFSET, BIAS, PROBE, WEIGHT, Arrays
from ..unknown import known_scores
from .graph import check_safe_to_run, fill_graph
from .reports import ParityReport

if TYPE_CHECKING:
    from ..network import Network

PARITY_BATCH_SIZES = (1, 2, 5)
PARITY_TOLERANCE = 1e-4
"""Difference that is allowed, as a share of the largest value, or of 1 if all values are smaller."""

_UNKNOWN_TOLERANCE = 1e-3  # larger, as the score is a difference of squares


def generated_images(image_size: int) -> Pixels:
    """Draws five pictures of colour gradients with noise [5, H, W, 3] uint8, to take the place of photos."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 256, (5, 2, 2, 3)).astype(np.float64)
    ramp = np.linspace(0, 1, image_size)
    across = np.stack([1 - ramp, ramp])
    gradients = np.einsum("nijc,ih,jw->nhwc", corners, across, across)
    noisy: NDArray[np.float64] = gradients + generator.normal(0, 20, gradients.shape)
    return noisy.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class ParityProbe:
    """Holds pictures, and the logits that the network computes from them.

    Attributes:
        images: Pictures [B, H, W, 3] uint8; if there are fewer than 5, they are repeated.
        logits: Logits of the network [B, classes] float32.
        real_photos: Whether the pictures are photos, rather than generated pictures.
    """

    images: Pixels
    logits: NDArray[np.float32]
    real_photos: bool


def parity_probe(network: Network, photos: Pixels | None = None) -> ParityProbe:
    """Runs the network on photos [B, H, W, 3] uint8, or on generated pictures if there are none."""
    import torch

    images = generated_images(network.preprocessing.image_size) if photos is None else photos
    device = network.head.weight.device
    with torch.no_grad():
        logits = network(torch.from_numpy(images).to(device))[1].cpu().numpy()
    return ParityProbe(images, logits, photos is not None)


def shipped_probe(arrays: Arrays, manifest: Manifest) -> ParityProbe:
    """Computes the head's logits for the generated pictures without running the network.

    The bundle keeps the head's inputs for these pictures, as torch computed them when the base was made or
    the network was last trained. So ONNX Runtime is compared with torch, although the device needs no torch.
    """
    head_inputs, classes = arrays[PROBE].astype(np.float64), len(manifest.class_names)
    logits = head_inputs @ arrays[WEIGHT][:classes].T + arrays[BIAS][:classes]
    return ParityProbe(generated_images(manifest.preprocessing.image_size), logits.astype(np.float32), False)


def head_inputs_of_probe(network: Network) -> NDArray[np.float32]:
    """Computes the head's inputs [5, d] float32 for the generated pictures; a bundle keeps these inputs."""
    import torch

    images = torch.from_numpy(generated_images(network.preprocessing.image_size))
    with torch.no_grad():
        pooled = network.activations(images.to(network.head.weight.device)).pooled()
    return pooled.cpu().numpy()


def verified_file(arrays: Arrays, manifest: Manifest, probe: ParityProbe) -> tuple[bytes, ParityReport]:
    """Makes a bundle's ONNX file, if its graph is safe to run, and compares the file with the network.

    Args:
        arrays: Tensors of the bundle.
        manifest: Manifest of the bundle.
        probe: Images, and the logits that the file must compute from them.

    Returns:
        Content of the file, and the comparison.

    Raises:
        ExportError: The graph is not of the form that lwm-edge exports, is too costly to run, or does not
            fit the tensors.
        ParityError: The file's results differ from the network's.
    """
    check_safe_to_run(arrays)
    with freed_memory_kept(True):  # loading the file can reuse memory that was freed in making it
        onnx_file = fill_graph(arrays, manifest)
        loaded = OnnxFile(onnx_file)
    report = check_parity(loaded, probe)
    _check_unknown(loaded, arrays, probe.images)
    return onnx_file, report


def _check_unknown(onnx_file: OnnxFile, arrays: Arrays, images: Pixels) -> None:
    """Compares the file's score for unknown objects with one that NumPy computes from its head inputs."""
    head_inputs, unknown = onnx_file.head_inputs_and_unknown(images)
    expected = -known_scores(head_inputs, arrays, len(onnx_file.class_names))
    tolerance = _UNKNOWN_TOLERANCE * max(
        1.0, float(np.abs(expected).max()), _largest_part(head_inputs, arrays)
    )
    difference = float(np.abs(unknown - expected).max())
    if not difference <= tolerance:
        raise ParityError(
            f"the ONNX file's output {UNKNOWN} differs by {difference:.3g} from the score that the bundle's "
            f"tensors give ({tolerance:.3g} is allowed); nothing was changed"
        )


def _largest_part(head_inputs: NDArray[np.float32], arrays: Arrays) -> float:
    """Computes the size of the terms whose difference is the score; rounding errors grow with that size."""
    values = head_inputs @ arrays[AXES].T + arrays[AXES_OFFSET]
    return float((values**2).sum(1).max())


def check_parity(onnx_file: OnnxFile, probe: ParityProbe) -> ParityReport:
    """Compares the ONNX file's results for images with the network's, at batch sizes 1, 2 and 5.

    Args:
        onnx_file: ONNX file, loaded.
        probe: Images, and the logits that the file must compute from them.

    Raises:
        ParityError: The number of classes differs; or a logit differs by more than 1e-4 * max(1, largest
            |logit|); or the best class differs although it leads by more than that.
    """
    largest = max(PARITY_BATCH_SIZES)
    images = np.resize(probe.images, (largest, *probe.images.shape[1:]))
    logits = np.resize(probe.logits, (largest, *probe.logits.shape[1:]))
    differences, tolerances = [], []
    for batch_size in PARITY_BATCH_SIZES:
        expected = logits[:batch_size]
        actual, _ = onnx_file.run(images[:batch_size])
        tolerance = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        _compare(actual, expected, tolerance, batch_size, probe)
        differences.append(float(np.abs(actual - expected).max()))
        tolerances.append(tolerance)
    return ParityReport(
        batch_sizes=PARITY_BATCH_SIZES,
        largest_difference=max(differences),
        tolerance=max(tolerances),
        real_photos=probe.real_photos,
    )


def _compare(
    actual: NDArray[np.float32],
    expected: NDArray[np.float32],
    tolerance: float,
    batch_size: int,
    probe: ParityProbe,
) -> None:
    if actual.shape != expected.shape:
        raise ParityError(f"the ONNX file gives {actual.shape[1]} classes, the network {expected.shape[1]}")
    difference = float(np.abs(actual - expected).max())
    ranked = np.sort(expected, axis=1)
    clear = (
        ranked[:, -1] - ranked[:, -2] > tolerance if expected.shape[1] > 1 else np.zeros(len(expected), bool)
    )
    wrong = (actual.argmax(1) != expected.argmax(1)) & clear
    if not difference <= tolerance:
        raise ParityError(
            f"the ONNX file differs from the network by {difference:.3g} in a logit (at batch size "
            f"{batch_size}; {tolerance:.3g} is allowed); nothing was changed"
        )
    if wrong.any():
        number = int(wrong.argmax())
        picture = f"{'photo' if probe.real_photos else 'generated picture'} {number + 1}"
        raise ParityError(
            f"the ONNX file puts {picture} in a different class than the network does: class_index "
            f"{actual[number].argmax()}, not {expected[number].argmax()} (at batch size {batch_size}); "
            "nothing was changed"
        )
