"""Reads a vendor's checkpoint, in any of the usual wrappings, without ever running code from it."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError, ConfigError, shortened
from ..model.architectures.registry import architecture_names, find_architecture
from .checkpoint_file import ADVICE, load_checkpoint_file, shown

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params")
_AVERAGES = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict")
_PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.", "ema_model.", "ema.")
_COUNTERS = ("n_averaged", "num_updates", "step", "decay", "initted")  # added by averaging wrappers
_OPTIONAL = ".num_batches_tracked"
_DEEPEST = 20  # maximum depth of nested wrappings
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # old names in torchvision's files
_LISTED = 5


def read_checkpoint(
    path: Path, expected: Collection[str], head: str = "", notes: list[str] | None = None
) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint without ever running pickled code (`weights_only=True`).

    Wrappings, even nested ones (`{"model": {"state_dict": ...}}`), and prefixes of names (`module.`,
    `_orig_mod.`) are removed. If a checkpoint has a model and its moving average, and both fit equally well,
    the model is read. If no usual place has the network, it is read from any other one, under any prefix,
    provided that there is only one.

    Args:
        path: Path of the checkpoint.
        expected: Names of the network's tensors.
        head: Name of the network's last layer; a layer that a training script put in its place is renamed.
        notes: List that gets a line if the checkpoint has other weights that fit the network too.

    Raises:
        ConfigError: The file does not exist, is damaged or of another kind, cannot be read without running
            code, holds no tensors of a network or several networks, or has tensors that are not plain numbers
            or not finite.
    """
    names = set(expected)
    state, others = _find_network(path, load_checkpoint_file(path), names, head)
    if others and notes is not None:
        notes.append(
            f"{path} has more than one set of weights that fits, such as a model and its moving average; "
            "the first one, which is the model, was read. To ship the other one, save it alone"
        )
    state = _with_head_in_place(state, names, head)
    state = {n: tensor for n, tensor in state.items() if n in expected or _last(n) not in _COUNTERS}
    if odd := [f"{shown(n)} is {kind}" for n, t in state.items() if (kind := _oddity(t))]:
        raise ConfigError(f"{path} has tensors that are not plain numbers; {ADVICE}", shortened(odd, _LISTED))
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ConfigError(
            f"{path} has weights that are not finite (NaN or infinite), so its training diverged; use an "
            "earlier checkpoint",
            shortened([shown(name) for name in broken], _LISTED),
        )
    return state


def _find_network(path: Path, content: Any, expected: set[str], head: str) -> tuple[dict[str, Tensor], bool]:
    """Finds the network's tensors in the content of a checkpoint; says whether others fit equally well."""
    usual = list(_mappings(content, set()))
    best = max(usual, key=lambda names: len(names.keys() & expected), default={})  # the first of equals
    if not _fits(best, expected):
        elsewhere = list(_elsewhere(content, expected, head))
        if any(_differ(elsewhere[0][1], names, expected) for _, names in elsewhere[1:]):
            raise ConfigError(
                f"{path} has several networks that fit, and nothing says which one to ship; {ADVICE}",
                shortened(
                    [f"one is in {shown(place) or 'the outermost place'}" for place, _ in elsewhere], _LISTED
                ),
            )
        if elsewhere:
            return elsewhere[0][1], False
    if not usual:
        keys = [shown(key) for key in content] if isinstance(content, Mapping) else []
        has = f" (it has: {', '.join(keys[:_LISTED])})" if keys else ""
        raise ConfigError(f"{path} holds no state dict of tensors that fits the network{has}; {ADVICE}")
    return best, any(_differ(best, names, expected) for names in usual)


def _fits(state: Mapping[str, Tensor], expected: set[str], prefix: str = "") -> bool:
    """Tells whether a mapping has more than half of the network's tensors, judging by their names."""
    return 2 * sum(f"{prefix}{name}" in state for name in expected) > len(expected)


