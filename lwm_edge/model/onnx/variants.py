"""Turns a classifier's ONNX file into other forms: fixed shapes, half precision, eight-bit integers.

The tools for precision are ONNX Runtime's own: https://onnxruntime.ai/docs/performance/model-optimizations/.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, load_model, load_model_from_string, numpy_helper

from ... import storage
from ...errors import ExportError, first_line, noting_errors, ran_out_of_memory
from ...photos.decoding import SILENCE
from ...photos.pixels import Pixels
from ...records import ProgressCallback, StepReporter, ignore_progress
from ..onnx_file import HEAD_INPUTS, INPUT, LOGITS, PROBABILITIES, OnnxFile, open_session
from ..tensors import BIAS, CENTRES, CENTRES_OFFSET, WEIGHT

UNUSED_BIAS = -1e4
"""Bias of a fixed head's unused outputs; it makes their probability 0 even in half precision."""


_NEVER_NEAREST = -1e30  # so that a centre that belongs to no class is never the nearest one
# Shares of the convolutions that stay in float, tried in turn; the first convolution always stays in float.
_SHARES_IN_FLOAT = (0, 1 / 8, 1 / 4, 1 / 2)
_BATCH_SIZE = 16
_TEMPORARY_COPIES = 3  # on the disk at once: the folded file, ONNX Runtime's copy for calibration, the result
_ENOUGH_AGREEMENT = 0.98  # on calibration photos; on other photos, `export` demands 97%


def with_static_batch(onnx_file: bytes, batch_size: int) -> bytes:
    """Fixes the batch size of a file, for runtimes that need or prefer fixed shapes."""
    model = load_model_from_string(onnx_file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch_size
    return _content(model)


def with_fixed_head(onnx_file: bytes, capacity: int) -> bytes:
    """Gives a file one output for each class that its bundle can hold, so that its shapes never change.

    Outputs beyond the classes have weight 0 and the bias `UNUSED_BIAS`.
    """
    model = load_model_from_string(onnx_file)
    graph = model.graph
    fillings = {WEIGHT: 0.0, BIAS: UNUSED_BIAS, CENTRES: 0.0, CENTRES_OFFSET: _NEVER_NEAREST}
    for name, filling in fillings.items():
        tensor = _initializer(graph, name)
        rows = numpy_helper.to_array(tensor)
        full = np.full((capacity, *rows.shape[1:]), filling, rows.dtype)
        full[: len(rows)] = rows
        tensor.CopyFrom(numpy_helper.from_array(full, name))
    for output in graph.output:
        if output.name in (LOGITS, PROBABILITIES):
            output.type.tensor_type.shape.dim[1].dim_value = capacity
    return _content(model)


def in_half_precision(onnx_file: bytes) -> bytes:
    """Stores and computes the backbone of a file in float16; inputs, outputs and head stay as they are."""
    model = load_model_from_string(onnx_file)
    with _quietly("float16"):
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        model = convert_float_to_float16(model, keep_io_types=True, node_block_list=_name_nodes(model))
        _remove_repeated_nodes(model.graph)
        OnnxModel(model).topological_sort()  # the converter appends its casts to the end
    return _content(model)


def _remove_repeated_nodes(graph: GraphProto) -> None:
    """Keeps one of the identical casts that the converter makes when several nodes read the same output."""
    seen: set[str] = set()
    for node in list(graph.node):
        if seen.intersection(node.output):
            graph.node.remove(node)
        seen.update(node.output)


def in_eight_bits(
    onnx_file: bytes,
    images: Pixels,
    *,
    float_weights: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> bytes:
    """Quantises the convolutions of a file to 8-bit integers; the head stays in float32.

    The quantisation is static and symmetric, per channel for weights, and written as pairs of QuantizeLinear
    and DequantizeLinear. Depthwise convolutions stay in float32, as they lose the most and gain the least.
    The first convolution stays in float32 because the head may read it, and because all later layers inherit
    its error. If fewer than 98% of the images would keep their class, more convolutions at the start stay in
    float32, up to half of all.

    Args:
        onnx_file: Content of the file in float32, with no fixed batch size.
        images: Images [M, H, W, 3] uint8 like those that the file will see, to find the range of each layer.
        float_weights: Whether the file keeps weights in float32, each followed by QuantizeLinear and
            DequantizeLinear, as TensorRT requires. The file is then no smaller, as weights are quantised when
            it is loaded.
        on_progress: Function that is called before each image in every pass over the images; any exception
            that it raises ends the call.
    """
    model = load_model_from_string(onnx_file)
    head_nodes = _name_nodes(model)
    callers_errors: list[Exception] = []
    on_progress = noting_errors(on_progress, callers_errors)
    best_classes = _best_classes(onnx_file, images, on_progress)
    with (
        storage.temporary_folder() as folder,
        _full_folder_noticed(folder, _TEMPORARY_COPIES * len(onnx_file), callers_errors),
        _quietly("int8", callers_errors),
    ):
        folded = folder / "folded.onnx"
        # Not quant_pre_process, which in onnxruntime 1.24 to 1.30 drops the graph that it has optimised.
        open_session(_content(model), save_optimized=folded)
        convolutions, depthwise = _convolutions(load_model(folded).graph)
        for share in _SHARES_IN_FLOAT:
            first = convolutions[: max(1, round(share * len(convolutions)))]
            made = _quantised(folded, images, [*head_nodes, *depthwise, *first], float_weights, on_progress)
            made.graph.name = model.graph.name
            made.ir_version = model.ir_version
            del made.opset_import[:]  # the tool lists domains that no node uses, which old runtimes refuse
            made.opset_import.extend(model.opset_import)
            del made.metadata_props[:]
            made.metadata_props.extend(model.metadata_props)
            content = _content(made)
            if (_best_classes(content, images, on_progress) == best_classes).mean() >= _ENOUGH_AGREEMENT:
                break
    return content


def _quantised(
    folded: Path, images: Pixels, in_float: list[str], float_weights: bool, on_progress: ProgressCallback
) -> ModelProto:
    """Quantises a file whose BatchNormalizations are folded, except for nodes that stay in float32."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, Pixels] | None:
            """Returns the next photo as the graph's input; None once there are no more."""
            image = next(self._images, None)
            if image is not None:
                report()
            return None if image is None else {INPUT: image[None]}

    report = StepReporter("features", len(images), on_progress)
    quantized = folded.with_name("quantized.onnx")
    quantize_static(
        folded,
        quantized,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=in_float,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "CalibMovingAverage": True,  # otherwise, one photo's outlier would widen the range for all
            "AddQDQPairToWeight": float_weights,
            "DedicatedQDQPair": float_weights,  # TensorRT does not let two nodes share a pair
        },
    )
    made = load_model(quantized)
    _restore_unquantised_inputs(made.graph)
    return made


def _restore_unquantised_inputs(graph: GraphProto) -> None:
    """Lets other nodes read a convolution's input as it was before it was quantised."""
    made_by = {node.output[0]: node for node in graph.node}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for restored in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        found = readers.get(restored.output[0], [])
        if all(reader.op_type != "Conv" for reader in found) or restored.input[0] not in made_by:
            continue
        original = made_by[restored.input[0]].input[0]
        for reader in (reader for reader in found if reader.op_type != "Conv"):
            reader.input[:] = [original if name == restored.output[0] else name for name in reader.input]


def _convolutions(graph: GraphProto) -> tuple[list[str], list[str]]:
    """Lists the names of the convolutions, and of the depthwise ones among them."""
    inputs = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 4}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    return [n.name for n in nodes], [n.name for n in nodes if inputs[n.input[1]] == 1]


