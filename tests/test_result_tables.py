"""The tables of results agree with the JSON files beside them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Container
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.pages import ROOT, rows, section

BENCHMARKS = ROOT / "benchmarks"
PAGE = "benchmarks/README.md"
MIB = 2**20
COLUMNS = ("average", "last", "base classes, last", "newest classes, last", "forgetting")


def _table_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", BENCHMARKS / "table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = _table_script()


def _result(name: str) -> Any:
    return json.loads((BENCHMARKS / "results" / name).read_text())


def _figures(names: list[str], until: int | None) -> dict[str, dict[str, str]]:
    """Returns each method's figures, as `table.py` prints them, and its number of seeds, from some files."""
    runs = TABLE.read_runs([BENCHMARKS / "results" / name for name in names], until)
    methods = dict.fromkeys(run["method"] for run in runs)
    chosen = {method: [run for run in runs if run["method"] == method] for method in methods}
    return {method: {**TABLE.row(of), "seeds": str(len(of))} for method, of in chosen.items()}


def _tables() -> list[tuple[list[str], int | None, list[str], list[list[str]]]]:
    """Lists each table whose files are named above it: files, number of classes to cut at, headings, rows."""
    paragraphs = (ROOT / PAGE).read_text().split("\n\n")
    found = []
    for before, table in pairwise(paragraphs):
        if table.startswith("|") and (
            said := re.search(r"\bfigures\s+are\s+from\s+\[.*:$", before, re.DOTALL)
        ):
            files = re.findall(r"\(results/([\w-]+\.json)\)", said[0])
            cut = re.search(r"cut\s+at\s+(\d+)\s+classes", said[0])
            headings = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
            found.append((files, int(cut[1]) if cut else None, headings, rows(table)))
    return found


def _is_published(label: str) -> bool:
    return label.startswith(("LwM,", "finetuning,", "best published"))


def test_every_row_of_a_method_is_in_its_results_file() -> None:
    checked = 0
    for files, until, headings, table in _tables():
        if "average" not in headings:
            continue
        figures = _figures(files, until)
        if "cifar100-rates.json" in files:  # rows with one seed have seed 1993
            figures |= _figures_of_seed("cifar100-reduced.json", 1993, until)
        for cells in table:
            if _is_published(cells[0]):
                continue
            shown = dict(zip(headings, (cell.replace("*", "") for cell in cells), strict=True))
            name = re.sub(r"[*`]|\(.*\)|L_C \+ L_AD", "", cells[0]).strip().split(",")[0]
            name = {"joint training": "joint", "": "lwm:beta=0", "L1": "lwm", "L2": "lwm-l2"}.get(name, name)
            columns = [c for c in (*COLUMNS, "seeds") if shown.get(c)]
            if "table before last" in cells[0]:
                continue
            same = [m for m, f in figures.items() if all(f.get(c) == shown[c] for c in columns)]
            assert any(method.startswith(name) for method in same), (files, cells, same)
            checked += 1
    assert checked > 90


def _figures_of_seed(name: str, seed: int, until: int | None) -> dict[str, dict[str, str]]:
    runs = [run for run in TABLE.read_runs([BENCHMARKS / "results" / name], until) if run["seed"] == seed]
    return {run["method"]: {**TABLE.row([run]), "seeds": "1"} for run in runs}


def _pairs(names: list[str], seeds: Container[int] = range(1, 9)) -> set[str]:
    """Collects "average / last" and "last" of each method, over all seeds and for seed 1993 alone.

    Args:
        names: Names of the results files.
        seeds: Numbers of seeds that a figure may come from.
    """
    found = set()
    for name in names:
        for figures in (*_figures([name], None).values(), *_figures_of_seed(name, 1993, None).values()):
            if int(figures["seeds"]) in seeds:
                pair = f"{figures['average']} / {figures['last']}"
                found |= {pair, re.sub(r" ± [\d.]+", "", pair), figures["last"]}
    return found


def test_pairs_of_average_and_last_are_in_the_results_files() -> None:
    checked = 0
    for files, _, headings, table in _tables():
        if "average" in headings or headings[0] not in ("grid", "setting"):
            continue
        known = _pairs(files)
        for cells in table:
            for cell in cells[1:]:
                if pair := re.search(r"[\d.]+(?: ± [\d.]+)? / [\d.]+(?: ± [\d.]+)?", cell):
                    assert pair[0] in known, (files, cells)
                    checked += 1
    assert checked == 154


