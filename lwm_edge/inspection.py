"""`info`: what a home or bundle holds; no torch."""

from __future__ import annotations

from pathlib import Path

from .bundle import open_bundle
from .home import AnyPath, Home, open_home
from .model_reports import InfoReport


def info(source: Home | AnyPath) -> InfoReport:
    """Describes a model home's current model, or a bundle file.

    Args:
        source: The home, or the bundle's path.

    Raises:
        HomeError: There is no home.
        BundleError: The bundle is damaged.
    """
    home = open_home(source) if isinstance(source, Home) or Path(source).is_dir() else None
    bundle = home.read(lambda g: open_bundle(g.bundle)) if home else open_bundle(Path(str(source)))
    m = bundle.manifest
    return InfoReport(
        home=home.path if home else None,
        bundle=bundle.path,
        onnx=home.onnx if home else None,
        architecture=m.architecture,
        activation=m.activation,
        preprocessing=m.preprocessing,
        levels=m.levels,
        class_names=m.class_names,
        shipped_classes=m.shipped_classes,
        capacity=m.capacity,
        bundle_bytes=m.bundle_bytes,
        increment_count=m.increment_count,
        recipe=m.recipe,
        model_digest=m.model_digest,
        parent_digest=m.parent_digest,
        ledger=m.ledger,
    )
