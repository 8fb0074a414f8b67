"""Defines what the packages share: records, settings, reports, progress, and the form of paths and JSON.

Receipts and the `--json` output are made of reports. The names of fields carry their units; accuracies run
from 0 to 1.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from .errors import ConfigError, in_one_line

AnyPath = str | PathLike[str]

_BYTES = "bytes_as_latin1"
_SIZE_HINT = "give a number of bytes, or one with a unit, such as 600MiB"
_CLEARER_MESSAGES = {  # by the type of pydantic's error
    **dict.fromkeys(("byte_size", "byte_size_unit"), _SIZE_HINT),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "it must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "it must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "it must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "it must be a list"),
    "dict_type": "it must be a table",
    "string_type": "it must be text",
    "extra_forbidden": "there is nothing of this name; check its spelling",
    "missing": "it is missing",
}
_PREFIXES = {"Value error, ": "", "Input should be ": "it must be "}  # how pydantic's messages begin
_LARGEST_INT = 2**63 - 1
_PLAIN_FLOAT = r"-?(0|[1-9]\d*)\.(0|\d*[1-9])"
_SCIENTIFIC_FLOAT = r"-?[1-9](\.\d*[1-9])?e[+-]?\d{1,3}"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Holds data to be stored; it is frozen, and undeclared fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Settings(Record):
    """Holds settings, and refuses those that cannot be used.

    One ConfigError lists every setting that is wrong on its own. If each is right on its own, the error names
    the first settings that do not fit together.

    The text below each field is its description, which the command line's help shows.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what pydantic would let pass: a Boolean as a number, or a number as a Boolean."""
        is_boolean = "bool" in str(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and not is_boolean:
            raise ValueError("true and false have no meaning here")
        if isinstance(value, int | float) and not isinstance(value, bool) and is_boolean:
            raise ValueError("give true or false")
        return value

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise invalid("these settings cannot be used", error) from None


def absolute(path: AnyPath) -> Path:
    """Returns a path that starts from the root.

    Raises:
        ConfigError: The path is relative, and the current folder is gone or forbidden.
    """
    try:
        return Path(path).absolute()
    except OSError as error:
        raise ConfigError(
            f"{path} starts from the current folder, which cannot be found ({error.strerror}); give an "
            "absolute path, or change to another folder"
        ) from None


def utf8_name(name: str) -> str:
    """Reads the name of a file, or an argument, as UTF-8, even if the locale has another encoding."""
    return os.fsencode(name).decode(errors="surrogateescape")


def utf8_text(text: str) -> str:
    r"""Escapes what UTF-8 cannot encode: a byte that is not UTF-8 becomes, for example, `\xff`."""
    named = "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)
    return named.encode(errors="backslashreplace").decode()


def printable(path: Path) -> str:
    """Returns a path as a single line of text that UTF-8 can encode; a file's name may have any bytes."""
    return in_one_line(_path_text(path))


def _path_text(path: Path) -> str:
    return utf8_text(utf8_name(str(path)))


AnyNamePath = Annotated[Path, PlainSerializer(_path_text, when_used="json")]
"""Path for people to read; its name need not be UTF-8."""


def _path_from(value: Any) -> Path:
    """Reads a path; pydantic itself accepts only paths that are valid Unicode."""
    if isinstance(value, dict) and value.keys() == {_BYTES}:
        return Path(os.fsdecode(str(value[_BYTES]).encode("latin-1")))
    if isinstance(value, str) and not value:
        raise ValueError("the path is empty")
    if isinstance(value, str | PathLike):
        return Path(value)
    raise ValueError("it is not a path")


_EXACT_PATH_WRITTEN = {
    "type": "object",
    "properties": {_BYTES: {"type": "string"}},
    "required": [_BYTES],
    "additionalProperties": False,
}
ExactPath = Annotated[
    Path,
    PlainSerializer(lambda path: {_BYTES: os.fsencode(path).decode("latin-1")}, when_used="json"),
    PlainValidator(_path_from),
    WithJsonSchema(_EXACT_PATH_WRITTEN, mode="serialization"),
    WithJsonSchema({"anyOf": [{"type": "string"}, _EXACT_PATH_WRITTEN]}, mode="validation"),
]
"""Path for programs to read; its name need not be UTF-8, and in JSON each of its bytes is one character."""


ExactBytes = Annotated[
    bytes,
    PlainSerializer(lambda content: b64encode(content).decode(), when_used="json"),
    BeforeValidator(lambda text: b64decode(text) if isinstance(text, str) else text),
]
"""Bytes that go from one process to another, in JSON as base64."""


class Report(BaseModel):
    """Holds what is to be reported; it is frozen, and undeclared fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def plain_json(text: bytes, *, indent: int | None = None) -> Any:
    """Reads JSON that this program wrote, and refuses any that could hide something.

    Something could be hidden in repeated keys, spaces, needless escapes or extra digits, as they leave no
    trace in the content that is read.

    Args:
        text: JSON in UTF-8, without padding.
        indent: Number of spaces that indent each level; None if there are no spaces outside strings.

    Raises:
        ValueError: The text is not JSON, or is not written as this program writes its content.
    """
    try:
        decoded = text.decode()
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in decoded)  # put around each float
        content = json.loads(
            decoded,
            object_pairs_hook=_without_repeated_keys,
            parse_float=lambda number: f"{mark}{_plain_float(number)}{mark}",
            parse_int=_plain_int,
        )
        separators = (",", ":") if indent is None else (",", ": ")
        needed = json.dumps(content, ensure_ascii=False, indent=indent, separators=separators)
        if decoded != needed.replace(f'"{mark}', "").replace(f'{mark}"', ""):
            raise ValueError("its content is not written in the way that lwm-edge writes it")
        return json.loads(decoded)
    except StopIteration:
        raise ValueError("it has every private-use character") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def require_as_written(record: BaseModel, text: bytes) -> None:
    """Refuses the JSON that a record was read from, unless the record would be written exactly like that.

    The JSON must have no spaces outside strings. It may lack fields that have a default, as an earlier
    release may not have had them yet.

    Raises:
        ValueError: The text could hide something, either in a way that `plain_json` refuses, or in the order
            of its fields, or in values of another type, such as a number in quotation marks.
    """
    written = json.loads(record.model_dump_json(exclude_unset=True))
    if json.dumps(plain_json(text)) != json.dumps(written):  # gives all floats the same form
        raise ValueError("its fields are not in the order or form in which lwm-edge writes them")


def _plain_int(number: str) -> int:
    if abs(int(number)) > _LARGEST_INT:
        raise ValueError("it has a number that is larger than any that lwm-edge writes")
    return int(number)


def _plain_float(number: str) -> str:
    """Returns a number as it is written; refuses it if it has more digits than its value needs."""
    value = float(number)
    forms = _PLAIN_FLOAT if value == 0 or 1e-4 <= abs(value) < 1e15 else f"{_PLAIN_FLOAT}|{_SCIENTIFIC_FLOAT}"
    if not re.fullmatch(forms, number) or Decimal(number) != Decimal(repr(value)):
        raise ValueError("it has a number with more digits than it needs")
    return number


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("it has the same key twice")
    return content


class Progress(Report):
    """Reports one step of a long job, for progress bars.

    In the phases `photos`, `check` and `features`, and in `evaluate` if it reads photos, there is a report
    before each photo, and further ones while a photo is slow to read.

    Attributes:
        phase: Name of the phase: `photos`, `check`, `plan`, `features`, `train`, `head`, `evaluate`,
            `stage`, `commit`, `export` or `page`; `busy` until another change of the home is done, `wait`
            while an inbox is watched, and `simulate` for whole increments.
        done: Number of steps done in the phase.
        total: Number of steps in the phase.
        loss: Loss of the latest optimiser update, while training.
        notes: Lines for the owner about files that are left out, and about sub-folders that are included.
        expected_seconds: Seconds that a phase of one step is expected to take; None if its steps are counted.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    notes: tuple[str, ...] = ()
    expected_seconds: float | None = None


ProgressCallback = Callable[[Progress], None]


def one_step(phase: str, expected_seconds: float) -> Progress:
    """Makes the first report on a phase whose steps cannot be counted, with its expected duration."""
    return Progress(phase=phase, done=0, total=1, expected_seconds=expected_seconds)


def ignore_progress(progress: Progress) -> None:
    """Ignores progress."""


class StepReporter:
    """Reports how many steps of a phase are done; call it before each step.

    Args:
        phase: Name of the phase.
        total: Number of steps, or the usual number if it is not known yet; steps beyond it are not counted.
        on_progress: Function that gets the reports.
    """

    def __init__(self, phase: str, total: int, on_progress: ProgressCallback) -> None:
        self._phase, self._total, self._on_progress = phase, total, on_progress
        self._begun = 0

    def __call__(self) -> None:
        """Reports that the next step begins."""
        self._begun += 1
        self.again()

    def again(self) -> None:
        """Repeats the latest report while a step is slow, so that whoever receives it can end the work."""
        done = min(max(0, self._begun - 1), self._total)
        self._on_progress(Progress(phase=self._phase, done=done, total=self._total))


def report_nothing() -> None:
    """Does nothing; stands in for a function that reports something, or that may end the work."""


def invalid(message: str, error: ValidationError) -> ConfigError:
    """Makes a ConfigError that lists what pydantic found."""
    return ConfigError(message, [": ".join(filter(None, problem)) for problem in invalid_values(error)])


def invalid_values(error: ValidationError) -> list[tuple[str, str]]:
    """Lists what pydantic found: the place (empty for the whole), and what is wrong there."""
    items = error.errors(include_url=False, include_context=False)
    return [(".".join(map(str, i["loc"])), _CLEARER_MESSAGES.get(i["type"], _plain(i["msg"]))) for i in items]


def _plain(message: str) -> str:
    for prefix, plainer in _PREFIXES.items():
        if message.startswith(prefix):
            return plainer + message.removeprefix(prefix)
    return message
