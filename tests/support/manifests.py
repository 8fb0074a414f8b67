"""Makes manifests and class names for tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lwm_edge.model.manifest import Manifest
from lwm_edge.photos.class_names import class_name_problem, fold_class_name, normalise_class_name
from lwm_edge.photos.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(
    image_size=64, resize_size=72, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

names = st.text(min_size=1, max_size=20).map(normalise_class_name).filter(lambda n: not class_name_problem(n))
class_names = st.lists(names, min_size=1, max_size=12, unique_by=fold_class_name).map(tuple)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "architecture": "resnet18",
        "preprocessing": PREPROCESSING,
        "activation": "sigmoid",
        "class_names": ("Coat", "Dress"),
        "shipped_classes": 2,
        "capacity": 8,
        "bundle_bytes": 123_456,
        "recipe": "base",
        "tensors_digest": "0" * 64,
    }
    return Manifest(**(fields | changes))
