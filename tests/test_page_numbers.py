"""Checks that numbers, names and lists in the pages agree with the code."""

from __future__ import annotations

import re

import pytest
import typer

import lwm_edge
from lwm_edge import BaseConfig, IncrementConfig, errors, memory
from lwm_edge.base.choose_levels import GRIDS, MAX_INPUTS
from lwm_edge.base.measure import BY_HEART, NEARLY_ALL
from lwm_edge.base.observing import PHOTOS_AT_ONCE
from lwm_edge.cli import settings as cli_settings
from lwm_edge.cli.commands import app
from lwm_edge.cli.settings import FileConfig, increment_config
from lwm_edge.custody.keys import _PRIVATE_MODE
from lwm_edge.demo import BASE_BUNDLE, BASE_CLASSES, DEMO_DATA, INCREMENTS
from lwm_edge.home.export import _MAX_CALIBRATION_PHOTOS, _MIN_AGREEMENT, _MIN_PHOTOS
from lwm_edge.home.ownership import CURRENT, GENERATION_FILES, GENERATIONS, LOCK, PREVIOUS, TRAINING, TRUST
from lwm_edge.increment import doctor, judgement, plan, shipped
from lwm_edge.increment.approach import _LEAST_BYTES_FOR_TRAINING, count_features
from lwm_edge.increment.gate import _LEAST_SHARE_REMEMBERED
from lwm_edge.increment.job import _FEWEST_BATCHES_TO_KEEP_MEMORY
from lwm_edge.increment.resume import SECONDS_BETWEEN_SAVES
from lwm_edge.learning.config import _PHOTOS_PER_FEATURE, GATE_SETTINGS, RECIPES
from lwm_edge.model import onnx_file, terms, unknown
from lwm_edge.model.architectures.registry import _FAMILIES
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.custody_record import LINKS_KEPT
from lwm_edge.model.ledger import LEDGER_LENGTH
from lwm_edge.model.manifest import SCHEMA_VERSION
from lwm_edge.model.network import _FEW_CELLS
from lwm_edge.model.onnx.checks import IR_VERSION, OPSET
from lwm_edge.model.onnx.variants import UNUSED_BIAS
from lwm_edge.model.onnx_file import HEAD_INPUTS
from lwm_edge.pages import moment
from lwm_edge.photos import guard, opening, reading
from lwm_edge.photos.class_names import MAX_CLASS_NAME_BYTES
from lwm_edge.photos.decoder_process import MIN_BYTES
from lwm_edge.photos.listing import LISTED
from lwm_edge.proofs.trends import MEMORY_TOLERANCE, MIN_INCREMENTS
from tests.support.pages import PAGES, ROOT, blocks, code_spans, prose, read, rows, section

DEPLOY, EXAMPLES, TESTS = "deploy/README.md", "examples/README.md", "tests/README.md"
LEARNT, BASE = IncrementConfig(), BaseConfig(architecture="small_resnet20")
PROJECT = cli_settings.tomllib.loads(read("pyproject.toml"))["project"]  # type: ignore[attr-defined]


def _least(package: str, requirements: list[str]) -> str:
    (found,) = (r.partition(">=")[2] for r in requirements if r.startswith(f"{package}>="))
    return found


