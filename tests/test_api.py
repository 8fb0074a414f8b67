"""Each public name is declared twice, for type checkers and for lazy loading; the declarations agree."""

from __future__ import annotations

import ast
import inspect
import pickle
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import lwm_edge
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ConfigError, LwmEdgeError
from lwm_edge.home.home import Home
from lwm_edge.records import Progress
from tests.support.folders import state_of

PUBLIC = [name for name in lwm_edge.__all__ if name != "__version__"]


def _parameters(name: str) -> set[str]:
    public = getattr(lwm_edge, name)
    return set(inspect.signature(public).parameters) if inspect.isfunction(public) else set()


def _declared() -> dict[str, str]:
    """Returns the names that type checkers see, and the module of each."""
    (block,) = [
        node
        for node in ast.parse(Path(lwm_edge.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.asname == alias.name for node in imports for alias in node.names)
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_and_python_see_the_same_names() -> None:
    assert _declared() == lwm_edge._MODULE_OF
    assert set(lwm_edge.__all__) == {"__version__", *_declared()}


def test_every_name_exists_and_is_documented() -> None:
    for name in PUBLIC:
        assert getattr(lwm_edge, name).__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.endswith(("Config", "Report"))])
def test_settings_and_reports_have_json_schemas(name: str) -> None:
    settings_or_report = getattr(lwm_edge, name)
    for mode in ("validation", "serialization"):
        assert settings_or_report.model_json_schema(mode=mode)["properties"]


def test_functions_that_change_a_home_document_their_errors() -> None:
    changing = [name for name in PUBLIC if "wait" in getattr(getattr(lwm_edge, name), "__annotations__", {})]
    assert {"init_home", "add_classes", "remove_class", "rename_class", "undo"} <= set(changing)
    for name in changing:
        raises = getattr(lwm_edge, name).__doc__.partition("Raises:")[2]
        needed = ("BundleError", "HomeError", "ExportError", "ParityError", "ResourceError", "BusyError")
        assert "LwmEdgeError: " in raises or all(error in raises for error in needed), name


_PHOTOS = DEMO_DATA / "train" / "2"
_CHANGES: dict[str, dict[str, Any]] = {
    "add_classes": {"photos": _PHOTOS},
    "add_classes_with_page": {"photos": _PHOTOS, "page": "increment.html"},
    "add_photos": {"photos": _PHOTOS},
    "calibrate": {"photos": DEMO_DATA / "test" / "base"},
    "init_home": {"base": BASE_BUNDLE, "replace": True},
    "plan_increment": {"photos": _PHOTOS},
    "remove_class": {"class_name": "Coat", "shipped": True},
    "rename_class": {"class_name": "Coat", "new_name": "Jacket", "shipped": True},
    "repair_home": {},
    "undo": {},
}


@pytest.mark.parametrize("name", [name for name in PUBLIC if "wait" in _parameters(name)])
def test_whoever_waits_for_another_change_may_stop_waiting(
    name: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = state_of(home.path)

    def stop(progress: Progress) -> None:
        if progress.phase == "busy":
            raise LookupError("the owner has had enough")

    with home.lock(), pytest.raises(LookupError, match="enough"):
        getattr(lwm_edge, name)(home=home.path, **_CHANGES[name], wait=True, on_progress=stop)
    assert state_of(home.path) == before


def test_the_time_of_waiting_for_another_change_does_not_count(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, waited = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + waited)
    other = ExitStack()

    def end_wait(progress: Progress) -> None:
        """Lets the other change end after what looks like a thousand seconds."""
        nonlocal waited
        if progress.phase == "busy":
            waited += 1000.0
            other.close()

    how: dict[str, Any] = {"wait": True, "on_progress": end_wait}
    other.enter_context(home.lock())
    plan = lwm_edge.plan_increment(home.path, _PHOTOS, isolate=False, **how)
    other.enter_context(home.lock())
    lwm_edge.rename_class(home.path, "Coat", "Jacket", shipped=True, **how)
    assert waited == 2000.0 and plan.predicted_seconds < 500
    assert home.open_bundle().manifest.ledger.latest[-1].seconds < 500


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    for name in PUBLIC:
        assert type(getattr(lwm_edge, name)).__name__ != "module", name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(lwm_edge, "trainer")


def test_a_public_function_explains_refusals_by_the_system_and_can_be_pickled(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(lwm_edge.info)) is lwm_edge.info
    with pytest.raises(LwmEdgeError, match="File name too long"):
        lwm_edge.info(tmp_path / ("n" * 300))


def test_an_empty_path_is_not_the_current_folder(home: Home) -> None:
    for call in (
        lambda: lwm_edge.open_home(""),
        lambda: lwm_edge.teach_inbox(home, "", delete=True),
        lambda: lwm_edge.predict(home, ""),
        lambda: lwm_edge.IncrementConfig(sign_with=""),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=r"path is empty|an empty path"):
            call()
