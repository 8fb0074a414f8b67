"""A trained classifier becomes a base without further training, and anything odd about it is reported."""

from __future__ import annotations

import importlib.util
import json
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lwm_edge import BaseConfig, PackConfig, build_base, evaluate, init_home, open_home, pack_checkpoint
from lwm_edge.base import adopt, examine
from lwm_edge.base.labels import check_folder_names, check_order, match_folders, read_labels
from lwm_edge.base.preprocessing import chosen_preprocessing
from lwm_edge.demo import DEMO_DATA
from lwm_edge.errors import ArchitectureError, ConfigError, PhotosError, StoppedError
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.tensors import RIGHT, TOTAL
from lwm_edge.records import Progress
from tests.support.pages import ROOT

CONFIG = PackConfig(architecture="small_resnet20", image_size=28, capacity=12, activation="sigmoid", grid=0)
NAMES = ("Coat", "Dress", "Pullover", "Sandal", "T-shirt", "Trouser")
LEARNT = DEMO_DATA / "train" / "base"
UNSEEN = DEMO_DATA / "test" / "base"


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    """Makes the demo's classifier, as examples/02_save_checkpoint.py does."""
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples" / "02_save_checkpoint.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    model: torch.nn.Module = example.trained_classifier()
    return model


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies ten photos of each class that the classifier was trained on."""
    return some_photos(tmp_path_factory.mktemp("few"), LEARNT, range(10))


def some_photos(folder: Path, source: Path, which: range) -> Path:
    for path in sorted(source.iterdir()):
        (folder / path.name).mkdir(parents=True)
        for photo in sorted(path.iterdir())[which.start : which.stop]:
            shutil.copy(photo, folder / path.name)
    return folder


def saved(model: torch.nn.Module, folder: Path, rows: list[int] | None = None) -> Path:
    """Saves a checkpoint, with its head's rows in another order if one is given."""
    state = dict(model.state_dict())
    if rows:
        state |= {name: state[name][rows] for name in ("fc.weight", "fc.bias")}
    torch.save({"state_dict": state}, folder / "c.pth")
    return folder / "c.pth"


