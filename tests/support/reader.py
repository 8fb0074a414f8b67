"""Reads a home several times, without torch: `python -m tests.support.reader HOME READS`.

The script prints the digests of the models that it found.
"""

from __future__ import annotations

import json
import sys

from lwm_edge.home.home import Generation, open_home
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.classifier import Classifier


def model_digest(generation: Generation) -> str:
    """Checks that all files exist and belong to one model, and returns the model's digest."""
    manifest = open_bundle(generation.bundle).manifest
    classifier = Classifier(generation.onnx)
    receipt = json.loads(generation.receipt.read_bytes())
    assert classifier.model_digest == receipt["model_digest"] == manifest.model_digest
    assert classifier.class_names == tuple(receipt["class_names"]) == manifest.class_names
    assert tuple(generation.labels.read_text(encoding="utf-8").splitlines()) == manifest.class_names
    return manifest.model_digest


def main() -> None:
    home, reads = open_home(sys.argv[1]), int(sys.argv[2])
    seen: set[str] = set()
    for _ in range(reads):
        seen.add(home.read(model_digest))
        seen.add(Classifier(home.onnx).model_digest)  # by the path through the link, as an app would
    print(*seen)


if __name__ == "__main__":
    main()
