"""Traces a network's graph with torch's exporter, which only vendors run, and only once for each base.

The bundle keeps the graph without weights. On the device, `graph.fill_graph` puts the bundle's tensors into
the graph.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout

import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from ...errors import ExportError, first_line
from ..levels import Activations
from ..network import Network
from ..onnx_file import HEAD_INPUTS, INPUT, LOGITS, PROBABILITIES, UNKNOWN
from ..tensors import AXES_COUNT, SCORE
from ..terms import Activation
from .lowering import lower

_TRACED_OPSET = 18  # the lowest that torch's exporter writes


class _Exported(nn.Module):
    """Computes the outputs of the ONNX file, from the network with its head cut to the classes in use."""

    def __init__(self, network: Network, activation: Activation) -> None:
        super().__init__()
        weight, bias = network.head_tensors()
        self.backbone = network.backbone
        self.head = nn.Linear(weight.shape[1], len(weight))
        self.head.load_state_dict({"weight": weight, "bias": bias})
        self.unknown = _UnknownScore(weight.shape[1], AXES_COUNT, len(weight))
        self._run = network.run_normalised
        self._normalise = network.normalise
        self._probabilities = torch.sigmoid if activation == "sigmoid" else _softmax

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Computes the outputs of the ONNX file, in their order, for images [B, H, W, 3] uint8."""
        # With a channels-last layout, the trace would contain gathers where a mean is enough.
        images = self._normalise(image).contiguous()
        head_inputs = self._run(Activations(images)).pooled()
        logits = self.head(head_inputs)
        return logits, self._probabilities(logits), self.unknown(head_inputs), head_inputs


class _UnknownScore(nn.Module):
    """Computes what `unknown.known_scores` does, with the sign changed; the weights come from the bundle."""

    def __init__(self, d: int, axes: int, classes: int) -> None:
        super().__init__()
        self.axes = nn.Linear(d, axes)
        self.damping = nn.Linear(axes, 1, bias=False)
        self.centres = nn.Linear(axes, classes)

    def forward(self, head_inputs: Tensor) -> Tensor:
        """Computes the score for unknown objects [B, 1] from the head's inputs [B, d]."""
        values = self.axes(head_inputs)
        score: Tensor = self.damping(values * values) - self.centres(values).amax(1, keepdim=True)
        return score


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def trace_graph(network: Network, activation: Activation) -> bytes:
    """Exports the network's graph without its weights, in the form that `checks` demands.

    This needs torch's exporter (the `vendor` extra).

    Raises:
        ExportError: The exporter is missing or cannot export this network.
    """
    size = network.preprocessing.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # a batch of 1 would be exported as fixed
    try:
        with (
            torch.no_grad(),  # with gradients, the network would test whether blocks write to their input
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")  # the exporter's own deprecation warnings
            program = torch.onnx.export(
                _Exported(network, activation).eval(),
                (example,),
                dynamo=True,
                optimize=False,  # optimising would merge weights, and lose their names
                opset_version=_TRACED_OPSET,
                input_names=[INPUT],
                output_names=[LOGITS, PROBABILITIES, UNKNOWN, HEAD_INPUTS],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            assert program is not None
            weights = {*network.state_dict(), *SCORE}
            model = lower(_with_constants_folded(program.model_proto, weights))
    except ImportError as error:
        raise ExportError(
            f"the ONNX exporter needs {error.name}; install it with: pip install 'lwm-edge[vendor]'"
        ) from None
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"torch cannot export this network to ONNX: {first_line(_first_cause(error))}; "
            "if onnxscript is old, update it: pip install --upgrade onnxscript"
        ) from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _first_cause(error: BaseException) -> Exception:
    """Returns the error that led to all others; torch's own message is about the steps of its exporter."""
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, Exception)
    return error


def _with_constants_folded(model: ModelProto, weights: set[str]) -> ModelProto:
    """Folds everything that depends on neither images nor weights; leaves weights as empty initialisers."""
    from onnxscript.optimizer import optimize

    graph = model.graph
    kept = [tensor for tensor in graph.initializer if tensor.name in weights]
    constants = [tensor for tensor in graph.initializer if tensor.name not in weights]
    graph.ClearField("initializer")
    graph.initializer.extend(constants)
    for tensor in kept:  # as inputs, they have no values that could be folded
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = optimize(model)
    del model.graph.input[1:]
    for tensor in kept:
        empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        model.graph.initializer.append(empty)
    return model
