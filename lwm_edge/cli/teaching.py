"""Defines `add-classes` and `add-photos`, which teach the model from photos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import IncrementConfig
from ..errors import ConfigError
from . import display, pages, receipt
from .answer import open_chosen_home, show, with_progress
from .completion import complete_recipe
from .options import (
    DetailsOption,
    DryRunOption,
    ForceOption,
    FreshOption,
    HomeOption,
    JsonOption,
    MaxMemoryOption,
    MinPhotosOption,
    NameOption,
    PhotosArgument,
    SignWithOption,
    WaitOption,
    setting,
)
from .settings import increment_config, read_file_config
from .started import STARTED

if TYPE_CHECKING:
    from .. import Home

PageOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Also write a page with some of the photos, attention maps and mistakes.",
    ),
]


def add_classes_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    class_name: NameOption = None,
    recipe: Annotated[str | None, setting(IncrementConfig, "recipe", autocompletion=complete_recipe)] = None,
    instant: Annotated[bool | None, setting(IncrementConfig, "instant")] = None,
    time_budget: Annotated[
        float | None,
        setting(IncrementConfig, "time_budget_seconds", "--time-budget", metavar="SECONDS"),
    ] = None,
    beta: Annotated[float | None, setting(IncrementConfig, "beta")] = None,
    gamma: Annotated[float | None, setting(IncrementConfig, "gamma")] = None,
    epochs: Annotated[int | None, setting(IncrementConfig, "epochs")] = None,
    learning_rate: Annotated[float | None, setting(IncrementConfig, "learning_rate")] = None,
    batch_size: Annotated[int | None, setting(IncrementConfig, "batch_size")] = None,
    max_memory: MaxMemoryOption = None,
    frozen_blocks: Annotated[int | None, setting(IncrementConfig, "frozen_blocks")] = None,
    min_photos: MinPhotosOption = None,
    seed: Annotated[int | None, setting(IncrementConfig, "seed")] = None,
    device: Annotated[str | None, setting(IncrementConfig, "device")] = None,
    precision: Annotated[str | None, setting(IncrementConfig, "precision")] = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = None,
    force: ForceOption = None,
    sign_with: SignWithOption = None,
    page: PageOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach the model new classes, from photos of these classes alone (the main command).

    The model, its ONNX file, labels and receipt change together, in the last step. After an interruption, the
    same command, even without its options, continues any training that was saved.
    """
    from ..freed_memory import bound_allocator
    from ..increment.add import may_train

    chosen = increment_config(
        read_file_config(),
        class_name=class_name,
        recipe=recipe,
        instant=instant,
        time_budget_seconds=time_budget,
        beta=beta,
        gamma=gamma,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_memory=max_memory,
        frozen_blocks=frozen_blocks,
        min_photos=min_photos,
        seed=seed,
        device=device,
        precision=precision,
        fresh=fresh,
        force=force,
        sign_with=sign_with,
    )
    _refuse_with_dry_run(dry_run, {"--report": page, "--details": details})
    opened = open_chosen_home(home)
    isolate = may_train(opened, photos, chosen)
    if not isolate:
        bound_allocator()
    how: dict[str, Any] = {"isolate": isolate, "wait": wait, "started": STARTED}
    if dry_run:
        _show_plan(opened, photos, chosen, as_json, **how)
    else:
        _teach_new_classes(opened, photos, chosen, page, as_json, details, **how)


def _refuse_with_dry_run(dry_run: bool, options: dict[str, object]) -> None:
    """Refuses options about an increment that is not made."""
    if dry_run and (given := next((name for name, value in options.items() if value), None)):
        raise ConfigError(f"{given} needs an increment, but --dry-run makes none; leave one of them out")


def _show_plan(home: Home, photos: Path, config: IncrementConfig, as_json: bool, **how: Any) -> None:
    from .. import plan_increment

    plan = with_progress(lambda on: plan_increment(home, photos, config, on_progress=on, **how))
    show(plan, as_json, display.plan)


def _teach_new_classes(
    home: Home,
    photos: Path,
    config: IncrementConfig,
    page: Path | None,
    as_json: bool,
    details: bool,
    **how: Any,
) -> None:
    """Teaches new classes, and prints the receipt; with `page`, writes a page about them too."""
    printed = partial(receipt.new_classes, details=details)
    if page is None:
        from .. import add_classes

        report = with_progress(lambda on: add_classes(home, photos, config, on_progress=on, **how))
        show(report, as_json, printed, is_done=True)
        return
    from .. import add_classes_with_page

    taught = with_progress(
        lambda on: add_classes_with_page(home, photos, page, config, on_progress=on, **how)
    )
    show(taught.receipt, as_json, printed, is_done=True)
    if taught.page and not as_json:
        pages.page(taught.page)


def add_photos_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    class_name: NameOption = None,
    solve_head: Annotated[
        bool,
        typer.Option(
            "--solve-head",
            help="If the last layer was trained, replace it with one computed from the statistics.",
        ),
    ] = False,
    max_memory: MaxMemoryOption = None,
    min_photos: MinPhotosOption = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = None,
    force: ForceOption = None,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach the model more about classes that it knows; a photo that was given before counts again."""
    from .. import add_photos
    from ..freed_memory import bound_allocator

    chosen = increment_config(
        read_file_config(),
        class_name=class_name,
        max_memory=max_memory,
        min_photos=min_photos,
        fresh=fresh,
        force=force,
        sign_with=sign_with,
    )
    _refuse_with_dry_run(dry_run, {"--details": details})
    opened = open_chosen_home(home)
    bound_allocator()
    how: dict[str, Any] = {"solve_head": solve_head, "isolate": False, "wait": wait, "started": STARTED}
    if dry_run:
        _show_plan(opened, photos, chosen, as_json, more_photos=True, **how)
        return
    report = with_progress(lambda on: add_photos(opened, photos, chosen, on_progress=on, **how))
    show(report, as_json, partial(receipt.more_photos, details=details), is_done=True)