def test_the_results_at_a_glance_and_the_readmes_four_rows_are_in_the_results_files() -> None:
    glance = rows(section(PAGE, "Results at a glance"))
    files = (
        ["cifar100-full.json", "cifar100-more-blocks.json"],
        ["cifar100-loop.json", "cifar100-more-blocks-rotations.json"],
        ["grocery.json", "grocery-rates.json", "grocery-half-way.json"],
        ["caltech101.json", "caltech101-rates.json", "caltech101-half-way.json"],
    )
    for label, *cells in glance:
        if label.startswith("LwM, published"):
            continue
        for cell, names in zip(cells, files, strict=True):
            seeds = {1} if cell.strip("*") != cell.replace("**", "") else {2, 3}
            assert not cell or cell.strip("*") in _pairs(names, seeds), (label, cell)
    four = rows(section("README.md", "How well it learns"))
    known = {label: [cell.strip("*") for cell in cells] for label, *cells in glance}
    assert len(four) == 4
    for label, *cells in four:
        assert [cell.strip("*") for cell in cells] == [known[label][n] for n in (0, 2, 3)], label


def test_every_figure_under_what_else_was_measured_is_in_the_linked_section() -> None:
    answers = rows(section(PAGE, "What else was measured"))
    for question, answer, evidence in answers:
        heading = evidence.removeprefix("[").partition("]")[0]
        missing = [f for f in re.findall(r"\d[\d.,]*\b", answer) if f not in section(PAGE, heading)]
        assert not missing, (question, missing)
    assert len(answers) > 10


def test_every_result_says_where_it_comes_from() -> None:
    listed = {cells[0]: cells[1] for cells in rows(section(PAGE, "Provenance"))}
    for path in sorted((BENCHMARKS / "results").glob("*.json")):
        content = _result(path.name)
        runs = content if isinstance(content, list) else content.get("runs", [content])
        assert all(run["machine"]["cores"] == 2 or "gpu" in run["machine"] for run in runs), path.name
        commits = dict.fromkeys(c for run in runs for c in (run["commit"] or "not recorded").split(", "))
        assert listed.pop(f"[{path.name}](results/{path.name})") == ", ".join(commits), path.name
    assert not listed


def test_the_memory_table_agrees_with_its_file() -> None:
    table = rows(section(PAGE, "Memory of one increment"))
    measured = _result("memory.json")
    assert len(table) == len(measured)
    for cells, row in zip(table, measured, strict=True):
        naive = next(r for r in measured if (r["arch"], r["what"]) == (row["arch"], "naive loop"))
        shown = [cell.replace("*", "") for cell in cells[2:]]
        assert shown[0] == f"{row['peak_rss_bytes'] / MIB:.0f}"
        assert shown[1] == f"{row['peak_rss_bytes'] / naive['peak_rss_bytes']:.2f}"
        assert (
            shown[5] == str(row["micro_batch_size"])
            and shown[6] == f"{row['step_ms'] / naive['step_ms']:.2f}"
        )
        if "predicted_bytes" in row:
            assert shown[2] == f"{row['predicted_bytes'] / MIB:.0f}"
            assert shown[3] in ("half of what is free", f"{row['limit_bytes'] / MIB:.0f}")
            assert shown[4] == f"{row['export_peak_rss_bytes'] / MIB:.0f}"


def test_the_table_of_onnx_forms_agrees_with_its_files() -> None:
    table = rows(section(PAGE, "Forms of the ONNX file"))
    measured = [row for name in ("grocery", "caltech101") for row in _result(f"forms-{name}.json")["forms"]]
    for cells, row in zip(table, measured, strict=True):
        assert cells[1:] == [
            row["form"],
            f"{row['photos']:,}",
            f"{100 * row['agreement']:.1f}",
            f"{100 * row['original_accuracy']:.1f} -> {100 * row['accuracy']:.1f}",
            f"{row['length_ratio']:.2f}",
            f"{row['time_ratio']:.2f}",
        ]
        assert row["agreement"] >= row["min_agreement"]


def test_the_speed_table_and_text_agree_with_their_files() -> None:
    table = rows(section(PAGE, "Speed"))
    for cells, row in zip(table, _result("speed.json")["networks"], strict=True):
        assert cells[1:] == [
            str(row["threads"]),
            _with_spread(row["after_by_before"]),
            _with_spread(row["eager_by_after"]),
            *(f"{row[f'{variant}_ms']['median']:.1f}" for variant in ("before", "after", "eager")),
        ]
    commands = _result("speed-commands.json")["commands"]
    text = " ".join(section(PAGE, "Speed").split())
    assert f"`lwm-edge --help` takes {_with_spread(commands['help_by_unit'])} times" in text
    assert f"`lwm-edge predict` on one photo {_with_spread(commands['predict_by_unit'])} times" in text
    assert f"Loading the file is {commands['loading_ms']:.0f} ms of that" in text
    assert f"one more photo takes {commands['predict_warm_ms']['median']:.1f} ms" in text


