"""Teach a deployed image classifier new classes, on the device, from photos of the new classes alone.

The method is Learning without Memorizing (Dhar et al., CVPR 2019). Its three losses are in `learning.losses`,
its attention maps in `learning.attention`, and its training loop in `learning.training`. The other parts are
listed below by purpose: the name of a package, and then its most important modules, roughly in the order in
which they work.

    reading photos      photos: folders, listing, checking, reading, photo_set; in_memory; class_names
    forms of a model    model: bundle (one file of constant length, described by its manifest), network
                        (backbone and head; the head may read earlier blocks too, called levels), onnx
                        (the file that apps load: tracing, checks, graph, parity, variants), classifier
    making a base       base: start, train and build (a new classifier) or adopt (a trained one; checkpoint,
                        labels); choose_levels, observing, examine, measure and finish (for both);
                        saved_training; ranks (several processes)
    keeping a model     home: home, generation (bundle, ONNX file, labels and receipt; a link leads to the
                        current generation, and there is one writer at a time); ownership (what may be
                        removed); changes, previous (undo), repair, export; readers (without torch);
                        camera; interrupted (an increment that can be resumed)
    adding classes      increment: add, worker, learn (task, plan, verdict, gate), commit; plan (job,
                        prediction); renaming (of a class, or merging it into another); removal (of a
                        class); calibrate; doctor (finds photos that do harm) and findings;
                        inbox, inbox_watcher, inbox_teaching, inbox_wording, inbox_record, inbox_folder,
                        inbox_moves and inbox_signature (photos that arrive in a folder)
    proving origin      custody: keys, signing, chain; also home.trust and proofs.verification
    other proofs        proofs: auditor (audited_bytes, onnx_growth), simulation (trends, plots)
    pages to look at    pages: facts, charts and report (about a home); moment (about an increment, with
                        photos); doctor (about photos that do harm)
    the command line    cli: commands, teaching, receipt, display, progress, terminal, settings

A package imports only from those before it: the foundation (records, errors, wording, characters, advice,
extras, inspection, durability, storage, outputs, locks, memory, freed_memory, processors, _cgroups, _disk,
_streams, _processes), photos, model, then custody and learning, home and base, increment, proofs, pages, cli.

Most functions are named with a verb, settings end in `Config`, and frozen reports end in `Report`. Errors
that callers should handle are `LwmEdgeError`s (see `errors`). The command line calls the functions
that this package exports, and prints what they return.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the public names, for type checkers and readers
    from .base.adopt import pack_checkpoint as pack_checkpoint
    from .base.build import build_base as build_base
    from .base.config import BaseConfig as BaseConfig
    from .base.config import PackConfig as PackConfig
    from .base.reports import BaseReport as BaseReport
    from .custody.keys import KeyReport as KeyReport
    from .custody.keys import generate_key as generate_key
    from .custody.signing import SigningReport as SigningReport
    from .custody.signing import sign_bundle as sign_bundle
    from .demo import DemoReport as DemoReport
    from .demo import run_demo as run_demo
    from .errors import LwmEdgeError as LwmEdgeError
    from .home.camera import watch as watch
    from .home.changes import init_home as init_home
    from .home.config import ExportConfig as ExportConfig
    from .home.export import export_onnx as export_onnx
    from .home.home import Home as Home
    from .home.home import open_home as open_home
    from .home.previous import undo as undo
    from .home.readers import (
        InfoReport as InfoReport,
    )
    from .home.readers import (
        PredictionReport as PredictionReport,
    )
    from .home.readers import (
        evaluate as evaluate,
    )
    from .home.readers import (
        info as info,
    )
    from .home.readers import (
        predict as predict,
    )
    from .home.repair import repair_home as repair_home
    from .home.reports import (
        ChangeReport as ChangeReport,
    )
    from .home.reports import (
        ExportReport as ExportReport,
    )
    from .home.reports import (
        RepairReport as RepairReport,
    )
    from .increment.add import add_classes as add_classes
    from .increment.add import add_photos as add_photos
    from .increment.add import plan_increment as plan_increment
    from .increment.calibrate import calibrate as calibrate
    from .increment.doctor import check_photos as check_photos
    from .increment.findings import CheckReport as CheckReport
    from .increment.inbox import teach_inbox as teach_inbox
    from .increment.inbox import watch_inbox as watch_inbox
    from .increment.inbox_reports import InboxReport as InboxReport
    from .increment.removal import remove_class as remove_class
    from .increment.renaming import rename_class as rename_class
    from .increment.reports import CalibrationReport as CalibrationReport
    from .increment.reports import IncrementReport as IncrementReport
    from .increment.reports import PlanReport as PlanReport
    from .learning.config import IncrementConfig as IncrementConfig
    from .model.architectures.registry import (
        Architecture as Architecture,
    )
    from .model.architectures.registry import (
        architecture_names as architecture_names,
    )
    from .model.classifier import Classifier as Classifier
    from .model.evaluation import EvaluationReport as EvaluationReport
    from .pages.doctor import write_check_page as write_check_page
    from .pages.moment import add_classes_with_page as add_classes_with_page
    from .pages.report import PageReport as PageReport
    from .pages.report import write_report as write_report
    from .photos.in_memory import prepare_photo as prepare_photo
    from .photos.preprocessing import Preprocessing as Preprocessing
    from .proofs.auditor import audit as audit
    from .proofs.reports import AuditReport as AuditReport
    from .proofs.reports import SimulationReport as SimulationReport
    from .proofs.simulation import simulate as simulate
    from .proofs.verification import VerificationReport as VerificationReport
    from .proofs.verification import verify as verify
    from .records import Progress as Progress

    __version__: str

# ONNX Runtime's official builds for Linux send usage reports to their publisher, and keep a database of them
# in the user's cache folder. They read this variable when they are loaded, so it is set before this package
# imports them; our workers inherit it. Anybody who wants to send these reports can set it to another value.
if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_DEFINED_IN = {  # imported only when first used, so that reading a model does not import torch
    "base.adopt": ("pack_checkpoint",),
    "base.build": ("build_base",),
    "base.config": ("BaseConfig", "PackConfig"),
    "base.reports": ("BaseReport",),
    "custody.keys": ("KeyReport", "generate_key"),
    "custody.signing": ("SigningReport", "sign_bundle"),
    "demo": ("DemoReport", "run_demo"),
    "errors": ("LwmEdgeError",),
    "home.camera": ("watch",),
    "home.changes": ("init_home",),
    "home.config": ("ExportConfig",),
    "home.export": ("export_onnx",),
    "home.home": ("Home", "open_home"),
    "home.previous": ("undo",),
    "home.readers": ("InfoReport", "PredictionReport", "evaluate", "info", "predict"),
    "home.repair": ("repair_home",),
    "home.reports": ("ChangeReport", "ExportReport", "RepairReport"),
    "increment.add": ("add_classes", "add_photos", "plan_increment"),
    "increment.calibrate": ("calibrate",),
    "increment.doctor": ("check_photos",),
    "increment.findings": ("CheckReport",),
    "increment.inbox": ("teach_inbox", "watch_inbox"),
    "increment.inbox_reports": ("InboxReport",),
    "increment.removal": ("remove_class",),
    "increment.renaming": ("rename_class",),
    "increment.reports": ("CalibrationReport", "IncrementReport", "PlanReport"),
    "learning.config": ("IncrementConfig",),
    "model.architectures.registry": ("Architecture", "architecture_names"),
    "model.classifier": ("Classifier",),
    "model.evaluation": ("EvaluationReport",),
    "pages.doctor": ("write_check_page",),
    "pages.moment": ("add_classes_with_page",),
    "pages.report": ("PageReport", "write_report"),
    "photos.in_memory": ("prepare_photo",),
    "photos.preprocessing": ("Preprocessing",),
    "proofs.auditor": ("audit",),
    "proofs.reports": ("AuditReport", "SimulationReport"),
    "proofs.simulation": ("simulate",),
    "proofs.verification": ("VerificationReport", "verify"),
    "records": ("Progress",),
}
_NEED_TORCH = ("base.adopt", "base.build", "demo", "model.architectures.registry")
_MODULE_OF = {name: module for module, names in _DEFINED_IN.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # not at the top, as it is slow to load

        return metadata.version("lwm-edge")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULE_OF[name] in _NEED_TORCH:
        from .model.torch_needed import require_torch

        require_torch(f"{name} needs")
    found = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    return _public(found) if isinstance(found, FunctionType) else found


@cache
def _public(function: FunctionType) -> Callable[..., Any]:
    """Wraps a function in `explains_os_failures`; cached, so that pickle finds the same object by name."""
    from .errors import explains_os_failures  # not at the top, so that the command line starts sooner

    public = explains_os_failures(function)
    public.__module__ = __name__
    return public
