"""Reports in plain words that torch is missing where it is needed; most of lwm-edge runs without torch."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ConfigError, first_line, ran_out_of_memory

_LIBRARIES = ("torch", "torchvision")
_HOW = (
    "pip install torch torchvision; deploy/README.md says how to get the builds for CPUs, which are several "
    "gigabytes smaller, or those for a Jetson"
)


def torch_is_installed() -> bool:
    """Returns whether torch and torchvision are installed; whether they can be loaded is another matter."""
    return all(map(find_spec, _LIBRARIES))


def require_torch_installed(what: str, instead: str = "") -> None:
    """Makes sure that torch and torchvision are installed; loads neither.

    Args:
        what: Subject and verb of the sentence that says what needs them, such as "a demo needs".
        instead: End of that sentence, which can say what else to do.

    Raises:
        ConfigError: They are not installed.
    """
    if not torch_is_installed():
        raise ConfigError(
            f"{what} torch and torchvision, and they are not installed here: install them ({_HOW}){instead}"
        )


def require_torch(what: str, instead: str = "") -> None:
    """Loads torch and torchvision.

    Args:
        what: Subject and verb, as for `require_torch_installed`.
        instead: End of the sentence, as for `require_torch_installed`.

    Raises:
        ConfigError: They are not installed, or they cannot be loaded.
    """
    require_torch_installed(what, instead)
    try:
        from .architectures import _torchvision  # noqa: F401  # loads both
    except Exception as error:  # a broken installation may raise anything
        if ran_out_of_memory(error):
            raise
        raise ConfigError(
            f"{what} torch and torchvision, and they cannot be loaded here ({first_line(error)}): install a "
            f"pair that fits this machine and each other ({_HOW}){instead}"
        ) from error
