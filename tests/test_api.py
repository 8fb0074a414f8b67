from __future__ import annotations

import lwm_edge

PRODUCT = [
    "Architecture", "AuditReport", "BaseConfig", "BaseReport", "ChangeReport", "Classifier",
    "DemoReport", "EvaluationReport", "ExportReport", "Home", "IncrementConfig", "IncrementReport",
    "InfoReport", "KeyReport", "LwmEdgeError", "PlanReport", "PredictionReport", "Preprocessing",
    "Progress", "RepairReport", "SigningReport", "SimulationReport", "VerificationReport",
    "__version__", "add_classes", "architecture_names", "audit", "build_base", "evaluate",
    "export_onnx", "generate_key", "info", "init_home", "open_home", "plan_increment", "predict",
    "remove_class", "repair_home", "run_demo", "sign_bundle", "simulate", "verify",
]  # fmt: skip


def test_all_is_the_product() -> None:
    assert lwm_edge.__all__ == PRODUCT


def test_every_name_is_there_and_documented() -> None:
    for name in PRODUCT:
        member = getattr(lwm_edge, name)
        assert name == "__version__" or member.__doc__, f"{name} has no docstring"


def test_functions_are_not_hidden_by_modules_of_their_name() -> None:
    for name in PRODUCT:
        assert type(getattr(lwm_edge, name)).__name__ != "module", name


def test_an_unknown_name() -> None:
    assert not hasattr(lwm_edge, "trainer")
