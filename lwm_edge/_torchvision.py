"""The one place that imports torchvision.

A torchvision built for CUDA beside a CPU build of torch (the usual pair on a Jetson, and what package
indexes offer) dies at import: it registers shape functions for operators whose library did not load.
Declaring the schemas first makes its models usable; the operators themselves are never called here.
"""

from __future__ import annotations

from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a Library's declarations go when it does


def _import_models() -> Any:
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


models = _import_models()