MEGA, FEATURES = 1_000_000, count_features(open_bundle(BASE_BUNDLE))
NUMBERS_ON_PAGES = [
    (DEPLOY, f"at least {LEARNT.min_photos} usable photos"),
    (DEPLOY, f"up to {guard.MAX_PIXELS // MEGA} megapixels"),
    (DEPLOY, f"a JPEG up to {guard.MAX_JPEG_PIXELS // MEGA}"),
    (DEPLOY, f"a progressive one up to {guard.MAX_PROGRESSIVE_PIXELS // MEGA}"),
    (DEPLOY, f"WebP up to {guard.MAX_WEBP_PIXELS // MEGA}"),
    (DEPLOY, f"A file may be up to {guard.MAX_FILE_BYTES // 2**20} MiB"),
    (DEPLOY, f"photo takes at most {guard.MAX_MEMORY_BYTES // guard.MIB} MiB of memory"),
    (DEPLOY, f"MiB of memory and {guard.MAX_SECONDS} seconds of processor time"),
    (DEPLOY, f"up to {guard.MAX_METADATA_BYTES // guard.MIB} MiB of metadata"),
    (DEPLOY, f"may take up to {guard.MAX_METADATA_READS:,} reads"),
    (DEPLOY, f"suggest that they might take more than {guard.MAX_BYTES_HERE // guard.MIB} MiB (such as"),
    (DEPLOY, f"some {guard.MAX_BYTES_HERE // 12 // MEGA - 2} megapixels), are decoded in a second process"),
    (DEPLOY, f"leaves less than {MIN_BYTES // guard.MIB} MiB, photos that may take more than"),
    (DEPLOY, f"may take more than {reading._ALWAYS_HERE // guard.MIB} MiB are not tried"),
    (TESTS, f"at most {guard.MAX_MEMORY_BYTES // guard.MIB} MiB for each"),
    (
        DEPLOY,
        f"Each counts as {guard.MAX_BYTES_HERE // guard.MIB} MiB, and the second process described below as "
        f"{guard.MAX_MEMORY_BYTES // guard.MIB} MiB",
    ),
    (
        TESTS,
        f"({opening._SCANS_BLOCK // 1024} KiB for a JPEG, or {opening._ONE_SCAN_BLOCK // 1024} KiB if it has "
        "a single scan)",
    ),
    (DEPLOY, f"at most {MAX_CLASS_NAME_BYTES} bytes of UTF-8"),
    (DEPLOY, f"{LEARNT.held_back:.0%} of the photos of each class are held back"),
    (DEPLOY, f"falls below {_LEAST_SHARE_REMEMBERED:.0%} of the vendor's"),
    (DEPLOY, f"there must be at least {_PHOTOS_PER_FEATURE} photos to learn from"),
    (DEPLOY, f"with the demo's base, {_PHOTOS_PER_FEATURE * FEATURES} photos"),
    (DEPLOY, f"fewer than {_PHOTOS_PER_FEATURE} photos for each value"),
    (DEPLOY, f"at least {_LEAST_BYTES_FOR_TRAINING // 2**20} MiB of memory may be used"),
    (DEPLOY, f"ends within {LEARNT.time_budget_seconds:.0f} seconds (`--time-budget SECONDS`)"),
    ("README.md", f"if that takes at most {LEARNT.time_budget_seconds / 60:.0f} minutes"),
    (DEPLOY, f"`lwm-lda` trains the network at a rate of {RECIPES['lwm-lda'].learning_rate}"),
    (DEPLOY, f"make {LEARNT.epochs} passes over the photos"),
    (DEPLOY, f"{LEARNT.batch_size} photos an update"),
    (DEPLOY, f"`finetune` is {RECIPES['lwm'].learning_rate} for the network"),
    (DEPLOY, f"and {RECIPES['lwm'].head_learning_rate} for the last layer. The paper has"),
    (DEPLOY, f"already takes, plus {plan.SHARE_OF_AVAILABLE:.0%} of the memory that is free"),
    (DEPLOY, f"{memory.ASSUMED_BYTES // 2**20} MiB is assumed"),
    (DEPLOY, f"{_FEWEST_BATCHES_TO_KEEP_MEMORY} updates or more"),
    (DEPLOY, f"if training would take {plan._SECONDS_WORTH_A_TRIAL:.0f} seconds or more"),
    (DEPLOY, f"if that needs at most {plan._CLEARLY_FASTER:.0%} of the time"),
    (DEPLOY, f"Training is saved every {SECONDS_BETWEEN_SAVES:.0f} seconds"),
    (DEPLOY, f"and the latest {LEDGER_LENGTH}, and the maximum of each"),
    (DEPLOY, f"at least {MIN_INCREMENTS}; "),
    (DEPLOY, f"within {MEMORY_TOLERANCE:.0%} of the second increment's"),
    (DEPLOY, f"mode 0{_PRIVATE_MODE:o}"),
    (DEPLOY, f"the latest {LINKS_KEPT} changes"),
    (DEPLOY, f"after more than {LINKS_KEPT} changes, from the oldest one"),
    (DEPLOY, f"`info --history` lists the latest {LINKS_KEPT} changes"),
    (DEPLOY, f"stays in the record until {LINKS_KEPT} more changes are made"),
    (DEPLOY, f"It is opset {OPSET} with IR version {IR_VERSION},"),
    (DEPLOY, f"ONNX Runtime {_least('onnxruntime', PROJECT['dependencies'])} and TensorRT"),
    (DEPLOY, f"a bias of {UNUSED_BIAS:,.0f}"),
    (DEPLOY, f"with at least {_MIN_PHOTOS} photos that"),
    (DEPLOY, f"up to {_MAX_CALIBRATION_PHOTOS}, calibrates `--int8`"),
    (DEPLOY, f"at least {_MIN_AGREEMENT['fp16']:.0%} (`--fp16`) or {_MIN_AGREEMENT['int8']:.0%}"),
    (DEPLOY, f"bundle schema version {SCHEMA_VERSION}"),
    (DEPLOY, f"with exit code {errors.GateError.exit_code}"),
    (DEPLOY, f"no better than chance, judged by at least {judgement._TOO_FEW} photos"),
    (
        DEPLOY,
        f"less than {judgement._RARELY_RECOGNISED_SHARE:.0%} of its photos, "
        f"or that has fewer than {judgement._TOO_FEW}",
    ),
    (DEPLOY, f"of which {judgement.LOOKALIKE_SHARE:.0%} of the photos or more"),
    (DEPLOY, f"and fewer than {judgement._FEW_DIFFERENT} are different"),
    (DEPLOY, f"more than {judgement._UNKNOWN_SHARE:.0%} of the photos would be called [unknown]"),
    (DEPLOY, f"An interval wider than {shipped._WIDEST * 100:.0f} points"),
    (DEPLOY, f"has fallen by more than {shipped._LOSS_WORTH_A_WARNING * 100:.0f} percentage points"),
    (DEPLOY, f"are below {doctor._BLACK:.0f} of 255, or even its darkest ones above {doctor._WHITE:.0f}"),
    (DEPLOY, f"less than {doctor._BLURRED_RATIO:.0%} of the sharpness"),
    (DEPLOY, f"With fewer than {doctor._FEWEST} photos"),
    (DEPLOY, f"one has {judgement._UNEQUAL_RATIO} times as many photos"),
    (DEPLOY, f"For each class, there are at most {LISTED} lines"),
    (DEPLOY, f"**Such a page holds photos**, up to {moment._PICTURES + moment._MISTAKES},"),
    (DEPLOY, f"the threshold *keeps* {terms.KEPT:.0%} of the photos of known classes"),
    (DEPLOY, f"`--keep` chooses another share: {unknown.listed_shares()}."),
    (DEPLOY, f"if there are {unknown.fewest_photos(terms.KEPT)} or more"),
    (DEPLOY, f"With fewer than {unknown.fewest_photos(terms.KEPT)} photos in all"),
    (DEPLOY, f"and at most {cli_settings._MAX_BYTES // 2**20} MiB long"),
    (DEPLOY, f"the others are classified, and the exit code is {errors.SOME_PHOTOS_FAILED}"),
    (DEPLOY, f"exits with {errors.BusyError.exit_code}"),
    (
        DEPLOY,
        f'Exit code {errors.BusyError.exit_code} means "try again later", {errors.StoppedError.exit_code}',
    ),
    (DEPLOY, f"`verify` exits with {errors.TrustError.exit_code}"),
    (DEPLOY, f"it is refused (exit code {errors.TrustError.exit_code})"),
    (DEPLOY, f"torch {_least('torch', PROJECT['dependencies'])} or newer"),
    (DEPLOY, f"torch {_least('torch', PROJECT['optional-dependencies']['vendor'])} or newer"),
    (DEPLOY, f"### {lwm_edge.__version__}"),
    (EXAMPLES, f"The default is {BASE.capacity}."),
    (EXAMPLES, f"The default is {BASE.epochs} epochs"),
    (EXAMPLES, f"at most {MAX_INPUTS} values"),
    (EXAMPLES, f"grids of {', '.join(f'{g}x{g}' for g in GRIDS[:-1])} and {GRIDS[-1]}x{GRIDS[-1]} cells"),
    (EXAMPLES, f"Attention maps work best with {_FEW_CELLS**0.5:g}x{_FEW_CELLS**0.5:g} cells"),
    (EXAMPLES, f"The default of `build-base`, `{BASE.activation}`"),
    (
        EXAMPLES,
        f"recognises {NEARLY_ALL:.0%} or more of the photos, but over {BY_HEART * 100:.0f} percentage points",
    ),
    (EXAMPLES, f"more than {BY_HEART * 100:.0f} percentage points lower on the unseen ones"),
    (EXAMPLES, f"are in memory for {PHOTOS_AT_ONCE:,} photos at a time"),
    (EXAMPLES, f"an even selection of at most {PHOTOS_AT_ONCE:,} photos"),
    ("README.md", f"Python {PROJECT['requires-python'].removeprefix('>=')} to"),
    ("README.md", f"{len(list((DEMO_DATA / 'test' / '2' / 'Bag').iterdir()))} test photos per class"),
    (TESTS, f"{guard.MAX_PIXELS // MEGA} megapixels, read"),
    (TESTS, f"photos: {guard.MAX_WEBP_PIXELS // MEGA} megapixels, read"),
]


