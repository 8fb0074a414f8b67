"""Opens a vendor's checkpoint file without ever running code from it, or says what else the file is."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file as load_safetensors

from .. import inspection
from ..errors import ConfigError, first_line, is_about_access, ran_out_of_memory

ADVICE = "save a state dict with torch.save(model.state_dict(), ...)"
_LONGEST_NAME = 80
_PROTOCOL_4_OPCODES = "140|147|149"  # SHORT_BINUNICODE, STACK_GLOBAL and FRAME
_HEADER_LENGTH_BYTES = 8  # a safetensors file begins with its header's length, and the header is JSON
_BEGINNING = 512  # bytes in which a kind of file shows
_AGAIN = "copy or download it again"
_UNPACK = "unpack it and give the checkpoint that is in it"


def load_checkpoint_file(path: Path) -> Any:
    """Reads a checkpoint of torch or safetensors, and returns what is in it.

    Raises:
        ConfigError: The file does not exist, is damaged or of another kind, or cannot be read without running
            code.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give the path of a checkpoint (.pth)")
    try:
        file = inspection.open_regular(path)
    except OSError as error:
        why = error.strerror or first_line(error)
        raise ConfigError(f"{path} cannot be read ({why}); check the path and its permissions") from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those about odd pickle protocols, which are refused anyway
        start = file.read(_BEGINNING)
        file.seek(0)
        try:
            if start[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + 1] == b"{":
                return load_safetensors(path)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise almost anything
            if ran_out_of_memory(error) or is_about_access(error):
                raise
            raise ConfigError(f"{path} {_problem(file, start, path.suffix, str(error))}") from None


def shown(name: Any) -> str:
    """Returns a name from a checkpoint in a form that can be printed."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def _problem(file: BinaryIO, start: bytes, suffix: str, error: str) -> str:
    """Says why a file cannot be read, and what to do; torch's own message advises reading it unsafely."""
    if start.startswith(b"PK"):
        file.seek(0)
        if kind := _kind_of_zip(file):
            return kind
    elif kind := _kind_of_file(start, suffix):
        return kind
    if found := re.search(r"GLOBAL (\S+)", error):
        return (
            f"holds an object of type {shown(found[1])}, which cannot be read without running its code; "
            f"load it where it was trained, and {ADVICE}"
        )
    if re.search(rf"Unsupported operand ({_PROTOCOL_4_OPCODES})\b", error):
        return (
            "was saved with a newer pickle protocol than torch's default (2), so it cannot be read without "
            f"running code from it; load it where it was trained, and {ADVICE}"
        )
    return f"cannot be read as a torch checkpoint; it is damaged or of another kind: {_AGAIN}, or {ADVICE}"


def _kind_of_zip(file: BinaryIO) -> str | None:
    """Says what a zip archive is if it is no checkpoint of torch; returns None if it is one."""
    try:
        if not zipfile.is_zipfile(file):
            return f"is damaged or cut short; {_AGAIN}"
        with zipfile.ZipFile(file) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # a damaged archive raises almost anything
        return f"is damaged; {_AGAIN}"
    if "constants.pkl" in names:
        return f"is TorchScript; load it with model = torch.jit.load(...), and {ADVICE}"
    if any(name.endswith(".npy") for name in names):
        return f"holds NumPy's arrays; load them into the network where it was trained, and {ADVICE}"
    return None if "data.pkl" in names else f"is an archive of files; {_UNPACK}"


def _kind_of_file(start: bytes, suffix: str) -> str | None:
    """Says what a file is, judging by how it begins; returns None if that does not show."""
    if not start:
        return f"is empty; {_AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "only says where Git LFS keeps the checkpoint; fetch the file itself with git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not a checkpoint; download the file itself"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or start[257:262] == b"ustar":
        return f"is an archive of files; {_UNPACK}"
    if start[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + 1] == b"{":
        return f"is a safetensors file that is damaged or cut short; {_AGAIN}"
    if suffix.lower() == ".onnx":
        return f"is an ONNX file; give the torch checkpoint that it was made from, or {ADVICE}"
    return None
