"""Watches an inbox from your own program, and ends once the model has learnt something.

    python examples/09_inbox.py HOME INBOX TAUGHT

TAUGHT is the folder to which photos are moved once the model has learnt from them.

A real program would go on watching, as do the command `lwm-edge inbox` and the service in deploy/systemd/.
"""

from __future__ import annotations

import sys

import lwm_edge


class EnoughError(Exception):
    """Ends the watching, because the model has learnt something."""


def show(report: lwm_edge.InboxReport) -> None:
    """Prints which photos the model learnt from and which wait; called first and whenever there is news."""
    for done in report.taught:
        print(f"Learnt {done.class_name} from {done.photos} photos, now in {done.moved_to}")
    for left in report.waiting:
        print(f"{left.class_name}: {left.state}. {left.reason}")
    if report.taught:
        raise EnoughError


def main(home: str, inbox: str, taught: str) -> None:
    """Watches until the model has learnt something; a folder is used after a second without changes."""
    try:
        lwm_edge.watch_inbox(home, inbox, on_report=show, taught=taught, quiet_seconds=1)
    except EnoughError:
        print("The model knows", ", ".join(lwm_edge.info(home).class_names))


if __name__ == "__main__":
    main(*sys.argv[1:4])
