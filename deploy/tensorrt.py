#!/usr/bin/env python3
"""Builds a TensorRT engine for a home's current classifier with trtexec, and removes the previous one.

    python tensorrt.py HOME [--engines DIR] [--batch N] [--fp16 --photos DIR | --int8 --photos DIR]

The engine is DIR/<home's name>-<model digest>-<variant>.engine. Without --engines, DIR is HOME.engines beside
the home, because only lwm-edge may write into the home. Run this script again after every increment: it keeps
an engine of this variant of the current model, or builds one, and then removes the home's others. Homes may
share DIR if their names differ. An app loads the engine that has the home's name; HOME/current/labels.txt
names its outputs. An engine fits one GPU and one version of TensorRT, so build it on the device, and pass
--rebuild after an upgrade.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import lwm_edge

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack and NVIDIA's containers put it
HOW_TO_GET_IT = (
    "trtexec is missing: on a Jetson it comes with JetPack (sudo apt-get install nvidia-jetpack), elsewhere "
    "with the TensorRT package or NVIDIA's tensorrt container; add its folder to PATH"
)


def find_trtexec() -> str:
    """Finds trtexec, or exits with a message that says how to get it."""
    found = shutil.which("trtexec") or shutil.which(TRTEXEC)
    if not found:
        sys.exit(HOW_TO_GET_IT)
    return found


def has_option(trtexec: str, option: str) -> bool:
    """Tells whether trtexec has an option, which is then at the start of a line of its help.

    From TensorRT 11 on, it has none for the precision, because the ONNX file alone sets that.
    """
    command = [trtexec, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return bool(re.search(rf"^\s*{option}(?![\w-])", f"{shown.stdout}\n{shown.stderr}", re.MULTILINE))


def build(trtexec: str, onnx: Path, engine: Path, precision: str) -> None:
    """Builds an engine; a failed or interrupted build leaves no unfinished file under the engine's name."""
    staged = engine.with_suffix(".building")
    command = [trtexec, f"--onnx={onnx}", f"--saveEngine={staged}"]
    if precision != "float32" and has_option(trtexec, f"--{precision}"):
        command.append(f"--{precision}")
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if finished.returncode or not staged.is_file():
        staged.unlink(missing_ok=True)
        last_lines = "\n".join((finished.stdout + finished.stderr).splitlines()[-20:])
        sys.exit(f"trtexec failed with status {finished.returncode}; its last lines:\n{last_lines}")
    staged.replace(engine)


def remove_others(engine: Path, home: Path) -> list[Path]:
    """Removes the home's other engines, finished or not, but only files that this program named."""
    pattern = re.compile(re.escape(home.name) + r"-[0-9a-f]{64}-\w+-batch\d+\.(engine|building)")
    others = [p for p in engine.parent.iterdir() if pattern.fullmatch(p.name) and p != engine]
    for path in others:
        path.unlink()
    return others


def main() -> None:
    """Parses the command line and builds the engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path, help="the model home")
    parser.add_argument("--engines", type=Path, metavar="DIR", help="folder for the engine, outside the home")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images in every batch (default 1)")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--fp16",
        dest="precision",
        action="store_const",
        const="fp16",
        default="float32",
        help="half precision; needs --photos",
    )
    precision.add_argument(
        "--int8",
        dest="precision",
        action="store_const",
        const="int8",
        help="8-bit integers; needs --photos, for calibration",
    )
    parser.add_argument("--rebuild", action="store_true", help="build again, as after a TensorRT upgrade")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="class folders for checking fp16 or int8")
    given = parser.parse_args()
    trtexec = find_trtexec()
    home = given.home.resolve()
    engines = (given.engines or home.with_name(f"{home.name}.engines")).resolve()
    if engines == home or home in engines.parents:
        sys.exit(f"{engines} is inside the home, which only lwm-edge writes to; choose a folder outside it")
    try:
        with tempfile.TemporaryDirectory() as folder:
            onnx = Path(folder) / "classifier.onnx"
            variant = lwm_edge.ExportConfig(
                static_batch=given.batch,
                precision=given.precision,
                float_weights=given.precision == "int8",
                photos=given.photos,
            )
            digest = lwm_edge.export_onnx(home, onnx, variant).model_digest
            engines.mkdir(parents=True, exist_ok=True)
            engine = engines / f"{home.name}-{digest}-{given.precision}-batch{given.batch}.engine"
            if given.rebuild or not engine.is_file():
                build(trtexec, onnx, engine, given.precision)
    except lwm_edge.LwmEdgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # the folder cannot be written to, or trtexec is not for this processor
        sys.exit(str(error))
    for path in remove_others(engine, home):
        print(f"removed {path}")
    print(engine)


if __name__ == "__main__":
    main()