@pytest.mark.parametrize(("page", "text"), NUMBERS_ON_PAGES)
def test_a_number_in_a_page_is_the_one_in_the_code(page: str, text: str) -> None:
    assert text in prose(page)


def test_numbers_in_words() -> None:
    words = {4: "four", 6: "six"}
    taught = words[sum(map(len, INCREMENTS))]
    assert f"teaches {taught} classes to a small model that knows {words[len(BASE_CLASSES)]}" in prose(
        "README.md"
    )
    source = (ROOT / "lwm_edge" / "photos" / "guard.py").read_text()
    assert "fifty times" in source and "50 times as long as it is wide" in prose(DEPLOY)
    always, _, _ = opening.KNOWN_FORMATS.partition(", AVIF")
    assert f"{' and '.join(always.rsplit(', ', 1))} are always read. AVIF" in prose(DEPLOY)


def test_the_exit_codes_are_the_errors() -> None:
    listed = {int(code) for code, _ in rows(section(DEPLOY, "Exit codes"))}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.LwmEdgeError)]
    assert {kind.exit_code for kind in kinds} | {0, errors.SOME_PHOTOS_FAILED} == listed


def test_the_commands_are_all_listed() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    listed = [cells[0].strip("`").split()[1] for cells in rows(section(DEPLOY, "Commands"))]
    assert sorted(listed) == sorted(commands)
    options = {name: {o for parameter in c.params for o in parameter.opts} for name, c in commands.items()}
    assert all("--json" in of_command for of_command in options.values())
    waiting = re.search(r"`--wait` \((.*?)\)", prose(DEPLOY))
    assert waiting and set(re.findall(r"[\w-]+", waiting[1])) == {
        n for n in options if "--wait" in options[n]
    }


