"""Loads libraries that the extras install, and says in plain words if one is missing or broken.

The messages name the library, not the extra: where lwm-edge runs without torch, pip would install torch along
with an extra.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import ConfigError, first_line, ran_out_of_memory


def load_library(module: str, needed_for: str, distribution: str | None = None) -> Any:
    """Imports a library that an extra installs.

    Args:
        module: Dotted name of the module to import.
        needed_for: Subject and verb of the sentence that says what needs it, such as "the plot needs".
        distribution: Name by which pip knows the library, if it is not that of the package.

    Raises:
        ConfigError: The library is not installed, or it cannot be loaded.
    """
    package = module.partition(".")[0]
    distribution = distribution or package
    try:
        import_module(package)
        return import_module(module)
    except Exception as error:  # a broken installation may raise anything
        if ran_out_of_memory(error):
            raise
        if find_spec(package) is None:
            raise ConfigError(
                f"{needed_for} {distribution}; install it with: pip install {distribution}"
            ) from None
        raise ConfigError(
            f"{needed_for} {distribution}, and it cannot be loaded here ({first_line(error)}); "
            f"a newer version may work: pip install --upgrade {distribution}"
        ) from error
