"""In simulated increments, an honest recipe leaves nothing behind, and leaks are named or refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm_edge import IncrementConfig, remove_class, rename_class, simulate
from lwm_edge.errors import BundleError, ConfigError
from lwm_edge.home import generation
from lwm_edge.home.home import Home
from lwm_edge.home.reports import MemoryReport
from lwm_edge.increment import instant
from lwm_edge.memory import reset_peak_rss
from lwm_edge.model.backbone import Backbone
from lwm_edge.model.bundle import Bundle, save_bundle
from lwm_edge.photos.photo_set import PhotoSet
from lwm_edge.proofs import plots, simulation
from lwm_edge.proofs.reports import SimulationReport
from lwm_edge.proofs.simulation import teach_here
from lwm_edge.records import Progress
from tests.support.folders import state_of

MIB = 2**20
KEPT: list[Any] = []
Leak = Callable[[Home], None]


@pytest.fixture(autouse=True)
def _kept(_count_only_where_counts_matter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes KEPT a new list after older objects are excluded from the search, so that KEPT is searched."""
    monkeypatch.setattr(sys.modules[__name__], "KEPT", [])


def simulate_leaky(home: Home, monkeypatch: pytest.MonkeyPatch, leak: Leak | None = None) -> SimulationReport:
    """Simulates three increments in this process, where a test can plant a leak."""

    def teach(scratch: Home, photos: Path, config: IncrementConfig) -> MemoryReport:
        memory = teach_here(scratch, photos, config)
        if leak:
            leak(scratch)
        return memory

    monkeypatch.setattr(simulation, "run_in_worker", lambda job: simulation.run_here(job, teach))
    return simulate(home, 3, config=IncrementConfig(recipe="lda"))


def kept(what: Any) -> Any:
    KEPT.append(what)
    return what


def found(report: SimulationReport, *words: str) -> bool:
    assert report.passed == (not report.problems)
    return any(all(word in problem for word in words) for problem in report.problems)


