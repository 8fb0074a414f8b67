"""Makes the ONNX file of a bundle: puts the bundle's tensors and metadata into the bundle's graph.

The input is uint8 [batch, H, W, 3]; the outputs are float32: `logits` and `probabilities` [batch, classes],
`unknown` [batch, 1], which is larger the less a photo resembles any class, and `head_inputs` [batch, d].
Format: https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from onnx import ModelProto, TensorProto, checker, helper, load_model_from_string

from ...errors import ExportError, first_line
from ..manifest import Manifest
from ..onnx_file import (
    CLASS_NAMES_KEY,
    DIGEST_KEY,
    LOGITS,
    PREPROCESSING_KEY,
    PROBABILITIES,
    UNKNOWN,
)
from ..tensors import BACKBONE, BESIDE_THE_NETWORK, CUT_TO_CLASSES, HISTOGRAM, ONNX_GRAPH, SCORE, Arrays
from ..unknown import calibrate, to_metadata
from .checks import check_cost, check_form

_LISTED = 5
_RUNNING_MEAN = ".running_mean"


def filled_tensors(arrays: Arrays) -> set[str]:
    """Returns the names of the bundle's tensors that are filled into its graph."""
    return (arrays.keys() - BESIDE_THE_NETWORK) | set(SCORE)


def read_graph(arrays: Arrays) -> ModelProto:
    """Reads the graph of a bundle and checks its form.

    Args:
        arrays: Tensors of the bundle.

    Raises:
        ExportError: The graph is damaged, is not of the form that lwm-edge exports, or does not fit the
            tensors.
    """
    model = _parsed(arrays[ONNX_GRAPH].tobytes())
    check_form(model, filled_tensors(arrays))
    if wrong := [tensor.name for tensor in model.graph.initializer if not _fits(tensor, arrays)]:
        raise ExportError("the ONNX graph in the bundle does not fit its tensors", wrong[:_LISTED])
    return model


def _fits(tensor: TensorProto, arrays: Arrays) -> bool:
    """Tells whether a graph's tensor fits the bundle's tensor, which may have rows for more classes."""
    array = arrays.get(tensor.name)
    if array is None:
        return True
    rows = tensor.dims[0] if tensor.name in CUT_TO_CLASSES and len(tensor.dims) else None
    shape = (rows, *array.shape[1:]) if rows is not None and rows <= len(array) else array.shape
    same_type = tensor.data_type == helper.np_dtype_to_tensor_dtype(array.dtype)
    return tuple(tensor.dims) == tuple(shape) and same_type


def declared_backbone(graph: bytes) -> dict[str, tuple[str, list[int]]]:
    """Returns the data type and shape of each tensor of a graph's backbone, under its name in a bundle.

    torch's BatchNorm has one more tensor, a count of batches, which no graph reads. The result includes it.

    Args:
        graph: Graph as a bundle keeps it.

    Raises:
        ExportError: The graph is damaged.
    """
    declared = {
        tensor.name: (str(helper.tensor_dtype_to_np_dtype(tensor.data_type)), list(tensor.dims))
        for tensor in _parsed(graph).graph.initializer
        if tensor.name.startswith(BACKBONE)
    }
    layers = [name.removesuffix(_RUNNING_MEAN) for name in declared if name.endswith(_RUNNING_MEAN)]
    return declared | {f"{layer}.num_batches_tracked": ("int64", []) for layer in layers}


def check_safe_to_run(arrays: Arrays) -> None:
    """Refuses a graph that is not as lwm-edge exports it, or that costs more than its weights account for.

    An increment runs one graph with two sets of tensors. The cost of the graph is the same for both and takes
    a while to compute, so it is computed only once.

    Raises:
        ExportError: The graph is damaged, of another form or too costly, or does not fit the tensors.
    """
    read_graph(arrays)
    _check_cost_of(arrays[ONNX_GRAPH].tobytes(), frozenset(filled_tensors(arrays)))


@lru_cache(maxsize=1)
def _check_cost_of(graph: bytes, weights: frozenset[str]) -> None:
    check_cost(_parsed(graph), weights)


def _parsed(graph: bytes) -> ModelProto:
    try:
        return load_model_from_string(graph)
    except Exception as error:  # protobuf raises errors of several kinds
        raise ExportError(f"the ONNX graph in the bundle is damaged: {first_line(error)}") from None


def fill_graph(arrays: Arrays, manifest: Manifest) -> bytes:
    """Makes the ONNX file of a bundle.

    Args:
        arrays: Tensors of the bundle.
        manifest: Manifest whose class names, preprocessing and digest go into the metadata.

    Returns:
        Content of the file; the same bundle gives the same bytes.

    Raises:
        ExportError: The graph is damaged, of another form, or does not fit the tensors.
    """
    model = read_graph(arrays)
    try:
        _fill(model, arrays, manifest)
        content: bytes = model.SerializeToString(deterministic=True)
        del model  # the checker makes its own copy
        checker.check_model(content)
    except Exception as error:  # protobuf and the checker raise errors of many kinds
        raise ExportError(
            f"the ONNX graph in the bundle is damaged or does not fit its tensors: {first_line(error)}"
        ) from error
    return content


def _fill(model: ModelProto, arrays: Arrays, manifest: Manifest) -> None:
    classes, graph = len(manifest.class_names), model.graph
    for initializer in graph.initializer:
        array = arrays.get(initializer.name)
        if array is not None:
            if initializer.name in CUT_TO_CLASSES:
                array, initializer.dims[0] = array[:classes], classes
            initializer.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    for output in graph.output:
        if output.name in (LOGITS, PROBABILITIES):
            output.type.tensor_type.shape.dim[1].dim_value = classes
    graph.input[0].type.denotation = "IMAGE"  # makes the image metadata below apply to it
    graph.name = f"lwm_edge_{manifest.model_digest}"  # so that no engine cache serves the old model
    model.doc_string = manifest.description or ""
    calibration = to_metadata(calibrate(arrays[HISTOGRAM][:classes]))
    helper.set_model_props(model, {**metadata(manifest), UNKNOWN: calibration})


def metadata(manifest: Manifest) -> dict[str, str]:
    """Returns the metadata of an ONNX file, in lwm-edge's own terms and by the conventions of others.

    Conventions: https://onnx.ai/onnx/repo-docs/MetadataProps.html for images, and
    https://onnx.ai/onnx/repo-docs/IR.html for author and licence. `names` is a Python dictionary from
    class_index to name, as readers of Ultralytics' files expect.
    """
    given = {"model_author": manifest.author, "model_license": manifest.license}
    return {
        **names_metadata(manifest.class_names),
        PREPROCESSING_KEY: manifest.preprocessing.model_dump_json(),
        DIGEST_KEY: manifest.model_digest,
        "activation": manifest.activation,
        "architecture": manifest.architecture,
        "input": "RGB uint8; resize the short side to resize_size, cut out the centre of image_size",
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
        **{key: text for key, text in given.items() if text},
    }


def names_metadata(class_names: Sequence[str]) -> dict[str, str]:
    """Returns the metadata entries that grow with each class."""
    return {
        CLASS_NAMES_KEY: json.dumps(class_names, ensure_ascii=False),
        "names": repr(dict(enumerate(class_names))),
    }
