"""Makes and checks the ONNX file, which takes `image` and gives `logits` and `probabilities`.

The input is uint8 [batch, H, W, 3]; the outputs are float32 [batch, classes]. The exporter runs once, at the
vendor's (`trace_graph`), and the bundle keeps the graph without weights. On the device `fill_graph` puts the
bundle's tensors into it, and `check_parity` compares the result with the network through ONNX Runtime.
Format: https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import io
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError, ParityError, first_line
from ..photos.reading import Pixels
from ..records import Report
from .bundle import Arrays
from .classifier import (
    CLASS_NAMES_KEY,
    DIGEST_KEY,
    INPUT,
    LOGITS,
    PREPROCESSING_KEY,
    PROBABILITIES,
    Classifier,
)
from .manifest import Manifest

if TYPE_CHECKING:
    from .network import Network

OPSET = 18  # ONNX Runtime and TensorRT 10 read it
PARITY_BATCH_SIZES = (1, 2, 5)
_PARITY_TOLERANCE = 1e-4


class ParityReport(Report):
    """Compares the ONNX file with the network, from pixels, through ONNX Runtime.

    Attributes:
        batch_sizes: Batch sizes that were compared.
        largest_difference: Largest difference of two logits.
        tolerance: Allowed difference: 1e-4 x max(1, largest |logit|).
        real_photos: Whether photos were compared, or generated pictures because none were at hand.
    """

    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    real_photos: bool


def trace_graph(network: Network, activation: str) -> bytes:
    """Exports the network's graph without its weights.

    Each weight stays as a named initializer without data; `fill_graph` fills it in. This needs torch's
    exporter (the `vendor` extra).

    Raises:
        ExportError: The exporter is missing or cannot export this network.
    """
    import torch
    from onnx import ModelProto

    size = network.preprocessing.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # a batch of 1 would be exported as fixed
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                _exported_module(network, activation),
                (example,),
                dynamo=True,
                optimize=False,  # folding would merge weights away from their names; runtimes fold anyway
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[LOGITS, PROBABILITIES],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except ImportError as error:
        raise ExportError(
            f"the ONNX exporter needs {error.name}; install it with: pip install 'lwm-edge[vendor]'"
        ) from None
    except Exception as error:
        raise ExportError(
            f"torch cannot export this network to ONNX: {str(error).splitlines()[0]}"
        ) from error
    assert program is not None
    model: ModelProto = program.model_proto
    for initializer in model.graph.initializer:
        if initializer.name in network.state_dict():
            initializer.ClearField("raw_data")
    _remove_traces(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _exported_module(network: Network, activation: str) -> Any:
    """Builds the network as the file computes it, its head cut to the classes in use."""
    import torch

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = network.backbone
            self.head = torch.nn.Linear(network.head.in_features, network.classes)
            self.head.load_state_dict(
                {
                    "weight": network.head_weight.detach(),
                    "bias": network.head.bias[: network.classes].detach(),
                }
            )

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.head(network.activations(image).pooled())
            return logits, logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)

    return Exported().eval()


def _remove_traces(model: Any) -> None:
    """Removes what the exporter notes about the vendor's source code, and shapes that become outdated."""
    graph = model.graph
    graph.ClearField("value_info")
    graph.ClearField("doc_string")
    model.ClearField("metadata_props")
    for item in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def fill_graph(graph: bytes, arrays: Arrays, manifest: Manifest) -> bytes:
    """Makes the ONNX file of a bundle: its graph with the bundle's tensors as initializers.

    Args:
        graph: Graph from `trace_graph`.
        arrays: Tensors of the bundle.
        manifest: Manifest whose class names, preprocessing and digest go into the metadata.

    Returns:
        Content of the file; the same bundle gives the same bytes.

    Raises:
        ExportError: The graph is damaged or does not fit the tensors.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(graph)
        _refuse_what_no_classifier_needs(model)
        _fill(model, arrays, manifest)
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
    except ExportError:
        raise
    except Exception as error:  # protobuf and the checker raise errors of many kinds
        raise ExportError(
            f"the ONNX graph in the bundle is damaged or does not fit its tensors: {first_line(error)}"
        ) from error
    return content


def _refuse_what_no_classifier_needs(model: Any) -> None:
    """Refuses loops, which may never end, and tensors that are stored in other files."""
    from onnx import AttributeProto, TensorProto

    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    attributes = [attribute for node in nodes for attribute in node.attribute]
    if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in attributes):
        raise ExportError("the ONNX graph in the bundle has loops or branches, which no classifier needs")
    tensors = [
        *model.graph.initializer,
        *(a.t for a in attributes),
        *(t for a in attributes for t in a.tensors),
    ]
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        raise ExportError("the ONNX graph in the bundle takes tensors from other files")


def _fill(model: Any, arrays: Arrays, manifest: Manifest) -> None:
    import onnx

    classes = len(manifest.class_names)
    for initializer in model.graph.initializer:
        array = arrays.get(initializer.name)
        if array is not None:
            rows = array[:classes] if initializer.name.startswith("head.") else array
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.asarray(rows, order="C"), initializer.name))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = classes
    model.graph.name = f"lwm_edge_{manifest.model_digest}"  # so that no engine cache serves the old model
    onnx.helper.set_model_props(model, _metadata(manifest))


def _metadata(manifest: Manifest) -> dict[str, str]:
    return {
        CLASS_NAMES_KEY: json.dumps(manifest.class_names, ensure_ascii=False),
        PREPROCESSING_KEY: manifest.preprocessing.model_dump_json(),
        DIGEST_KEY: manifest.model_digest,
        "activation": manifest.activation,
        "architecture": manifest.architecture,
        "input": "RGB uint8; resize the short side to resize_size, cut out the centre of image_size",
    }


def generated_images(image_size: int) -> Pixels:
    """Draws five pictures of colour gradients with noise, for want of photos [5, H, W, 3] uint8."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 256, (5, 2, 2, 3)).astype(np.float64)
    ramp = np.linspace(0, 1, image_size)
    across = np.stack([1 - ramp, ramp])
    gradients = np.einsum("nijc,ih,jw->nhwc", corners, across, across)
    noisy: NDArray[np.float64] = gradients + generator.normal(0, 20, gradients.shape)
    return noisy.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class ParityProbe:
    """Holds pictures and what the network makes of them.

    Attributes:
        images: Pictures [B, H, W, 3] uint8; repeated if fewer than 5.
        logits: Logits of the network [B, classes] float32.
        real_photos: Whether the pictures are photos, not generated.
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
    return ParityProbe(images, logits, real_photos=photos is not None)


def check_parity(onnx_file: bytes, probe: ParityProbe) -> ParityReport:
    """Compares the ONNX file with the network from pixels, at batch sizes 1, 2 and 5.

    Args:
        onnx_file: Content of the file.
        probe: Images, and the logits that the file must compute from them.

    Raises:
        ParityError: A logit differs by more than 1e-4 x max(1, largest |logit|), or the best class differs
            where the margin exceeds that.
    """
    classifier = Classifier(onnx_file)
    largest = max(PARITY_BATCH_SIZES)
    images = np.resize(probe.images, (largest, *probe.images.shape[1:]))
    logits = np.resize(probe.logits, (largest, *probe.logits.shape[1:]))
    differences, tolerances = [], []
    for batch_size in PARITY_BATCH_SIZES:
        expected = logits[:batch_size]
        actual, _ = classifier.run(images[:batch_size])
        tolerance = _PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        _compare(actual, expected, tolerance, batch_size)
        differences.append(float(np.abs(actual - expected).max()))
        tolerances.append(tolerance)
    return ParityReport(
        batch_sizes=PARITY_BATCH_SIZES,
        largest_difference=max(differences),
        tolerance=max(tolerances),
        real_photos=probe.real_photos,
    )


def _compare(
    actual: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float, batch_size: int
) -> None:
    if actual.shape != expected.shape:
        raise ParityError(f"the ONNX file gives {actual.shape[1]} classes, the network {expected.shape[1]}")
    difference = float(np.abs(actual - expected).max())
    ranked = np.sort(expected, axis=1)
    clear = (
        ranked[:, -1] - ranked[:, -2] > tolerance if expected.shape[1] > 1 else np.zeros(len(expected), bool)
    )
    wrong = (actual.argmax(1) != expected.argmax(1)) & clear
    if not difference <= tolerance or wrong.any():
        raise ParityError(
            f"the ONNX file differs from the network by {difference:.3g} in a logit (at batch size "
            f"{batch_size}; {tolerance:.3g} is allowed); nothing was changed"
        )
