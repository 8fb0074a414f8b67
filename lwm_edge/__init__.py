"""Teach a deployed image classifier new classes, on the device, from photos of the new classes alone.

The method is Learning without Memorizing (Dhar et al., CVPR 2019): `losses` has its three terms,
`attention` the maps, `training` the loop. Around it:

    a vendor makes      base -> bundle (one file of constant length, described by its manifest)
    a device keeps      home -> generations of bundle, ONNX file, labels and receipt; one link, one writer
    an increment is     worker -> increment: photo_folders, photos -> training -> class_statistics, drift
                        -> generation (export, commit)
    other changes are   maintenance: init_home, remove_class, export_onnx
    readers need        prediction, inspection, inference: no torch
    the proof is        auditor: accounting, ledger, onnx_growth; simulation: measurement, trends

Verbs are functions, settings are `...Config`, results are frozen `...Report`, and everything raised on
purpose is an `LwmEdgeError` (see `errors`). The command line calls these functions and prints.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architectures import Architecture, architecture_names
    from .auditor import audit
    from .base import build_base
    from .config import BaseConfig, IncrementConfig
    from .demo import run_demo
    from .errors import LwmEdgeError
    from .home import Home, open_home
    from .inference import Classifier
    from .inspection import info
    from .maintenance import export_onnx, init_home, remove_class
    from .manifest import Preprocessing
    from .prediction import evaluate, predict
    from .reports import (
        AuditReport,
        BaseReport,
        ChangeReport,
        DemoReport,
        EvaluationReport,
        ExportReport,
        IncrementReport,
        InfoReport,
        PredictionReport,
        Progress,
        SimulationReport,
    )
    from .simulation import simulate
    from .worker import add_classes

__version__ = metadata.version("lwm-edge")

_HOMES = {  # loaded when first asked for: reading a model must not import torch
    "architectures": ("Architecture", "architecture_names"),
    "auditor": ("audit",),
    "base": ("build_base",),
    "config": ("BaseConfig", "IncrementConfig"),
    "demo": ("run_demo",),
    "errors": ("LwmEdgeError",),
    "home": ("Home", "open_home"),
    "inference": ("Classifier",),
    "inspection": ("info",),
    "maintenance": ("export_onnx", "init_home", "remove_class"),
    "manifest": ("Preprocessing",),
    "prediction": ("evaluate", "predict"),
    "reports": (
        "AuditReport",
        "BaseReport",
        "ChangeReport",
        "DemoReport",
        "EvaluationReport",
        "ExportReport",
        "IncrementReport",
        "InfoReport",
        "PredictionReport",
        "Progress",
        "SimulationReport",
    ),
    "simulation": ("simulate",),
    "worker": ("add_classes",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Architecture",
    "AuditReport",
    "BaseConfig",
    "BaseReport",
    "ChangeReport",
    "Classifier",
    "DemoReport",
    "EvaluationReport",
    "ExportReport",
    "Home",
    "IncrementConfig",
    "IncrementReport",
    "InfoReport",
    "LwmEdgeError",
    "PredictionReport",
    "Preprocessing",
    "Progress",
    "SimulationReport",
    "__version__",
    "add_classes",
    "architecture_names",
    "audit",
    "build_base",
    "evaluate",
    "export_onnx",
    "info",
    "init_home",
    "open_home",
    "predict",
    "remove_class",
    "run_demo",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
