"""Reads a vendor's checkpoint, in any of the usual wrappings, without ever running code from it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import inspection
from ..errors import ArchitectureError, ConfigError, first_line, is_about_access, ran_out_of_memory, shortened
from ..model.architectures.registry import architecture_names, find_architecture

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params")
_AVERAGES = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict")
_PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.", "ema_model.", "ema.")
_COUNTERS = ("n_averaged", "num_updates", "step", "decay", "initted")  # added by averaging wrappers
_OPTIONAL = ".num_batches_tracked"
_LONGEST_NAME = 80
_PROTOCOL_4_OPCODES = "140|147|149"  # SHORT_BINUNICODE, STACK_GLOBAL and FRAME
_DEEPEST = 20  # maximum depth of nested wrappings
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # old names in torchvision's files
_LISTED = 5
_ADVICE = "save a state dict with torch.save(model.state_dict(), ...)"


def read_checkpoint(path: Path, expected: Collection[str]) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint without ever running pickled code (`weights_only=True`).

    Wrappings, even nested ones (`{"model": {"state_dict": ...}}`), and prefixes of names (`module.`,
    `_orig_mod.`) are removed. If a checkpoint has a model and its moving average, and both fit equally well,
    the model is read.

    Args:
        path: Path of the checkpoint.
        expected: Names of the network's tensors.

    Raises:
        ConfigError: The file does not exist, is damaged or of another kind, cannot be read without running
            code, holds no tensors of a network, or has tensors that are not plain numbers or not finite.
    """
    content = _load(path)
    found = list(_mappings(content, set()))
    if not found:
        keys = [_shown(key) for key in content] if isinstance(content, Mapping) else []
        has = f" (it has: {', '.join(keys[:_LISTED])})" if keys else ""
        raise ConfigError(f"{path} holds no state dict of tensors where one is usually kept{has}; {_ADVICE}")
    state = max(found, key=lambda names: len(names.keys() & set(expected)))  # the first of equals
    state = {n: tensor for n, tensor in state.items() if n in expected or _last(n) not in _COUNTERS}
    if odd := [f"{_shown(n)} is {kind}" for n, t in state.items() if (kind := _oddity(t))]:
        raise ConfigError(
            f"{path} has tensors that are not plain numbers; {_ADVICE}", shortened(odd, _LISTED)
        )
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ConfigError(
            f"{path} has weights that are not finite (NaN or infinite), so its training diverged; use an "
            "earlier checkpoint",
            shortened([_shown(name) for name in broken], _LISTED),
        )
    return state


def _last(name: str) -> str:
    """Returns the last part of a tensor's name."""
    return name.rpartition(".")[2]


