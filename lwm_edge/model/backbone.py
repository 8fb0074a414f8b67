"""Runs a bundle's backbone through ONNX Runtime, from images to the head's inputs, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError, LwmEdgeError, ParityError, first_line
from ..freed_memory import freed_memory_kept
from ..photos.pixels import Pixels
from .bundle import Bundle
from .onnx.graph import check_safe_to_run, fill_graph
from .onnx.parity import PARITY_TOLERANCE, generated_images
from .onnx_file import HEAD_INPUTS, INPUT, open_session
from .tensors import PROBE


class Backbone:
    """Holds the backbone of a bundle, ready to run.

    Args:
        bundle: Bundle whose graph and tensors are used.

    Raises:
        ExportError: The graph is not safe to run (see `check_safe_to_run`), or ONNX Runtime cannot run it.
        ParityError: ONNX Runtime on this device does not reproduce the bundle's `probe.head_inputs`.
    """

    def __init__(self, bundle: Bundle) -> None:
        try:
            with freed_memory_kept(True):  # loading the file can reuse memory that was freed in making it
                self._session: Any = open_session(_checked_file(bundle))
        except LwmEdgeError:
            raise
        except Exception as error:  # ONNX Runtime's own errors derive from Exception alone
            raise ExportError(
                f"{bundle.path} cannot be loaded by ONNX Runtime: {first_line(error)}; use another base"
            ) from None
        images = generated_images(bundle.manifest.preprocessing.image_size)
        self._check(images, bundle.arrays(PROBE)[PROBE])

    def run(self, images: Pixels, *, keep_maps: bool = False) -> tuple[NDArray[np.float32], None]:
        """Computes the head's inputs for images [B, H, W, 3] uint8.

        Returns:
            The head's inputs [B, d] float32, and None: the graph does not output its feature maps.

        Raises:
            ExportError: ONNX Runtime cannot run the model.
        """
        assert not keep_maps, "the graph does not output its feature maps"
        try:
            (head_inputs,) = self._session.run([HEAD_INPUTS], {INPUT: images})
        except Exception as error:  # ONNX Runtime's own errors, as above
            raise ExportError(
                f"ONNX Runtime cannot run the model: {first_line(error)}; use another base"
            ) from None
        return np.asarray(head_inputs, dtype=np.float32), None

    def tensors(self) -> tuple[()]:
        """Lists no tensors: ONNX Runtime keeps the weights where Python cannot see them."""
        return ()

    def _check(self, images: Pixels, expected: NDArray[np.float32]) -> None:
        """Compares the head's inputs for the generated pictures with those that torch computed."""
        actual, _ = self.run(images)
        if actual.shape != expected.shape:
            raise ExportError(
                f"the ONNX graph in the bundle computes {list(actual.shape)} values from the generated "
                f"pictures, not {list(expected.shape)}; use another base"
            )
        tolerance = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(actual - expected).max())
        if not difference <= tolerance:
            raise ParityError(
                f"the head's inputs from ONNX Runtime on this device differ by {difference:.3g} "
                f"({tolerance:.3g} is allowed) from those that torch computed when this network was made; "
                "nothing was changed: use another version of onnxruntime"
            )


def _checked_file(bundle: Bundle) -> bytes:
    """Makes the content of a bundle's ONNX file, after checking that the graph is safe to run."""
    arrays = bundle.arrays()
    check_safe_to_run(arrays)
    return fill_graph(arrays, bundle.manifest)
