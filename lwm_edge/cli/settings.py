"""Reads the settings of the command line: the file `lwm-edge.toml`, and the location of the home."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError, field_validator

from .. import BaseConfig, IncrementConfig, PackConfig, inspection
from ..errors import ConfigError
from ..records import ExactPath, Record, Settings, absolute, invalid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
CONFIG_FILE = "lwm-edge.toml"
HOME_VARIABLE = "LWM_EDGE_HOME"
_LONGEST_NAME = 80
_MAX_BYTES = 1024**2


class FileConfig(Record):
    """Holds the content of `lwm-edge.toml`: `home`, and the table `[increment]` for IncrementConfig."""

    home: ExactPath | None = None
    increment: dict[str, Any] = Field(default={})

    @field_validator("home")
    @classmethod
    def _can_be_a_path(cls, home: Path | None) -> Path | None:
        if home and "\0" in str(home):
            raise ValueError("a path cannot contain NUL characters")
        return home


def read_file_config(folder: Path = Path()) -> FileConfig:
    """Reads `lwm-edge.toml` in a folder, by default the current one; without such a file, the defaults apply.

    A folder that no longer exists or cannot be searched is treated as having no such file.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or has settings that are unknown or not usable.
    """
    path = folder / CONFIG_FILE
    if not _is_there(path):
        return FileConfig()
    try:
        content = tomllib.loads(_read(path))
        if problems := _problems_of(content):
            raise ConfigError(f"{path} has settings that lwm-edge cannot use", problems)
        return FileConfig.model_validate(content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; correct or remove it") from None
    except (ValueError, RecursionError) as error:  # ValueError: bad TOML or UTF-8, a file or number too long
        raise ConfigError(f"{path} cannot be read: {error}; correct or remove it") from None


def _problems_of(content: dict[str, Any]) -> list[str]:
    """Lists settings that are unknown, with the setting that was probably meant, or not usable."""
    table = content.get("increment")
    names = table if isinstance(table, dict) else {}
    found = [_unknown(name, FileConfig.model_fields) for name in content]
    found += [_unknown(name, IncrementConfig.model_fields) for name in names]
    problems = [problem for problem in found if problem]
    try:
        FileConfig.model_validate(_only(content, FileConfig.model_fields))
    except ValidationError as error:
        problems += invalid("", error).problems
    if problems:  # without others, values in [increment] matter only to the commands that use them
        try:
            IncrementConfig(**_only(names, IncrementConfig.model_fields))
        except ConfigError as error:
            problems += error.problems or [error.message]
    return problems


def _only(settings: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in known}


def _read(path: Path) -> str:
    content = inspection.read_regular(path, _MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is longer than {_MAX_BYTES // 1024} KiB")
    return content.decode("utf-8-sig")


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, PermissionError):  # a PermissionError means that the folder cannot be searched
        return False
    except OSError:  # reading the file will fail in the same way, and the caller explains that error
        return True
    return True


def find_home(home: Path | None, file_config: FileConfig) -> Path:
    """Finds the home's folder.

    Takes the first that is given: the argument, $LWM_EDGE_HOME, `home` in lwm-edge.toml, or else the
    platform's default. A leading `~` is expanded here, in case no shell has expanded it.

    Raises:
        ConfigError: Nothing says which folder `~` stands for, or there is no default on this machine.
    """
    variable = os.environ.get(HOME_VARIABLE)
    chosen = home or (Path(variable) if variable else None) or file_config.home
    if chosen is None:
        return _default_home()
    try:
        return chosen.expanduser()
    except (RuntimeError, OSError, KeyError):
        raise ConfigError(
            f"the home {chosen} cannot be found, as nothing says which folder {chosen.parts[0]} stands for; "
            "give the full path"
        ) from None


def _default_home() -> Path:
    try:
        path = Path(platformdirs.user_data_dir("lwm-edge", appauthor=False))
    except (RuntimeError, OSError, KeyError):
        path = Path("~")
    if not path.is_absolute():  # neither HOME nor the list of users names a folder for this user
        raise ConfigError(
            f"this user has no home directory, so there is no default for the model home; pass --home, "
            f"or set {HOME_VARIABLE}"
        )
    return path


def leave_a_folder_that_is_gone(given: Mapping[str, object]) -> None:
    """Leaves the current folder if it is gone, because libraries such as MKL would end the process there.

    Args:
        given: Values of the command's arguments, by name.

    Raises:
        ConfigError: The path of the home, or another path that was given, is relative to that folder.
    """
    try:
        Path.cwd()
    except OSError:
        paths = [path for value in given.values() for path in (value if isinstance(value, list) else [value])]
        if "home" in given and given["home"] is None:
            paths.append(find_home(None, FileConfig()))
        for path in paths:
            if isinstance(path, Path):
                absolute(path)
        os.chdir("/")


def _unknown(name: str, known: Collection[str]) -> str | None:
    """Says that a setting is unknown or belongs in [increment]; returns None for a known setting."""
    if name in known:
        return None
    if name in IncrementConfig.model_fields:
        return f"{name} belongs in the table [increment]"
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"{name[:_LONGEST_NAME]} is unknown" + (f"; did you mean {nearest[0]}?" if nearest else "")


def increment_config(file_config: FileConfig, **given: Any) -> IncrementConfig:
    """Makes an IncrementConfig from given settings, which override those of `[increment]` in lwm-edge.toml.

    A value of None counts as not given.

    Raises:
        ConfigError: Some settings cannot be used, or do not fit together.
    """
    own = _given(given)
    try:
        return IncrementConfig(**{**file_config.increment, **own})
    except ConfigError as error:
        try:
            IncrementConfig(**own)
        except ConfigError:  # the file is not, or not alone, at fault
            raise error from None
        what = f"{CONFIG_FILE} has settings in [increment] that cannot be used here"
        raise ConfigError(what, error.problems) from None


def base_config(**given: Any) -> BaseConfig:
    """Makes a BaseConfig from the settings that are not None.

    Raises:
        ConfigError: Some settings cannot be used, or do not fit together.
    """
    return BaseConfig(**_given(given))


def pack_config(**given: Any) -> PackConfig:
    """Makes a PackConfig from the settings that are not None.

    Raises:
        ConfigError: Some settings cannot be used, or do not fit together.
    """
    return PackConfig(**_given(given))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def setting_help(config: type[Settings], name: str) -> str:
    """Returns a setting's help text in one line: the first paragraph of its description, bounds and default.

    "Whether to start over" becomes "Start over", as an option's help would put it.
    """
    field = config.model_fields[name]
    summary = (field.description or "").partition("\n\n")[0].replace("\n", " ").removesuffix(".")
    summary = summary.removeprefix("Whether to ")
    summary = summary[:1].upper() + summary[1:]
    notes = [
        f"{words} {getattr(bound, kind):,}"
        for bound in field.metadata
        for kind, words in _BOUNDS.items()
        if hasattr(bound, kind)
    ]
    if not field.is_required() and not any(field.default is unsaid for unsaid in (None, False, ())):
        notes.append(f"default {field.default}")
    return f"{summary} ({', '.join(notes)})." if notes else f"{summary}."
