"""Runs a home's current model in an app that has onnxruntime, Pillow and NumPy, but not lwm-edge.

    python examples/07_onnxruntime_alone.py HOME PHOTO...

It takes the preprocessing from deploy/classify.py, which you may copy into your app.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

from classify import onnxruntime, preprocess  # type: ignore[import-not-found]
from PIL import Image


class CurrentModel:
    """Runs a home's current model; call `reload` now and then, such as before each photo.

    Args:
        home: Path of the model home.
    """

    def __init__(self, home: str) -> None:
        self._link = Path(home) / "current"
        self._loaded: Path | None = None
        self.reload()

    def reload(self) -> bool:
        """Loads the model if the link `current` points to a new folder, and returns whether it did."""
        while (target := self._link.readlink()) != self._loaded:
            try:
                session = onnxruntime.InferenceSession(
                    str(self._link.parent / target / "classifier.onnx"), providers=["CPUExecutionProvider"]
                )
            except Exception:
                if self._link.readlink() == target:
                    raise
                continue  # the model was replaced just now
            metadata: dict[str, Any] = session.get_modelmeta().custom_metadata_map
            self._session, self._loaded = session, target
            self.class_names: list[str] = json.loads(metadata["class_names"])
            self._preprocessing = json.loads(metadata["preprocessing"])
            return True
        return False

    def classify(self, photo: str) -> tuple[str, float]:
        """Returns the best class of a photo and its probability."""
        with Image.open(photo) as opened:
            image = preprocess(opened, self._preprocessing["image_size"], self._preprocessing["resize_size"])
        (probabilities,) = self._session.run(["probabilities"], {"image": image[None]})
        best = int(probabilities[0].argmax())
        return self.class_names[best], float(probabilities[0, best])


def main(home: str, photos: list[str]) -> None:
    """Classifies photos, each with the newest model."""
    model = CurrentModel(home)
    for photo in photos:
        model.reload()
        name, probability = model.classify(photo)
        print(f"{photo}: {name} {probability:.1%}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