def test_the_recipes_and_the_gate_are_all_listed() -> None:
    recipes = {cells[0].strip("`").partition("`")[0] for cells in rows(section(DEPLOY, "Recipes"))}
    assert recipes == {*RECIPES, "auto"} and "`auto` (default)" in read(DEPLOY) and LEARNT.recipe == "auto"
    assert {cells[0].strip("`") for cells in rows(section(DEPLOY, "The gate"))} == set(GATE_SETTINGS)
    assert all(getattr(LEARNT, name) is None for name in GATE_SETTINGS)
    trained = {name for name, recipe in RECIPES.items() if recipe.head == "trained"}
    assert len({(RECIPES[name].learning_rate, RECIPES[name].head_learning_rate) for name in trained}) == 1
    solved = ["auto", *sorted(name for name, recipe in RECIPES.items() if recipe.head == "solved")]
    assert f"solved ({', '.join(f'`{name}`' for name in solved)})" in prose(DEPLOY) and len(trained) == 3


def test_the_files_of_a_home_are_all_listed() -> None:
    listed = {cells[0].strip("`") for cells in rows(section(DEPLOY, "The home"))}
    files = {f"{GENERATIONS}/00000000/{name}" for name in (*GENERATION_FILES, PREVIOUS)}
    assert listed == {CURRENT, TRAINING, LOCK, TRUST, *files}