def test_the_times_of_the_networks_of_a_family_agree_with_their_file() -> None:
    one_thread = [row for row in _result("speed-lite.json")["networks"] if row["threads"] == 1]
    sizes = [row["arch"].removeprefix("efficientnet_lite") for row in one_thread]
    table = [cells for cells in rows(section(PAGE, "Caltech-101, pretrained")) if "px" in cells[0]]
    assert [cells[0] for cells in table] == [
        f"EfficientNet-Lite{number}, {pixels} px" for number, pixels in (size.split("@") for size in sizes)
    ]
    assert [cells[2] for cells in table] == [f"{row['after_ms']['median']:.1f}" for row in one_thread]


def _with_spread(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['smallest']:.2f} to {value['largest']:.2f})"


def test_the_footprint_table_agrees_with_its_file() -> None:
    report = _result("footprint.json")
    trends = {trend["figure"]: trend for trend in report["trends"]}
    figures = {
        "all but ONNX file and labels": "all but ONNX and labels",
        "peak resident memory (kernel's high-water mark, reset at each start)": "peak_rss_bytes",
        "its anonymous part (sampled)": "peak_anonymous_bytes",
        "its mapped part (sampled)": "peak_mapped_bytes",
    }
    for label, second, last, slope, _ in rows(section(PAGE, "Constant footprint")):
        trend = trends[figures.get(label, label.strip("`"))]
        assert (second, last) == (f"{trend['second']:,}", f"{trend['last']:,}"), label
        assert float(slope.replace(",", "")) == round(
            trend["slope_bytes_per_class"], 2 if "." in slope else None
        )
    assert report["passed"] and report["increments"] == 50


def test_the_table_of_attention_maps_agrees_with_its_file() -> None:
    report = _result("attention-maps.json")
    (table,) = (table for files, _, _, table in _tables() if files == ["attention-maps.json"])
    for cells in table:
        name = "lwm:beta=0" if "beta=0" in cells[0] else cells[0]
        far, lost = report["distance_to_first"][name], report["share_of_zero_maps"][name]
        assert cells[1:] == [f"{d:.2f} ({share:.0%})" for d, share in zip(far, lost, strict=True)]


def test_the_table_of_random_kills_agrees_with_its_file() -> None:
    report = _result("crash.json")
    (*table,) = (
        cells for cells in rows(section("tests/README.md", "Kills and power cuts")) if len(cells) == 5
    )
    counts = report["landed_by_recipe_and_phase"]
    for phase, *shown in table:
        landed = [counts[recipe][phase] for recipe in ("lwm", "lwm-lda", "lda")]
        assert shown == [str(count) for count in (*landed, sum(landed))]
    assert len(table) == len(counts["lda"])


def test_nothing_in_a_page_is_a_path_of_a_machine() -> None:
    for path in [*ROOT.glob("*/README.md"), Path(ROOT / "README.md")]:
        assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", path.read_text()), path


def test_tables_that_scripts_print_are_in_the_page_as_they_print_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    page = (ROOT / PAGE).read_text()
    for script, result, key in (
        ("overfitted", "overfitted.json", "rows"),
        ("doctor", "doctor-grocery.json", "rows"),
        ("few_photos", "few-photos-grocery.json", "rows"),
        ("estimates", "estimates.json", "runs"),
        ("estimates", "auto-cifar100.json", "runs"),
        ("speed_training", "speed-training.json", "measured"),
        ("speed_training", "speed-training-gpu.json", "measured"),
        ("large_base", "large-base.json", "rows"),
        ("large_base", "large-base-gpu.json", "rows"),
        ("several_processes", "several-processes.json", "runs"),
        ("trials", "sweep.json", "runs"),
        ("trials", "sweep-400-photos.json", "runs"),
        ("trials", "sweep-2-a-step.json", "runs"),
        ("trials", "sweep-5-a-step.json", "runs"),
        ("trials", "sweep-grocery.json", "runs"),
        ("gradients", "gradients.json", "runs"),
    ):
        importlib.import_module(script).print_table(_result(result)[key])
        printed = capsys.readouterr().out.strip()
        assert len(printed.splitlines()) > 4 and printed in page, script
