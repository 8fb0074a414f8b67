"""Teach a deployed image classifier new classes, on the device, from photos of the new classes alone.

The method is Learning without Memorizing (Dhar et al., CVPR 2019): `losses` has its three terms,
`attention` the maps, `training` the loop. Around it:

    a network is        architectures -> surgery -> network: backbone and head, which may read levels too
    a vendor makes      base (base_training, rotations; level_choice) -> bundle (one file of constant length,
                        described by its manifest)
    a device keeps      home -> generations of bundle, ONNX file, labels and receipt; one link, one writer
    an increment is     worker -> increment: task (photo_folders, photos; plan, memory) -> training (batches,
                        optimizer, resume) -> class_statistics, drift, gate; then generation (export, commit)
    other changes are   maintenance: init_home, remove_class, export_onnx; repair
    readers need        prediction, inspection, inference: no torch
    the proof is        auditor: accounting, ledger, onnx_growth; simulation: measurement, trends
    of origin           keys -> custody -> verification, trust

Verbs are functions, settings are `...Config`, results are frozen `...Report`, and everything raised on
purpose is an `LwmEdgeError` (see `errors`). The command line calls these functions and prints.
"""

from __future__ import annotations

import os
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architectures import Architecture, architecture_names
    from .audit_reports import AuditReport, SimulationReport
    from .auditor import audit
    from .base import build_base
    from .config import BaseConfig, IncrementConfig
    from .custody import sign_bundle
    from .custody_reports import KeyReport, SigningReport, VerificationReport
    from .demo import run_demo
    from .errors import LwmEdgeError
    from .home import Home, open_home
    from .inference import Classifier
    from .inspection import info
    from .keys import generate_key
    from .maintenance import export_onnx, init_home, remove_class
    from .manifest import Preprocessing
    from .model_reports import (
        BaseReport,
        ChangeReport,
        DemoReport,
        ExportReport,
        InfoReport,
        PredictionReport,
        RepairReport,
    )
    from .prediction import evaluate, predict
    from .repair import repair_home
    from .reports import EvaluationReport, IncrementReport, PlanReport, Progress
    from .simulation import simulate
    from .verification import verify
    from .worker import add_classes, plan_increment

# ONNX Runtime's official builds for Linux report to their maker, and keep a database for that in the user's
# cache folder. They read this when they are loaded, so it stands before every import of them; our workers
# inherit it. Whoever wants the reports sets it otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = metadata.version("lwm-edge")

_HOMES = {  # loaded when first asked for: reading a model must not import torch
    "architectures": ("Architecture", "architecture_names"),
    "audit_reports": ("AuditReport", "SimulationReport"),
    "auditor": ("audit",),
    "base": ("build_base",),
    "config": ("BaseConfig", "IncrementConfig"),
    "custody": ("sign_bundle",),
    "custody_reports": ("KeyReport", "SigningReport", "VerificationReport"),
    "demo": ("run_demo",),
    "errors": ("LwmEdgeError",),
    "home": ("Home", "open_home"),
    "inference": ("Classifier",),
    "inspection": ("info",),
    "keys": ("generate_key",),
    "maintenance": ("export_onnx", "init_home", "remove_class"),
    "manifest": ("Preprocessing",),
    "model_reports": (
        "BaseReport",
        "ChangeReport",
        "DemoReport",
        "ExportReport",
        "InfoReport",
        "PredictionReport",
        "RepairReport",
    ),
    "prediction": ("evaluate", "predict"),
    "repair": ("repair_home",),
    "reports": ("EvaluationReport", "IncrementReport", "PlanReport", "Progress"),
    "simulation": ("simulate",),
    "verification": ("verify",),
    "worker": ("add_classes", "plan_increment"),
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
    "KeyReport",
    "LwmEdgeError",
    "PlanReport",
    "PredictionReport",
    "Preprocessing",
    "Progress",
    "RepairReport",
    "SigningReport",
    "SimulationReport",
    "VerificationReport",
    "__version__",
    "add_classes",
    "architecture_names",
    "audit",
    "build_base",
    "evaluate",
    "export_onnx",
    "generate_key",
    "info",
    "init_home",
    "open_home",
    "plan_increment",
    "predict",
    "remove_class",
    "repair_home",
    "run_demo",
    "sign_bundle",
    "simulate",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