def _best_classes(onnx_file: bytes, images: Pixels, on_progress: ProgressCallback) -> NDArray[np.int64]:
    loaded, best = OnnxFile(onnx_file), []
    report = StepReporter("evaluate", len(images), on_progress)
    for batch in np.array_split(images, max(1, len(images) // _BATCH_SIZE)):
        for _ in batch:
            report()
        best.append(loaded.run(batch)[0].argmax(1))
    return np.concatenate(best)


@contextmanager
def _full_folder_noticed(
    folder: Path, needed_bytes: int, callers_errors: Sequence[Exception]
) -> Iterator[None]:
    """Says so if a tool failed because a temporary folder is full, of which ONNX Runtime says nothing."""
    try:
        yield
    except (ExportError, OSError) as error:
        is_full = (
            getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < needed_bytes
        )
        if is_full and error not in callers_errors:
            raise storage.temporary_failure(folder, "the disk is full") from error
        raise


@contextmanager
def _quietly(form: str, callers_errors: Sequence[Exception] = ()) -> Iterator[None]:
    """Keeps a tool's messages off the terminal, and turns its own errors into an ExportError.

    Callers' errors, and the operating system's refusals, are passed on unchanged.
    """
    try:
        with SILENCE, _LOG_SILENCE:
            yield
    except Exception as error:
        if error in callers_errors or isinstance(error, OSError) or ran_out_of_memory(error):
            raise
        raise ExportError(
            f"ONNX Runtime cannot convert this model to {form}: {first_line(error)}; "
            "another version of onnxruntime may work"
        ) from error


class _LogSilence(logging.Handler):
    """Drops what ONNX Runtime's Python code logs while any thread converts a file, and nothing else.

    Some of that code calls `logging.warning`, which would leave a new handler in an app that has none. To
    prevent this, this object is meanwhile the handler of such an app, and prints what Python itself would.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counting = threading.Lock()
        self._inside, self._found_level = 0, logging.NOTSET

    def __enter__(self) -> None:
        with self._counting:
            self._inside += 1
            if self._inside == 1:
                self._found_level = _TOOLS_LOGGER.level
                _TOOLS_LOGGER.setLevel(logging.CRITICAL + 1)
                logging.root.addFilter(_is_not_of_tools)
                if not logging.root.handlers:
                    logging.root.addHandler(self)

    def __exit__(self, *_: object) -> None:
        with self._counting:
            self._inside -= 1
            if self._inside == 0:
                _TOOLS_LOGGER.setLevel(self._found_level)
                logging.root.removeFilter(_is_not_of_tools)
                logging.root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record as Python does for an app without handlers."""
        last_resort = logging.lastResort
        if logging.root.handlers == [self] and last_resort and record.levelno >= last_resort.level:
            last_resort.handle(record)


def _is_not_of_tools(record: logging.LogRecord) -> bool:
    import onnxruntime

    return Path(onnxruntime.__file__).parent not in Path(record.pathname).parents


_TOOLS_LOGGER = logging.getLogger("onnxruntime")
_LOG_SILENCE = _LogSilence()


def _name_nodes(model: ModelProto) -> list[str]:
    """Gives every node a name; returns the names of the head's nodes."""
    behind = {HEAD_INPUTS}
    names = []
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
        if behind.intersection(node.input):
            behind.update(node.output)
            names.append(node.name)
    return names


def _initializer(graph: GraphProto, name: str) -> Any:
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def _content(model: ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content
