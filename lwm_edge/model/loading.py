"""Turns the tensors of a bundle into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import inspection
from ..errors import ArchitectureError
from ..freed_memory import mapped_from
from ..records import printable
from .architectures.registry import Architecture, blamed_on, find_architecture
from .architectures.surgery import take_apart
from .bundle import Bundle, readable
from .manifest import Manifest
from .network import Network
from .tensors import BACKBONE, BESIDE_THE_NETWORK


def load_network(bundle: Bundle) -> Network:
    """Loads the classifier of a bundle file, in eval mode.

    Its tensors are mapped from the file: the kernel may drop their pages, and nothing may write to them. If
    `safetensors` reads the file instead of mapping it, the network's `mapped` is empty.

    Raises:
        ArchitectureError: The tensors do not fit the architecture, or `empty_network` refuses it.
        BundleError: The file is missing or cannot be read.
        ResourceError: The file does not fit into memory.
    """
    with readable(bundle.path):
        tensors = mapped_tensors(bundle.path)
    weights = {n: t for n, t in tensors.items() if n not in BESIDE_THE_NETWORK}
    network = load_tensors(empty_network(bundle.manifest), weights).requires_grad_(False)
    backbone = (tensor for name, tensor in weights.items() if name.startswith(BACKBONE))
    network.mapped = mapped_from(bundle.path, backbone)
    return network


def mapped_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file, mapped from the file, whatever bytes are in its name."""
    if printable(path) == str(path):
        return load_file(path)
    with inspection.open_regular(path) as file:  # safetensors only accepts names that are UTF-8
        return load_file(f"/proc/self/fd/{file.fileno()}")


def network_arrays(network: Network) -> dict[str, NDArray[Any]]:
    """Returns the network's tensors under their names in a bundle."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def empty_network(manifest: Manifest) -> Network:
    """Builds a bundle's network on the meta device, where it takes no memory; `load_tensors` fills it.

    Raises:
        ArchitectureError: The architecture is unknown or cannot be taken apart.
    """
    m, architecture = manifest, find_architecture(manifest.architecture)
    with blamed_on(m.architecture, "it cannot be built"):
        backbone, head = take_apart(_build_unallocated(architecture), architecture, m.architecture)
    network = Network(backbone, head, len(m.class_names), m.preprocessing, m.levels)
    network.head = nn.Linear(head.in_features + network.level_values, m.capacity, device="meta")
    return network.eval()


class _Uninitialised(TorchFunctionMode):
    """Skips the initialisation of parameters.

    Nothing would use the values, and drawing random ones on the meta device would load torch's compiler,
    which takes 70 MiB.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _build_unallocated(architecture: Architecture) -> nn.Module:
    try:
        with torch.device("meta"), _Uninitialised():
            return architecture.build()
    except Exception:  # the constructor reads values of tensors, as RegNet's does, or fails anyway
        return architecture.build().to("meta")


def load_tensors(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Puts tensors into an empty network: the tensors themselves, not copies.

    Raises:
        ArchitectureError: Names, shapes or dtypes do not fit (all problems are listed), or the network has
            buffers that its state dict leaves out.
    """
    expected = network.state_dict()
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        want, have = expected[name], tensors[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(f"{name} is {have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}")
    if problems:
        raise ArchitectureError("the tensors do not fit the architecture", sorted(problems))
    network.load_state_dict(tensors, assign=True)
    if any(buffer.is_meta for buffer in network.buffers()):
        raise ArchitectureError(
            "the architecture has buffers that its state dict leaves out; register them with persistent=True"
        )
    return network