@pytest.fixture
def only_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops packing before the base is measured and written, which takes longer than the checks."""

    def stop(*given: object, **named: object) -> None:
        raise StoppedError("the classifier was accepted")

    monkeypatch.setattr(adopt, "finish_base", stop)


def packs(checkpoint: Path, photos: Path, tmp_path: Path, **changes: object) -> None:
    pack_checkpoint(checkpoint, photos, tmp_path / "base.lwm", CONFIG.model_copy(update=changes))


@pytest.mark.slow
def test_a_classifier_is_packed_as_it_is_and_measured_on_unseen_photos(
    classifier: torch.nn.Module, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"unseen_photos": UNSEEN})
    report = pack_checkpoint(saved(classifier, tmp_path), LEARNT, tmp_path / "base.lwm", config)
    bundle = open_bundle(report.bundle)
    network = load_network(bundle)
    assert bundle.manifest.class_names == NAMES and report.training is None
    assert torch.equal(network.backbone.stem[0].weight, classifier.stem[0].weight)  # type: ignore[index, union-attr]
    assert report.unseen is not None and report.unseen.photos == 300
    assert report.statistics.accuracy.keys() == {"all", "unseen", "given", "trained"}
    arrays = bundle.arrays()
    assert arrays[TOTAL][:7].tolist() == [50] * 6 + [0]
    shares = arrays[RIGHT][:6] / 50
    assert report.unseen.per_class == pytest.approx(dict(zip(NAMES, shares.tolist(), strict=True)))
    init_home(report.bundle, tmp_path / "home")
    measured = evaluate(open_home(tmp_path / "home"), UNSEEN).accuracy
    assert measured == pytest.approx(report.unseen.accuracy, abs=0.02)
    if report.statistics.head == "trained":
        assert torch.equal(network.attention_weight, classifier.fc.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("needed", "apart", "expected"), [(0.9, 0.15, "varied"), (0.9, 1.0, "given"), (1.1, 0.15, "given")]
)
def test_without_unseen_photos_varied_copies_replace_learnt_photos(
    classifier: torch.nn.Module,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    needed: float,
    apart: float,
    expected: str,
) -> None:
    monkeypatch.setattr(examine, "NEARLY_ALL", needed)
    monkeypatch.setattr(examine, "BY_HEART", apart)
    report = pack_checkpoint(saved(classifier, tmp_path), few, tmp_path / "base.lwm", CONFIG)
    statistics = ClassStatistics.from_bundle(open_bundle(report.bundle))
    assert report.statistics.photos == expected and report.statistics.head == "trained"
    assert statistics.photos == report.learnt.photos == statistics.counts.sum()


@pytest.mark.slow
def test_without_unseen_photos_no_accuracy_is_claimed(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    report = pack_checkpoint(
        saved(classifier, tmp_path), few, tmp_path / "base.lwm", CONFIG, on_progress=seen.append
    )
    assert all(p.total > 1 or p.expected_seconds is not None for p in seen)  # so the time left can be shown
    told = Counter(p.phase for p in seen)
    assert told["photos"] == report.learnt.photos and told["features"] >= 2 * report.learnt.photos
    assert report.unseen is None and report.statistics.head == "trained"
    assert report.statistics.photos == "given" and not open_bundle(report.bundle).arrays()[TOTAL].any()
    assert any("accuracy on new photos is not known" in warning for warning in report.warnings)
    network = load_network(open_bundle(report.bundle))
    assert torch.equal(network.attention_weight, classifier.fc.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.usefixtures("only_checked")
def test_an_order_that_the_photos_contradict_is_refused_and_the_right_one_named(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    rows = [3, 0, 5, 1, 2, 4]
    checkpoint, order = saved(classifier, tmp_path, rows), [NAMES[row] for row in rows]
    with pytest.raises(ConfigError) as refused:
        packs(checkpoint, few, tmp_path)
    assert refused.value.message.endswith(f"in this order: {', '.join(order)}")
    (tmp_path / "labels.txt").write_text("\n".join(order) + "\n", encoding="utf-8")
    with pytest.raises(StoppedError):
        packs(checkpoint, few, tmp_path, labels=tmp_path / "labels.txt")
    with pytest.raises(ConfigError, match="contradict the order"):
        packs(saved(classifier, tmp_path), few, tmp_path, labels=tmp_path / "labels.txt")
    assert not (tmp_path / "base.lwm").exists()


@pytest.mark.usefixtures("only_checked")
def test_folders_as_a_mac_names_them_match_labels_in_any_unicode_form(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    """A decomposed É, as a Mac writes it, is sorted among the Es; a composed one comes after Z."""
    shutil.copytree(few, tmp_path / "photos")
    (tmp_path / "photos" / "Coat").rename(tmp_path / "photos" / unicodedata.normalize("NFD", "Écharpe"))
    order = ["Dress", "Écharpe", *NAMES[2:]]
    checkpoint = saved(classifier, tmp_path, [1, 0, 2, 3, 4, 5])
    with pytest.raises(ConfigError) as refused:
        packs(checkpoint, tmp_path / "photos", tmp_path)
    assert refused.value.message.endswith(f"in this order: {', '.join(order)}")
    (tmp_path / "labels.txt").write_text("\ufeff" + "\r\n".join(order), encoding="utf-8")
    with pytest.raises(StoppedError):
        packs(checkpoint, tmp_path / "photos", tmp_path, labels=tmp_path / "labels.txt")


@pytest.mark.usefixtures("only_checked")
def test_labels_and_folders_that_do_not_match_are_all_listed(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join([*NAMES[:4], "Shoe", "Hat"]), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        packs(saved(classifier, tmp_path), few, tmp_path, labels=tmp_path / "labels.txt")
    assert refused.value.problems == (
        "Shoe has no folder of photos",
        "Hat has no folder of photos",
        "the folder T-shirt belongs to none of these classes",
        "the folder Trouser belongs to none of these classes",
    )


def test_a_list_in_another_form_is_answered_with_the_right_form(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(NAMES), encoding="utf-8")
    with pytest.raises(ConfigError, match="one class name on each line and nothing else"):
        packs(saved(classifier, tmp_path), few, tmp_path, labels=tmp_path / "labels.json")
    (tmp_path / "labels.txt").write_text("Coat\nDress\n", encoding="utf-16-le")
    with pytest.raises(ConfigError, match=r"NUL bytes.*save it as UTF-8"):
        read_labels(tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("Coat\ncoat\nHat\nHat\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_labels(tmp_path / "labels.txt")
    assert refused.value.problems == ("'Coat' and 'coat' are the same class name", "'Hat' is listed 2 times")


@pytest.mark.parametrize("text", ["", "Coat\ncoat\n", "a/b\n", "x" * 65])
def test_a_file_that_is_not_a_list_of_labels_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not a list of class names"):
        read_labels(tmp_path / "labels.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path)


@pytest.mark.usefixtures("only_checked")
def test_a_base_never_replaces_a_file_that_it_is_made_from(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    checkpoint = saved(classifier, tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES), encoding="utf-8")
    (tmp_path / "link.pth").symlink_to(checkpoint)
    config = CONFIG.model_copy(update={"labels": tmp_path / "labels.txt", "unseen_photos": UNSEEN})
    for output in (
        checkpoint,
        tmp_path / "link.pth",
        tmp_path / "labels.txt",
        few / "Coat" / "000.png",
        UNSEEN / "Coat" / "base.lwm",
    ):
        before = checkpoint.read_bytes(), (few / "Coat" / "000.png").read_bytes()
        with pytest.raises(ConfigError, match="write the base elsewhere"):
            pack_checkpoint(checkpoint, few, output, config)
        assert before == (checkpoint.read_bytes(), (few / "Coat" / "000.png").read_bytes())
    with pytest.raises(ConfigError, match="write the base elsewhere"):
        build_base(few, checkpoint, BaseConfig(architecture="small_resnet20", checkpoint=checkpoint))


@pytest.mark.usefixtures("only_checked")
def test_a_whole_classifier_of_another_kind_is_recognised(few: Path, tmp_path: Path) -> None:
    torch.save(find_architecture("mobilenet_v3_small").build().state_dict(), tmp_path / "m.pth")
    with pytest.raises(ArchitectureError, match="this looks like mobilenet_v3_small"):
        packs(tmp_path / "m.pth", few, tmp_path)


@pytest.mark.usefixtures("only_checked")
def test_an_odd_head_is_described(classifier: torch.nn.Module, few: Path, tmp_path: Path) -> None:
    state = classifier.state_dict()
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    weight, bias = state["fc.weight"], state["fc.bias"]
    for head, said in (
        ({"fc.1.weight": weight, "fc.1.bias": bias, "fc.3.weight": weight}, "fc.1.weight is unknown"),
        ({"fc.weight": weight[:, :, None], "fc.bias": bias}, "fc.weight is [6, 64, 1], not"),
        ({"fc.weight": weight.sum(), "fc.bias": bias}, "fc.weight is [], not"),
        ({"fc.weight": weight[:, :32], "fc.bias": bias}, "fc.weight is [6, 32], not [6, 64]"),
    ):
        torch.save({**bare, **head}, tmp_path / "c.pth")
        with pytest.raises(ArchitectureError) as refused:
            packs(tmp_path / "c.pth", few, tmp_path)
        assert any(said in problem for problem in refused.value.problems), (said, refused.value.problems)
    torch.save({**state, "stem.0.weight": state["stem.0.weight"] * 1e38}, tmp_path / "c.pth")
    with pytest.raises(ArchitectureError, match="computes values that are not finite"):
        packs(tmp_path / "c.pth", few, tmp_path)


@pytest.mark.usefixtures("only_checked")
def test_an_image_that_is_too_small_for_the_network_is_refused(few: Path, tmp_path: Path) -> None:
    torch.save(find_architecture("densenet121").build().state_dict(), tmp_path / "d.pth")
    model = find_architecture("densenet121").build()
    model.classifier = torch.nn.Linear(1024, 6)
    torch.save(model.state_dict(), tmp_path / "d.pth")
    with pytest.raises(ConfigError, match="densenet121 cannot take images of 16 px"):
        packs(tmp_path / "d.pth", few, tmp_path, architecture="densenet121", image_size=16)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "divide values for 0 to 255 by 255"),
        ({"std": (58.4, 57.1, 57.4)}, "divide values for 0 to 255 by 255"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be above 0.001"),
        ({"author": "a\nb"}, "author: it contains control"),
        ({"description": "a\u202eb"}, "description: it contains characters that change"),
    ],
)
def test_settings_that_no_base_can_have_are_refused_at_once(settings: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError) as refused:
        PackConfig(architecture="resnet18", **settings)
    assert said in refused.value.problems[0]
    twice = PackConfig(architecture="resnet18", permits=("undo", "add-photos", "undo"))
    assert twice.permits == ("add-photos", "undo")


@pytest.mark.usefixtures("only_checked")
def test_a_head_with_more_classes_than_folders_is_refused(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    shutil.copytree(few, tmp_path / "photos")
    shutil.rmtree(tmp_path / "photos" / "Coat")
    with pytest.raises(ConfigError, match="has 6 classes, but the photos are in 5 folders"):
        packs(saved(classifier, tmp_path), tmp_path / "photos", tmp_path)


def test_a_classifier_that_is_no_better_than_chance_is_refused() -> None:
    with pytest.raises(ConfigError, match="recognises 25% of these photos, no better than chance"):
        check_order(np.zeros(40, np.int64), np.repeat(np.arange(4), 10), ("a", "b", "c", "d"))
    check_order(np.array([0, 0, 1]), np.array([0, 1, 1]), ("a", "b"))
    check_order(np.zeros(5, np.int64), np.zeros(5, np.int64), ("the only one",))


NUMBERED = tuple(f"class {number}" for number in range(20))


@pytest.mark.parametrize("confused", [0.0, 0.2])
@pytest.mark.parametrize(
    "rows",
    [[1, 0, *range(2, 20)], [*range(1, 18), 0, 18, 19], [*range(19, -1, -1)]],
    ids=["two of them swapped", "most of them shifted", "all of them reversed"],
)
def test_an_order_is_refused_even_if_only_some_classes_are_moved(rows: list[int], confused: float) -> None:
    labels = np.repeat(np.arange(20), 30)
    predictions = np.array(rows)[labels]
    chance = np.random.default_rng(0)
    some = chance.random(len(labels)) < confused
    predictions[some] = chance.integers(20, size=some.sum())
    predictions[labels == 5] = rows[6]  # one class is mistaken for its neighbour
    with pytest.raises(ConfigError) as refused:
        check_order(predictions, labels, NUMBERED)
    named = refused.value.message.partition("in this order: ")[2].split(", ")
    assert [rows[NUMBERED.index(name)] for name in named[:2]] == [0, 1] and sorted(named) == sorted(NUMBERED)


def test_a_few_photos_do_not_contradict_an_order() -> None:
    """Two classes that are often confused can look swapped if there are only three photos of each."""
    labels = np.repeat(np.arange(20), 3)
    predictions = labels.copy()
    predictions[:6] = [1, 1, 0, 0, 0, 1]
    check_order(predictions, labels, NUMBERED)


def test_a_classifier_that_always_gives_one_answer_is_refused_on_uneven_folders() -> None:
    with pytest.raises(ConfigError, match="recognises 25% of these photos, no better than chance"):
        check_order(np.zeros(130, np.int64), np.repeat(np.arange(4), [100, 10, 10, 10]), NUMBERED[:4])


def test_a_large_class_that_is_taken_for_a_small_one_contradicts_no_order() -> None:
    labels = np.repeat(np.arange(3), [100, 300, 100])
    predictions = np.where(labels == 1, 0, labels)
    predictions[:10] = 1
    check_order(predictions, labels, ("dog", "wolf", "cat"))


def test_confusions_contradict_no_order() -> None:
    labels = np.repeat(np.arange(20), 30)
    for confused in (0.3, 0.6, 0.8):
        chance = np.random.default_rng(1)
        some = chance.random(len(labels)) < confused
        predictions = np.where(some, chance.integers(20, size=len(labels)), labels)
        check_order(predictions, labels, NUMBERED)
    check_order(np.where(labels == 3, 4, labels), labels, NUMBERED)  # one class is mistaken for another


@pytest.mark.usefixtures("only_checked")
def test_photos_cannot_be_both_unseen_and_learnt(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    with pytest.raises(PhotosError, match="unseen photos are in another folder too") as refused:
        packs(saved(classifier, tmp_path), few, tmp_path, unseen_photos=few)
    assert len(refused.value.problems) == 21 and refused.value.problems[-1] == "and 40 more"
    with Image.open(next((few / "Coat").iterdir())) as photo:
        (tmp_path / "copies" / "Coat").mkdir(parents=True)
        photo.save(tmp_path / "copies" / "Coat" / "copy.bmp")
    with pytest.raises(PhotosError, match="unseen photos are in another folder too") as refused:
        packs(saved(classifier, tmp_path), few, tmp_path, unseen_photos=tmp_path / "copies")
    (copy,) = refused.value.problems
    assert "copy.bmp is the same photo as" in copy
    with pytest.raises(ConfigError, match="Shirt belongs to none of these classes"):
        packs(saved(classifier, tmp_path), few, tmp_path, unseen_photos=DEMO_DATA / "test" / "1")
    with pytest.raises(StoppedError):
        packs(saved(classifier, tmp_path), few, tmp_path, unseen_photos=UNSEEN)


@pytest.mark.usefixtures("only_checked")
@pytest.mark.parametrize("which", ["unseen_photos", "statistics_photos"])
def test_further_photos_in_swapped_folders_are_refused(
    which: str, classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    others = some_photos(tmp_path / "others", LEARNT, range(10, 35))
    for old, new in {"Coat": "-", "Sandal": "Coat", "-": "Sandal"}.items():
        (others / old).rename(others / new)
    with pytest.raises(PhotosError, match=r"others contradict the names of its folders") as refused:
        packs(saved(classifier, tmp_path), few, tmp_path, **{which: others})
    assert refused.value.problems == (
        "the photos in Coat look like Sandal",
        "the photos in Sandal look like Coat",
    )


def test_further_folders_need_not_show_every_class() -> None:
    labels = np.repeat(np.arange(3), 10)
    check_folder_names(Path("photos"), labels, labels, NUMBERED)
    check_folder_names(Path("photos"), np.full(30, 19), labels, NUMBERED)  # bad, but no order is better


def test_features_that_are_too_large_for_the_statistics_are_refused(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    state = dict(classifier.state_dict())
    for name in ("stage3.2.bn2.weight", "stage3.2.bn2.bias"):
        state[name] = state[name] * 1e20
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ArchitectureError, match="too large for class statistics"):
        packs(tmp_path / "c.pth", few, tmp_path)
    assert not (tmp_path / "base.lwm").exists()


@pytest.mark.usefixtures("only_checked")
def test_photos_for_the_statistics_must_show_every_class(
    classifier: torch.nn.Module, few: Path, tmp_path: Path
) -> None:
    others = some_photos(tmp_path / "others", LEARNT, range(10, 15))
    with pytest.raises(StoppedError):
        packs(saved(classifier, tmp_path), few, tmp_path, statistics_photos=others)
    shutil.rmtree(others / "Coat")
    with pytest.raises(ConfigError) as refused:
        packs(saved(classifier, tmp_path), few, tmp_path, statistics_photos=others)
    assert refused.value.problems == ("Coat has no folder of photos",) and "others" in refused.value.message
    with pytest.raises(PhotosError, match="cannot be used") as too_few:
        packs(saved(classifier, tmp_path), some_photos(tmp_path / "one", LEARNT, range(1)), tmp_path)
    assert "1 usable photo; at least 2 are needed" in too_few.value.problems[0]


def test_the_preprocessing_is_that_of_the_checkpoint() -> None:
    resnet = find_architecture("resnet18")

    def chosen(**settings: object) -> tuple[object, list[str]]:
        return chosen_preprocessing(resnet, PackConfig(architecture="resnet18", **settings))  # type: ignore[arg-type, union-attr]

    mean = (0.1, 0.2, 0.3)
    by_hand, warnings = chosen(mean=mean, std=(1, 1, 1), image_size=64, resize_size=70)
    assert by_hand == resnet.preprocessing.model_copy(
        update={"mean": mean, "std": (1.0, 1.0, 1.0), "image_size": 64, "resize_size": 70}
    )
    assert warnings == []
    named, warnings = chosen(preprocessing_of="ResNet50_Weights.IMAGENET1K_V2")
    assert named == resnet.preprocessing.model_copy(update={"resize_size": 232}) and not warnings
    _, warnings = chosen(preprocessing_of="EfficientNet_B0_Weights.IMAGENET1K_V1")
    assert "expects bicubic interpolation" in warnings[0]
    named, _ = chosen(preprocessing_of="ResNet18_Weights.IMAGENET1K_V1", image_size=112)
    assert named == resnet.preprocessing.model_copy(update={"image_size": 112, "resize_size": 128})
    named, _ = chosen(preprocessing_of="ResNet18_Weights.IMAGENET1K_V1", image_size=300, resize_size=320)
    assert named == resnet.preprocessing.model_copy(update={"image_size": 300, "resize_size": 320})
    segmentation, video = "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1", "R3D_18_Weights.KINETICS400_V1"
    for wrong in ("ResNet18_Weights.NONE", "nonsense", "", segmentation, video):
        with pytest.raises(ConfigError, match="no weights"):
            chosen(preprocessing_of=wrong)
    with pytest.raises(ConfigError) as refused:
        chosen(image_size=64, resize_size=32)
    assert "resize_size is smaller" in refused.value.problems[0]


def test_folders_match_labels_whatever_their_case() -> None:
    assert match_folders(Path(), ["apple", "PEAR"], ["Pear", "Apple"], "labels.txt") == [1, 0]
    assert match_folders(Path(), ["pear"], ["Pear", "Apple"], "x", all_needed=False) == [0]
