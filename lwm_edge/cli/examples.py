"""Holds an example of each command, and makes the help, which begins with the example."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

EXAMPLES = {
    "demo": "lwm-edge demo",
    "build-base": "lwm-edge build-base ./photos --arch resnet18 --weights imagenet -o base.lwm",
    "pack": "lwm-edge pack classifier.pth ./photos --arch resnet18 --labels labels.txt -o base.lwm",
    "init": "lwm-edge init base.lwm",
    "check": "lwm-edge check ./new_photos -o page.html",
    "add-classes": "lwm-edge add-classes ./new_photos",
    "add-photos": "lwm-edge add-photos ./more_photos",
    "inbox": "lwm-edge inbox ./inbox --taught ./taught_photos --once",
    "remove-class": 'lwm-edge remove-class "Ankle boot"',
    "rename-class": "lwm-edge rename-class Bag Handbag",
    "undo": "lwm-edge undo",
    "predict": "lwm-edge predict photo.jpg",
    "calibrate": "lwm-edge calibrate ./photos_of_known_classes",
    "evaluate": "lwm-edge evaluate ./labelled_photos",
    "info": "lwm-edge info",
    "report": "lwm-edge report -o page.html",
    "export": "lwm-edge export classifier.onnx",
    "repair": "lwm-edge repair",
    "audit": "lwm-edge audit --simulate 3",
    "keygen": "lwm-edge keygen vendor",
    "sign": "lwm-edge sign base.lwm --key vendor.key",
    "verify": "lwm-edge verify --trust vendor.pub",
}


class Help(NamedTuple):
    """Holds the texts that explain a command.

    Attributes:
        whole: Text of the command's own help page, which begins with the example.
        short: Text that the list of commands shows.
    """

    whole: str
    short: str


def help_of(name: str, command: Callable[..., None]) -> Help:
    """Returns the help of a command: its example, and then its docstring."""
    text = inspect.getdoc(command) or ""
    summary = text.partition("\n\n")[0]
    return Help(f"Example: {EXAMPLES[name]}\n\n{text}", " ".join(summary.split()))
