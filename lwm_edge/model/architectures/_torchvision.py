"""Imports torchvision; no other module of this package does.

A torchvision built for CUDA fails on import if torch was built for the CPU: it registers shape functions for
operators whose library did not load. This combination is common on a Jetson, and package indexes offer it.
Declaring the operators' schemas first makes torchvision's models usable; the operators are never called here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a declaration lasts only as long as its Library


def _import_models() -> Any:
    with _without_compiler():
        try:
            from torchvision import models
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for schema in _SCHEMAS.values():
                library.define(schema)  # type: ignore[no-untyped-call]
            _declared.append(library)
            from torchvision import models
    return models


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keeps torchvision from loading torch's compiler (80 MiB) for an operator that is never called here.

    torchvision 0.18 also registers one function with the compiler, which changes nothing if the compiler
    never runs.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    package.allow_in_graph = lambda function: function  # type: ignore[attr-defined]
    utils.is_compile_supported = lambda device_type: False  # type: ignore[attr-defined]
    stand_ins = {"torch._dynamo": package, "torch._dynamo.utils": utils}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


models = _import_models()
from torchvision.transforms._presets import ImageClassification  # noqa: E402  # importable only now

__all__ = ["ImageClassification", "models"]
