"""Packs a trained classifier and signs the base, as a vendor would, and makes a home that trusts the vendor.

    python examples/03_ship_a_base.py FOLDER

The classifier of 02_save_checkpoint.py is used in place of yours, with the photos that ship with lwm-edge.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lwm_edge
from lwm_edge.demo import DEMO_DATA


def at_the_vendors(folder: Path) -> tuple[Path, Path]:
    """Makes a signed base; returns it and the public key, both of which go onto the devices."""
    checkpoint, base = folder / "model.pth", folder / "base.lwm"
    train = Path(__file__).with_name("02_save_checkpoint.py")
    subprocess.run([sys.executable, train, checkpoint], check=True)  # your training
    report = lwm_edge.pack_checkpoint(
        checkpoint,
        DEMO_DATA / "train" / "base",
        base,
        lwm_edge.PackConfig(
            architecture="small_resnet20",
            image_size=28,
            activation="sigmoid",
            unseen_photos=DEMO_DATA / "test" / "base",  # so that devices can estimate the accuracy
            permits=("add-photos", "undo"),
        ),
    )
    print("Packed", base, "which knows", ", ".join(report.class_names))
    keys = lwm_edge.generate_key(folder / "vendor")  # vendor.key stays here, vendor.pub ships
    lwm_edge.sign_bundle(base, keys.private_key_file)
    return base, keys.public_key_file


def on_the_device(base: Path, vendor_key: Path, folder: Path) -> None:
    """Makes a home that accepts only this vendor's bases, teaches classes, and verifies the signatures."""
    home = folder / "home"
    lwm_edge.init_home(base, home, trust=vendor_key)
    lwm_edge.add_classes(home, DEMO_DATA / "train" / "2")
    print("Knows", ", ".join(lwm_edge.info(home).class_names))
    proof = lwm_edge.verify(home, trust=vendor_key)
    print("Verified" if proof.passed else "Not verified: " + "; ".join(proof.problems))


if __name__ == "__main__":
    shipped = at_the_vendors(Path(sys.argv[1]))
    on_the_device(*shipped, Path(sys.argv[1]))