def _oddity(tensor: Tensor) -> str | None:
    """Says why a tensor cannot be the weights of a network; returns None if it can."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return "sparse, quantised or without values"
    if tensor.dtype not in _DTYPES:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}"
    return None


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give the path of a checkpoint (.pth)")
    try:
        file = inspection.open_regular(path)
    except OSError as error:
        why = error.strerror or first_line(error)
        raise ConfigError(f"{path} cannot be read ({why}); check the path and its permissions") from None
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those about odd pickle protocols, which are refused anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise almost anything
        if ran_out_of_memory(error) or is_about_access(error):
            raise
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ConfigError(
                f"{path} holds an object of type {_shown(found[1])}, which cannot be read without running "
                f"its code; load it where it was trained, and {_ADVICE}"
            ) from None
        if re.search(rf"Unsupported operand ({_PROTOCOL_4_OPCODES})\b", str(error)):
            raise ConfigError(
                f"{path} was saved with a newer pickle protocol than torch's default (2), so it cannot be "
                f"read without running code from it; load it where it was trained, and {_ADVICE}"
            ) from None
        raise ConfigError(  # torch's own message advises reading the file unsafely
            f"{path} cannot be read as a torch checkpoint; it is damaged or of another kind, such as "
            f"TorchScript or safetensors: {_ADVICE}"
        ) from None


def _mappings(content: Any, visited: set[int], depth: int = 0) -> Iterator[dict[str, Tensor]]:
    """Yields the mappings from names to tensors in the usual places of a checkpoint's content.

    If some names of a mapping share a prefix, a mapping of just these names without the prefix follows. If
    two mappings fit equally well, the first one is read, so moving averages (`_AVERAGES`) come last.
    """
    if not isinstance(content, Mapping) or id(content) in visited or depth > _DEEPEST:
        return
    visited.add(id(content))
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if any(_last(name) == "weight" for name in tensors):
        candidates = [tensors]
        for names in candidates:  # the list grows inside the loop, but names get shorter, so it ends
            bare = [{n.removeprefix(p): t for n, t in names.items() if n.startswith(p)} for p in _PREFIXES]
            candidates += filter(None, bare)
        yield from candidates
    for key in (*_WRAPPINGS, *_AVERAGES):
        yield from _mappings(content.get(key), visited, depth + 1)


def load_into(model: nn.Module, state: Mapping[str, Tensor], name: str, optional: Collection[str]) -> None:
    """Loads a checkpoint's tensors into a network.

    Args:
        model: Network of the architecture.
        state: Tensors by name.
        name: Name of the architecture.
        optional: Names of tensors that are not loaded; they may be missing or have another shape.

    Raises:
        ArchitectureError: Names or shapes differ from the architecture's; the message lists them, or counts
            them if there are many.
    """
    expected = model.state_dict()
    given = {n if n in expected else _OLD_DENSENET.sub(r"\1\2", n): t for n, t in state.items()}
    given = {n: t for n, t in given.items() if n not in optional}
    missing = [n for n in expected if n not in given and n not in optional and not n.endswith(_OPTIONAL)]
    wrong = [
        f"{_shown(n)} is {list(t.shape)}, not {list(expected[n].shape)}"
        for n, t in given.items()
        if n in expected and t.shape != expected[n].shape
    ]
    problems = [
        *_summary(missing, "missing"),
        *_summary([n for n in given if n not in expected], "unknown"),
        *shortened(wrong, _LISTED),
    ]
    if problems:
        raise ArchitectureError(f"the weights are not those of {name}{_likeness(given, name)}", problems)
    model.load_state_dict(given, strict=False)


def _summary(names: Sequence[str], what: str) -> list[str]:
    """Lists the names if there are few of them; otherwise counts them by module."""
    if len(names) <= _LISTED:
        return [f"{_shown(name)} is {what}" for name in names]
    modules = Counter(_shown(name.partition(".")[0]) for name in names)
    if len(modules) == 1:
        return [f"{len(names)} tensors are {what}, all under {next(iter(modules))}"]
    places = ", ".join(f"{count} under {module}" for module, count in modules.most_common(_LISTED))
    rest = ", and more elsewhere" if len(modules) > _LISTED else ""
    return [f"{len(names)} tensors are {what}: {places}{rest}"]


def _shown(name: Any) -> str:
    """Returns a name from a checkpoint in a form that can be printed."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def _likeness(state: Mapping[str, Tensor], name: str) -> str:
    """Names an architecture that has exactly these tensors apart from its head; it may be `name` itself.

    Returns:
        The end of an error message; it is empty if there is no such architecture.
    """
    shapes = _shapes(state)
    for candidate in architecture_names():
        theirs, head = _shapes_of(candidate)
        outside_head = theirs.keys() - head
        if outside_head == shapes.keys() - head and all(theirs[n] == shapes[n] for n in outside_head):
            if name == candidate:
                return ": only the head differs; it must be one linear layer"
            return f": this looks like {candidate}, so try --arch {candidate}"
    return ""


@cache
def _shapes_of(architecture_name: str) -> tuple[dict[str, torch.Size], set[str]]:
    """Returns the shapes of an architecture's tensors, and the names of those in its head."""
    try:
        architecture = find_architecture(architecture_name)
        with torch.device("meta"):
            shapes = _shapes(architecture.build().state_dict())
    except (Exception, SystemExit):  # another package's architecture fails, or does not build on "meta"
        return {}, set()
    return shapes, {f"{architecture.head}.weight", f"{architecture.head}.bias"}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {n: t.shape for n, t in state.items() if not n.endswith(_OPTIONAL)}