def _differ(state: Mapping[str, Tensor], other: Mapping[str, Tensor], expected: set[str]) -> bool:
    """Tells whether another mapping has all the tensors of the network too, but with other values."""
    names = state.keys() & expected
    if other is state or not _fits(state, expected) or not names <= other.keys():
        return False
    return not all(_equal(state[name], other[name]) for name in names)


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Tells whether two tensors have the same values; those that cannot be weights have none."""
    if tensor is other:
        return True
    is_comparable = tensor.dtype == other.dtype and not _oddity(tensor) and not _oddity(other)
    return is_comparable and torch.equal(tensor, other)


def _elsewhere(content: Any, expected: set[str], head: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields the networks in all places of a checkpoint's content, by the place, with any prefix removed."""
    top = f"{head.partition('.')[0]}."  # what a training script may have replaced
    anchors = [n for n in expected if _last(n) == "weight" and not n.startswith(top)]
    if not (anchor := max(anchors, key=lambda name: (len(name), name), default="")):
        return
    for place, tensors in _all_mappings(content):
        prefixes = [n.removesuffix(anchor) for n in tensors if f".{n}".endswith(f".{anchor}")]
        for prefix in prefixes:
            if _fits(tensors, expected, prefix):
                bare = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
                yield f"{place}{prefix}".removesuffix("."), bare


def _all_mappings(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields all mappings from names to tensors in a checkpoint's content, by the place where they are."""
    waiting, visited = deque([("", content, 0)]), set[int]()
    while waiting:
        place, value, depth = waiting.popleft()
        if id(value) in visited or depth > _DEEPEST:
            continue
        visited.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        if isinstance(value, Mapping):
            yield place, {str(name): t for name, t in value.items() if isinstance(t, Tensor)}
        waiting += [
            (f"{place}{key}.", item, depth + 1)
            for key, item in items
            if isinstance(item, Mapping | list | tuple)
        ]


def _with_head_in_place(state: dict[str, Tensor], expected: set[str], head: str) -> dict[str, Tensor]:
    """Renames a linear layer that a training script put in the head's place, perhaps after a dropout.

    The usual ways are `model.fc = nn.Sequential(nn.Dropout(), nn.Linear(...))`, which makes it `fc.1`, and
    `model.classifier = nn.Linear(...)`, if the head is called `classifier.1`.
    """
    places = {n.rpartition(".")[0] for n in state if n not in expected and _last(n) not in _COUNTERS}
    if not head or f"{head}.weight" in state or len(places) != 1:
        return state
    (place,) = places
    weight = state.get(f"{place}.weight")
    unknown = {n for n in state if n.rpartition(".")[0] == place} - expected
    if (
        f"{place}.".startswith(f"{head.partition('.')[0]}.")
        and (weight is not None and weight.dim() == 2)
        and unknown <= {f"{place}.weight", f"{place}.bias"}
    ):
        return {f"{head}.{_last(n)}" if n in unknown else n: tensor for n, tensor in state.items()}
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
        f"{shown(n)} is {list(t.shape)}, not {list(expected[n].shape)}"
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
        return [f"{shown(name)} is {what}" for name in names]
    modules = Counter(shown(name.partition(".")[0]) for name in names)
    if len(modules) == 1:
        return [f"{len(names)} tensors are {what}, all under {next(iter(modules))}"]
    places = ", ".join(f"{count} under {module}" for module, count in modules.most_common(_LISTED))
    rest = ", and more elsewhere" if len(modules) > _LISTED else ""
    return [f"{len(names)} tensors are {what}: {places}{rest}"]


def _likeness(state: Mapping[str, Tensor], name: str) -> str:
    """Names an architecture that has exactly these tensors apart from its head; it may be `name` itself.

    Returns:
        The end of an error message, which says what to do.
    """
    given = _shapes(state)
    bare = _without_common_prefix(given)
    for candidate in architecture_names():
        theirs, head = _shapes_of(candidate)
        top = f"{min(head, default='').partition('.')[0]}."
        outside_head = {n: shape for n, shape in theirs.items() if n not in head}
        for shapes in (given, bare):
            ours = {
                n: s for n, s in shapes.items() if n not in head and (n in theirs or not n.startswith(top))
            }
            if outside_head == ours:
                if name == candidate:
                    return ": only the head differs; it must be one linear layer"
                return f": this looks like {candidate}, so try --arch {candidate}"
    return ", nor of any other known architecture; give the classifier's own as --arch, or register it"


def _without_common_prefix(shapes: dict[str, torch.Size]) -> dict[str, torch.Size]:
    """Removes the first parts of names that are the same in all names."""
    while len(first := {n.partition(".")[::2] for n in shapes}) > 1 and len({part for part, _ in first}) == 1:
        if not all(rest for _, rest in first):
            break
        shapes = {n.partition(".")[2]: shape for n, shape in shapes.items()}
    return shapes


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