def test_the_onnx_file_is_described() -> None:
    keys = [value for name, value in vars(onnx_file).items() if name.endswith("_KEY")]
    described = section(EXAMPLES, "Load the classifier in an app")
    assert all(f"`{key}`" in described for key in keys)
    names = (onnx_file.INPUT, onnx_file.LOGITS, onnx_file.PROBABILITIES)
    assert [cells[1].strip("`") for cells in rows(described)][:3] == list(names)


def test_the_architectures_are_all_listed() -> None:
    made = section(EXAMPLES, "Make a base")
    assert all(f"`{family}`" in made for family in _FAMILIES)
    registered = lwm_edge.architecture_names()
    assert {"small_resnet20", "small_resnet32", "efficientnet_lite0"} <= set(registered)


def test_extras_that_pages_name_exist() -> None:
    for page in PAGES:
        for extra in re.findall(r"\.\[(\w+)\]", read(page)):
            assert extra in PROJECT["optional-dependencies"], f"{page}: {extra}"


def test_libraries_that_pages_say_to_install_belong_to_extras() -> None:
    extras = {name for of in PROJECT["optional-dependencies"].values() for name in map(_distribution, of)}
    commands = {span for page in PAGES for span in code_spans(page) if re.match(r"pip install [a-z]", span)}
    named = {library for command in commands for library in command.split()[2:]}
    assert len(named) > 4 and named - {"sympy"} <= extras


def _distribution(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0]


def test_the_settings_file_on_the_page_can_be_used() -> None:
    (text,) = (b.text for b in blocks(DEPLOY) if b.language == "toml")
    settings = FileConfig.model_validate(cli_settings.tomllib.loads(text))  # type: ignore[attr-defined]
    chosen = increment_config(settings)
    assert (
        settings.home
        and chosen.changed_training_settings() == []
        and chosen.sign_with
        and chosen.min_new_accuracy == 0.8
    )


def test_settings_that_pages_name_exist() -> None:
    known = {*IncrementConfig.model_fields, *BaseConfig.model_fields, HEAD_INPUTS}
    for page in (DEPLOY, EXAMPLES):
        for span in code_spans(page):
            if re.fullmatch(r"(min|max|head|learning|sign|held)_\w+", span):
                assert span in known, f"{page}: {span}"


def test_the_sums_under_the_tables_of_faults_are_right() -> None:
    hostile = rows(section(TESTS, "Hostile input"))
    tried = [int(count.replace(",", "")) for _, count, _ in hostile]
    photos = [i for i, cells in enumerate(hostile) if cells[0].startswith("photos:")]
    assert f"The first nine rows are {sum(tried[:9]):,} mutated bundles" in prose(TESTS)
    assert f"The first fourteen rows are {sum(tried[photos[0] : photos[0] + 14])} single photos" in prose(
        TESTS
    )
    counts = [cells[1] for cells in rows(section(TESTS, "Kills and power cuts")) if "power cuts" in cells[1]]
    numbers = [n for cell in counts for n in re.findall(r"([\d,]*\d) (?:kills|power)", cell)]
    outcomes = sum(int(number.replace(",", "")) for number in numbers)
    assert f"the {outcomes:,} outcomes above" in prose(TESTS)


def test_requirements_instant_lists_the_dependencies_without_torch() -> None:
    listed = read("deploy/requirements-instant.txt").splitlines()
    without = [line.replace("'", '"') for line in PROJECT["dependencies"] if not line.startswith("torch")]
    assert [line for line in listed if line and not line.startswith("#")] == without
