"""Defines the vendor's commands, and `keygen`, which makes keys for devices too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import BaseConfig, PackConfig
from ..records import ProgressCallback, ignore_progress
from . import display, display_proofs
from .answer import show, with_progress
from .options import JsonOption, PhotosArgument, setting
from .settings import base_config, pack_config

if TYPE_CHECKING:  # so that --help does not wait for libraries that only the commands need
    from .. import BaseReport


def build_base_command(
    photos: PhotosArgument,
    arch: Annotated[str, setting(BaseConfig, "architecture")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")],
    capacity: Annotated[int | None, setting(BaseConfig, "capacity")] = None,
    image_size: Annotated[int | None, setting(BaseConfig, "image_size")] = None,
    weights: Annotated[str | None, setting(BaseConfig, "weights")] = None,
    checkpoint: Annotated[Path | None, setting(BaseConfig, "checkpoint", metavar="FILE")] = None,
    pretrained_share: Annotated[float | None, setting(BaseConfig, "pretrained_share")] = None,
    activation: Annotated[str | None, setting(BaseConfig, "activation")] = None,
    epochs: Annotated[int | None, setting(BaseConfig, "epochs")] = None,
    frozen_blocks: Annotated[int | None, setting(BaseConfig, "frozen_blocks")] = None,
    grid: Annotated[int | None, setting(BaseConfig, "grid")] = None,
    rotations: Annotated[bool, setting(BaseConfig, "rotations")] = False,
    learning_rate: Annotated[float | None, setting(BaseConfig, "learning_rate")] = None,
    batch_size: Annotated[int | None, setting(BaseConfig, "batch_size")] = None,
    held_back: Annotated[float | None, setting(BaseConfig, "held_back")] = None,
    author: Annotated[str | None, setting(BaseConfig, "author", metavar="TEXT")] = None,
    license_name: Annotated[str | None, setting(BaseConfig, "license", "--license", metavar="TEXT")] = None,
    description: Annotated[str | None, setting(BaseConfig, "description", metavar="TEXT")] = None,
    permit: Annotated[list[str] | None, setting(BaseConfig, "permits", "--permit", metavar="CHANGE")] = None,
    seed: Annotated[int | None, setting(BaseConfig, "seed")] = None,
    device: Annotated[str | None, setting(BaseConfig, "device")] = None,
    precision: Annotated[str | None, setting(BaseConfig, "precision")] = None,
    as_json: JsonOption = False,
) -> None:
    """For vendors: train a base on class folders and write the bundle that ships."""
    from .. import build_base

    chosen = base_config(
        architecture=arch,
        capacity=capacity,
        image_size=image_size,
        weights=weights,
        checkpoint=checkpoint,
        pretrained_share=pretrained_share,
        activation=activation,
        epochs=epochs,
        frozen_blocks=frozen_blocks,
        grid=grid,
        rotations=rotations or None,
        learning_rate=learning_rate,
        batch_size=batch_size,
        held_back=held_back,
        author=author,
        license=license_name,
        description=description,
        permits=tuple(permit) if permit else None,
        seed=seed,
        device=device,
        precision=precision,
    )
    _make_base(lambda on: build_base(photos, output, chosen, on_progress=on), as_json)


def _make_base(work: Callable[[ProgressCallback], BaseReport], as_json: bool) -> None:
    """Makes a base; if torchrun started several processes, only the first shows progress and the report.

    What torch or a vendor's network prints goes to standard error, as standard output is for the report.
    """
    from ..base.ranks import is_first_rank

    with redirect_stdout(sys.stderr):
        report = with_progress(work) if is_first_rank() else work(ignore_progress)
    if is_first_rank():
        show(report, as_json, display.base, is_done=True)


def keygen_command(
    name: Annotated[
        Path,
        typer.Argument(metavar="NAME", help="Name of the two files: NAME.key (keep it secret) and NAME.pub."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of Ed25519 keys, for a vendor to sign bases with, or for a device to sign changes with."""
    from .. import generate_key

    show(generate_key(name), as_json, display_proofs.key, is_done=True)


def sign_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BASE.lwm", help="The base to sign; its length stays the same.")
    ],
    key: Annotated[Path, typer.Option("--key", metavar="VENDOR.key", help="The vendor's private key.")],
    as_json: JsonOption = False,
) -> None:
    """For vendors: sign a base, so that homes made with --trust accept it."""
    from .. import sign_bundle

    show(sign_bundle(bundle, key), as_json, display_proofs.signing, is_done=True)


def pack_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Torch checkpoint of the trained classifier (.pth).")
    ],
    photos: PhotosArgument,
    arch: Annotated[str, setting(PackConfig, "architecture")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")],
    labels: Annotated[Path | None, setting(PackConfig, "labels", metavar="FILE")] = None,
    unseen_photos: Annotated[Path | None, setting(PackConfig, "unseen_photos", metavar="DIR")] = None,
    statistics_photos: Annotated[Path | None, setting(PackConfig, "statistics_photos", metavar="DIR")] = None,
    capacity: Annotated[int | None, setting(PackConfig, "capacity")] = None,
    activation: Annotated[str | None, setting(PackConfig, "activation")] = None,
    image_size: Annotated[int | None, setting(PackConfig, "image_size")] = None,
    resize_size: Annotated[int | None, setting(PackConfig, "resize_size")] = None,
    mean: Annotated[tuple[float, float, float] | None, setting(PackConfig, "mean", metavar="R G B")] = None,
    std: Annotated[tuple[float, float, float] | None, setting(PackConfig, "std", metavar="R G B")] = None,
    preprocessing_of: Annotated[
        str | None, setting(PackConfig, "preprocessing_of", metavar="WEIGHTS")
    ] = None,
    grid: Annotated[int | None, setting(PackConfig, "grid")] = None,
    author: Annotated[str | None, setting(PackConfig, "author", metavar="TEXT")] = None,
    license_name: Annotated[str | None, setting(PackConfig, "license", "--license", metavar="TEXT")] = None,
    description: Annotated[str | None, setting(PackConfig, "description", metavar="TEXT")] = None,
    permit: Annotated[list[str] | None, setting(PackConfig, "permits", "--permit", metavar="CHANGE")] = None,
    as_json: JsonOption = False,
) -> None:
    """For vendors: turn a trained classifier into a base, without training it further."""
    from .. import pack_checkpoint

    chosen = pack_config(
        architecture=arch,
        labels=labels,
        unseen_photos=unseen_photos,
        statistics_photos=statistics_photos,
        capacity=capacity,
        activation=activation,
        image_size=image_size,
        resize_size=resize_size,
        mean=mean,
        std=std,
        preprocessing_of=preprocessing_of,
        grid=grid,
        author=author,
        license=license_name,
        description=description,
        permits=tuple(permit) if permit else None,
    )
    _make_base(lambda on: pack_checkpoint(checkpoint, photos, output, chosen, on_progress=on), as_json)