def test_a_commit_while_the_model_is_read_is_not_an_error(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Bundle.arrays
    removed: list[str] = []

    def after_a_commit(bundle: Bundle, *names: str) -> Any:
        if not removed:
            removed.append("Coat")
            remove_class(home, "Coat", shipped=True)
        return read(bundle, *names)

    taught: list[int] = []

    def steps(job: simulation.Job) -> list[Any]:
        taught.append(len(Home(job.home).open_bundle().manifest.class_names))
        raise BundleError("that was enough")

    monkeypatch.setattr(Bundle, "arrays", after_a_commit)
    monkeypatch.setattr(simulation, "run_in_worker", steps)
    with pytest.raises(BundleError, match="that was enough"):
        simulate(home, 3)
    assert taught == [5]


@pytest.mark.slow
def test_a_home_that_was_changed_is_simulated_too(
    permitting_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that is simulated starts without the home's record of custody and renamed classes."""
    rename_class(permitting_home, "Coat", "Mantel")
    report = simulate_leaky(permitting_home, monkeypatch)
    assert report.problems == ()
    assert {step.file_bytes["previous.lwm"] for step in report.steps} == {
        report.steps[0].file_bytes["model.lwm"]
    }


@pytest.mark.slow
def test_an_honest_recipe_leaves_storage_and_memory_constant(home: Home, tmp_path: Path) -> None:
    before, progress, picture = state_of(home.path), list[Progress](), tmp_path / "plot.png"
    report = simulate(home, 3, classes=10, plot=picture, on_progress=progress.append)
    assert report.problems == () and report.passed
    assert [step.classes for step in report.steps] == [16, 26, 36] and report.capacity == 36
    assert [(p.phase, p.done, p.total) for p in progress] == [("simulate", n, 3) for n in range(4)]
    for step in report.steps:
        assert step.memory.teacher_networks <= 1 and step.memory.images_alive == 0
        assert step.file_bytes["model.lwm"] == report.steps[0].file_bytes["model.lwm"]
        assert step.file_bytes["classifier.onnx"] == step.onnx_bytes_expected
    assert report.how["peak_rss_bytes"] and not report.steps[0].memory.how
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert state_of(home.path) == before


def test_photos_and_teachers_kept_in_memory_are_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    if not reset_peak_rss():
        pytest.skip("this kernel has no /proc/self/clear_refs")
    load = PhotoSet.load
    monkeypatch.setattr(PhotoSet, "load", lambda self, *a, **k: kept(load(self, *a, **k)))
    monkeypatch.setattr(instant, "Backbone", lambda bundle: kept(Backbone(bundle)))
    report = simulate_leaky(home, monkeypatch, lambda _: KEPT.append(np.ones(40 * MIB, np.uint8)))
    assert found(report, "after increment 1", "photos in memory")
    assert found(report, "after increment", "teacher networks in memory, not 1")
    assert found(report, "peak memory (peak_rss_bytes) grew by")
    assert not found(report, "file ")


def test_photos_in_files_and_files_that_grow_are_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def leak(scratch: Home) -> None:
        (scratch.path / ".exemplars").mkdir(exist_ok=True)
        (scratch.path / ".exemplars" / "bag.png").write_bytes(b"pixels")
        for name in ("cache.bin", "current/receipt.json", "current/labels.txt"):
            path = scratch.path / name
            path.write_bytes((path.read_bytes() if path.exists() else b"") + b"x" * 500)

    report = simulate_leaky(home, monkeypatch, leak)
    assert found(report, ".exemplars (a folder) is unexplained")
    assert found(report, ".exemplars/bag.png", "unexplained")
    assert found(report, "file cache.bin grew by 500 bytes")
    assert found(report, "receipt.json is not this model's receipt")
    assert found(report, "file labels.txt does not have the length that its classes require")
    assert not found(report, "photos in memory") and not found(report, "teacher networks")


def test_photos_in_a_tensor_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    save, exemplars = save_bundle, {"exemplars": np.zeros((2, 28, 28, 3), np.uint8)}
    monkeypatch.setattr(
        generation, "write_bundle", lambda path, arrays, m: save(path, {**arrays, **exemplars}, m)
    )
    with pytest.raises(BundleError, match="bytes long, not"):
        simulate_leaky(home, monkeypatch)


@pytest.mark.slow
def test_the_error_of_a_failing_increment_is_raised_as_it_is(home: Home) -> None:
    too_demanding = IncrementConfig(recipe="lwm", min_photos=100)
    with pytest.raises(Exception, match="cannot be used") as caught:
        simulate(home, 3, config=too_demanding)
    assert type(caught.value).__name__ == "PhotosError" and caught.value.problems  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [{"increments": 2}, {"classes": 0}, {"increments": 70_000}])
def test_impossible_settings_are_refused(home: Home, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        simulate(home, **settings)  # type: ignore[arg-type]


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"not a PNG file"):
        simulate(home, 3, plot=tmp_path / "plot.jpg")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        plots.check_plot(tmp_path / "plot.png")


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["proofs.plots._new_figure()", "pages.charts._new_figure()"])
def test_matplotlib_leaves_nothing_in_the_users_folder(tmp_path: Path, draw: str) -> None:
    pytest.importorskip("matplotlib")
    code = f"import os, lwm_edge.proofs.plots, lwm_edge.pages.charts; lwm_edge.{draw}; "
    code += "print(os.getenv('MPLCONFIGDIR'))"
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    kept = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**kept, **places}
    )
    assert done.stdout == "None\n" and not done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_temporary_folder_may_have_any_name(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "\udcff"))
    (tmp_path / "\udcff").mkdir()
    config = IncrementConfig(recipe="lda")
    assert len(simulate(home, 3, config=config).steps) == 3
    assert not list((tmp_path / "\udcff").iterdir())


def test_a_copy_may_have_room_for_more_classes_than_the_bundle(home: Home, tmp_path: Path) -> None:
    bundle, scratch = home.open_bundle(), tmp_path / "scratch"
    scratch.mkdir()
    assert simulation.make_scratch_home(bundle.manifest, bundle.arrays(), scratch, 50) == 56
    assert Home(scratch / "home").open_bundle().manifest.capacity == 56
