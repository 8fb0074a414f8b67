"""Serves a home's current model over HTTP, with FastAPI: POST a photo to /classify.

    pip install '.[web]'
    LWM_EDGE_HOME=my_home uvicorn --app-dir examples 05_web_service:app
    curl --data-binary @photo.jpg http://127.0.0.1:8000/classify

It needs no torch. After the model has changed, the next request loads the new one.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

import lwm_edge

MAX_BYTES = 16 * 1024 * 1024


class CurrentModel:
    """Keeps the classifier of a home's current model.

    Args:
        home: Path of the model home.
    """

    def __init__(self, home: str) -> None:
        self._home = lwm_edge.open_home(home)
        self._lock = threading.Lock()
        self._loaded: tuple[Path, lwm_edge.Classifier] | None = None

    def classifier(self) -> lwm_edge.Classifier:
        """Returns the classifier; if the model has changed, loads the new one first."""
        generation = self._home.current()  # fast, because it only reads a link
        with self._lock:
            if self._loaded is None or self._loaded[0] != generation.path:
                self._loaded = generation.path, self._home.read(lambda g: lwm_edge.Classifier(g.onnx))
            return self._loaded[1]


model = CurrentModel(os.environ["LWM_EDGE_HOME"])
app = FastAPI(title="lwm-edge")


@app.get("/classes")
def classes() -> dict[str, object]:
    """Lists the classes that the model knows."""
    current = model.classifier()
    return {"class_names": current.class_names, "model_digest": current.model_digest}


@app.post("/classify")
async def classify(request: Request) -> dict[str, object]:
    """Classifies the photo in the request's body."""
    photo = bytearray()
    async for part in request.stream():
        photo += part
        if len(photo) > MAX_BYTES:
            raise HTTPException(413, f"a photo may be up to {MAX_BYTES} bytes long")
    return await run_in_threadpool(_classify, bytes(photo))


def _classify(photo: bytes) -> dict[str, object]:
    current = model.classifier()
    with tempfile.NamedTemporaryFile() as file:
        file.write(photo)
        file.flush()
        (prediction,) = current.classify(file.name)
    if prediction.error:
        raise HTTPException(422, f"the photo {prediction.error}")
    return {
        "class_names": prediction.class_names,
        "probabilities": prediction.probabilities,
        "unknown": prediction.unknown,
        "model_digest": current.model_digest,
    }
