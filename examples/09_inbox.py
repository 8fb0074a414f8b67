"""Watches an inbox from a program of your own, and ends once it has taught something.

    python examples/09_inbox.py HOME INBOX TAUGHT

A real program would go on; `lwm-edge inbox` does so as a command, and deploy/systemd/ as a service.
"""

from __future__ import annotations

import sys

import lwm_edge


class EnoughError(Exception):
    """Ends the watching."""


def show(report: lwm_edge.InboxReport) -> None:
    """Prints what was taught and what waits; it is called when there is news of either."""
    for done in report.taught:
        print(f"Taught {done.class_name} with {done.photos} photos, now in {done.moved_to}")
    for left in report.waiting:
        print(f"{left.class_name}: {left.state}. {left.reason}")
    if report.taught:
        raise EnoughError


def main(home: str, inbox: str, taught: str) -> None:
    """Watches until something was taught; photos count as complete if nothing has changed for a second."""
    try:
        lwm_edge.watch_inbox(home, inbox, on_report=show, taught=taught, quiet_seconds=1)
    except EnoughError:
        print("The model knows", ", ".join(lwm_edge.info(home).class_names))


if __name__ == "__main__":
    main(*sys.argv[1:4])
