"""A vendor's checkpoint is read in the usual wrappings, and no code in it ever runs."""

from __future__ import annotations

import errno
import gzip
import io
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lwm_edge.base.checkpoint import load_into, read_checkpoint
from lwm_edge.errors import ArchitectureError, ConfigError
from lwm_edge.model.architectures.registry import find_architecture

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return find_architecture("small_resnet20").build()


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _in_itself(state: State) -> dict[str, Any]:
    around: dict[str, Any] = {"model": state}
    return around | dict.fromkeys(("state_dict", "ema", "net"), around)


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "a wrapping that contains itself": lambda s: _in_itself(s),
    "a wrapping in a wrapping": lambda s: {"model": {"state_dict": s}},
    "DataParallel": lambda s: {"state_dict": prefixed(s, "module.")},
    "torch.compile": lambda s: prefixed(s, "_orig_mod."),
    "compiled, then parallel": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "Lightning": lambda s: {"state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(3)}},
    "weights of the loss beside the network": lambda s: {"weight": torch.ones(3), "state_dict": s},
    "an average alone": lambda s: {"ema": s},
    "an average's settings beside the weights": lambda s: {**s, "ema.decay": torch.tensor(0.9)},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(5), **prefixed(s, "module.")},
    "a model beside its average": lambda s: {"model": s, "ema": {n: t * 0 for n, t in s.items()}},
    "an attribute of a Lightning module": lambda s: {"state_dict": prefixed(s, "backbone.")},
    "an unusual key": lambda s: {"best": s, "optimizer": {"state": {}}},
    "a list": lambda s: [{"epoch": 3}, prefixed(s, "_forward_module.encoder.")],
    "a model beside its average, by prefix": lambda s: {
        **prefixed(s, "model."), **prefixed({n: t * 0 for n, t in s.items()}, "ema_model.")
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_common_wrappings_are_removed(wrapping: str, model: torch.nn.Module, tmp_path: Path) -> None:
    wanted = model.state_dict()
    torch.save(WRAPPINGS[wrapping](wanted), tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth", wanted)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_several_networks_in_unusual_places_are_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save({"student": state, "teacher": {n: t * 0 for n, t in state.items()}}, tmp_path / "c.pth")
    with pytest.raises(ConfigError, match="several networks that fit") as refused:
        read_checkpoint(tmp_path / "c.pth", state)
    assert refused.value.problems == ("one is in student", "one is in teacher")
    same_place = {"a": prefixed(state, "b."), "a.b": {n: t * 0 for n, t in state.items()}}
    torch.save(
        same_place | {f"{i}": {n: t * i for n, t in state.items()} for i in range(9)}, tmp_path / "c.pth"
    )
    with pytest.raises(ConfigError, match="several networks that fit") as refused:
        read_checkpoint(tmp_path / "c.pth", state)
    assert len(refused.value.problems) == 6


def test_equal_networks_in_unusual_places_are_one(model: torch.nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save({"best": state, "last": {n: t.clone() for n, t in state.items()}}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth", state).keys() == state.keys()


def test_the_rest_of_a_checkpoint_costs_little_time(model: torch.nn.Module, tmp_path: Path) -> None:
    state, began = model.state_dict(), time.process_time()
    torch.save({"losses": [0.5] * 200_000, "best": state}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth", state).keys() == state.keys()
    many = {f"{i}.{name}": torch.ones(1) for i in range(3000) for name in ("stem.0.weight", "fc.weight")}
    torch.save(many, tmp_path / "c.pth")
    read_checkpoint(tmp_path / "c.pth", ["stem.0.weight", "fc.weight", *"abcde"])
    assert time.process_time() - began < 8


def test_two_sets_of_weights_without_values_are_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "ema": {**state, "fc.weight": torch.eye(3).to_sparse()}}, tmp_path / "c.pth")
    with pytest.raises(ConfigError, match="not plain numbers"):
        read_checkpoint(tmp_path / "c.pth", state)


def test_a_replaced_head_may_be_under_any_prefix(tmp_path: Path) -> None:
    wanted = find_architecture("mobilenet_v2").build().state_dict()
    state = {name.replace("classifier.1.", "classifier."): tensor for name, tensor in wanted.items()}
    torch.save({"state_dict": prefixed(state, "backbone.")}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth", wanted, "classifier.1").keys() == wanted.keys()


@pytest.mark.parametrize(("factor", "count"), [(0, 1), (1, 0)])
def test_a_vendor_is_told_which_of_two_sets_of_weights_ships(
    factor: int, count: int, model: torch.nn.Module, tmp_path: Path
) -> None:
    state, notes = model.state_dict(), list[str]()
    torch.save({"model": state, "ema": {n: t * factor for n, t in state.items()}}, tmp_path / "c.pth")
    read_checkpoint(tmp_path / "c.pth", state, notes=notes)
    assert len(notes) == count and all("its moving average" in note for note in notes)


@pytest.mark.parametrize("place", ["fc.1", "fc.linear"])
def test_a_linear_layer_in_place_of_the_head_is_the_head(
    place: str, model: torch.nn.Module, tmp_path: Path
) -> None:
    state = model.state_dict()
    torch.save({n.replace("fc.", f"{place}."): t for n, t in state.items()}, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth", state, "fc")
    assert found.keys() == state.keys() and torch.equal(found["fc.weight"], state["fc.weight"])


def test_a_head_of_two_layers_is_named_as_what_differs(model: torch.nn.Module, tmp_path: Path) -> None:
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("fc.")}
    for layer in ("fc.0", "fc.2"):
        state |= {f"{layer}.weight": torch.ones(3, 3), f"{layer}.bias": torch.ones(3)}
    torch.save(state, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth", model.state_dict(), "fc")
    with pytest.raises(ArchitectureError, match="only the head differs; it must be one linear layer"):
        load_into(model, found, "small_resnet20", ())


def test_a_safetensors_file_is_read(model: torch.nn.Module, tmp_path: Path) -> None:
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(wanted, tmp_path / "c.safetensors")
    found = read_checkpoint(tmp_path / "c.safetensors", wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes()[:9000])
    with pytest.raises(ConfigError, match="a safetensors file that is damaged or cut short"):
        read_checkpoint(tmp_path / "c.safetensors", wanted)


def _zip_of(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(name, b"x")
    return content.getvalue()


def _torchscript() -> bytes:
    content = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), content)  # type: ignore[no-untyped-call]
    return content.getvalue()


OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.pth": (lambda: b"", "is empty"),
    "pointer.pth": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "page.pth": (lambda: b"\n<!DOCTYPE html><html>", "is a web page"),
    "c.pth.gz": (lambda: gzip.compress(b"x"), "is an archive"),
    "c.zip": (lambda: _zip_of("c.pth"), "is an archive"),
    "c.npz": (lambda: _zip_of("fc.weight.npy"), "NumPy's arrays"),
    "c.onnx": (lambda: b"\x08\x0a\x12\x07pytorch", "is an ONNX file"),
    "c.pt": (_torchscript, "torch.jit.load"),
}


def test_a_damaged_archive_is_called_damaged(model: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "c.pth")
    content = bytearray((tmp_path / "c.pth").read_bytes())
    where = content.rindex(b"PK\x06\x07") + 16  # the number of disks, in a record at the end
    content[where : where + 4] = b"\x09\0\0\0"
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        read_checkpoint(tmp_path / "c.pth", ["weight"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    make, said = OTHERS[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_checkpoint(tmp_path / name, ["weight"])


def test_weights_that_are_not_finite_are_named(model: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["stem.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ConfigError, match="not finite") as refused:
        read_checkpoint(tmp_path / "c.pth", state)
    assert refused.value.problems == ("stem.0.weight",)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/lwm-edge-pickle-was-run"),)  # type: ignore[return-value]


def test_pickled_code_never_runs_and_its_type_is_named(tmp_path: Path) -> None:
    torch.save({"weight": _Evil()}, tmp_path / "evil.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Evil()))
    torch.save({"weight": np.float64(1.0)}, tmp_path / "numpy.pth")
    for name, said in {
        "evil.pth": "object of type getattr",
        "whole.pth": "object of type torch.nn.modules.linear.Linear",
        "plain.pth": "cannot be read",
        "numpy.pth": "object of type numpy",
    }.items():
        with pytest.raises(ConfigError) as refused:
            read_checkpoint(tmp_path / name, ["weight"])
        assert "weights_only" not in str(refused.value)  # torch's own message advises switching this off
        assert said in str(refused.value) and str(refused.value).isprintable()
        assert "save a state dict with torch.save(model.state_dict(), ...)" in str(refused.value)
    assert not Path("/tmp/lwm-edge-pickle-was-run").exists()


def test_the_name_of_a_refused_type_is_made_printable(tmp_path: Path) -> None:
    for name, said in {
        b"o\x1b[31ms\nsystem": "'o\\x1b[31ms.system'",
        b"a" * 999 + b"\nb": "a" * 80 + "...",
    }.items():
        with zipfile.ZipFile(tmp_path / "c.pth", "w") as file:
            file.writestr("c/data.pkl", b"\x80\x02c" + name + b"\nX\x02\x00\x00\x00ls\x85R.")
            file.writestr("c/version", "3")
        with pytest.raises(ConfigError) as refused:
            read_checkpoint(tmp_path / "c.pth", ["weight"])
        assert f"holds an object of type {said}, which" in refused.value.message


def test_a_newer_pickle_protocol_is_given_as_the_reason(model: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "c.pth", pickle_protocol=4)
    with pytest.raises(ConfigError, match="a newer pickle protocol than torch's default"):
        read_checkpoint(tmp_path / "c.pth", [])


@pytest.mark.parametrize("content", [{}, {"model": {"x": 1}}, [1, 2], {"epoch": torch.tensor(3)}])
def test_checkpoints_without_a_network_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ConfigError, match="holds no state dict"):
        read_checkpoint(tmp_path / "c.pth", ["weight"])


def test_wrappings_nested_too_deeply_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content: dict[str, object] = {}
    for _ in range(5000):
        content = {"model": content}
    (tmp_path / "c.pth").touch()
    # Torch's unpickler does not limit the depth, so a file could contain this.
    monkeypatch.setattr(torch, "load", lambda *given, **named: content)
    with pytest.raises(ConfigError, match="holds no state dict"):
        read_checkpoint(tmp_path / "c.pth", ["weight"])


def test_the_keys_of_a_useless_checkpoint_are_listed(model: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({"best": model.state_dict(), "e\x1b[31mpoch": 3}, tmp_path / "c.pth")
    with pytest.raises(ConfigError) as refused:
        read_checkpoint(tmp_path / "c.pth", ["another.weight"])
    assert "(it has: best, 'e\\x1b[31mpoch')" in refused.value.message
    torch.save({"x" * 300_000 + ".weight": torch.full((2,), torch.nan)}, tmp_path / "c.pth")
    with pytest.raises(ConfigError) as refused:
        read_checkpoint(tmp_path / "c.pth", ["weight"])
    assert len(str(refused.value)) < 1000


def test_a_missing_or_damaged_file_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        read_checkpoint(tmp_path / "none.pth", [])
    torch.save(model.state_dict(), tmp_path / "c.pth")
    (tmp_path / "c.pth").write_bytes((tmp_path / "c.pth").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="damaged or cut short; copy or download it again"):
        read_checkpoint(tmp_path / "c.pth", [])


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    torch.save({"weight": torch.zeros(1)}, tmp_path / "c.pth")
    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(OSError, match="Input/output error"):  # `build_base` says what to do
        read_checkpoint(tmp_path / "c.pth", ["weight"])


def test_another_network_is_summarised_and_recognised() -> None:
    other, resnet = (find_architecture(name).build() for name in ("resnet50", "resnet18"))
    with pytest.raises(ArchitectureError) as refused:
        load_into(resnet, other.state_dict(), "resnet18", ())
    assert "this looks like resnet50, so try --arch resnet50" in refused.value.message
    with pytest.raises(ArchitectureError, match="this looks like resnet50"):
        load_into(resnet, prefixed(other.state_dict(), "net.backbone."), "resnet18", ())
    assert len(refused.value.problems) <= 8 and any(
        "tensors are unknown" in p for p in refused.value.problems
    )
    partial = {name: tensor for name, tensor in resnet.state_dict().items() if "layer3" not in name}
    with pytest.raises(ArchitectureError) as refused:
        load_into(resnet, partial, "resnet18", ())
    assert refused.value.problems == ("25 tensors are missing, all under layer3",)


def test_another_network_is_recognised_without_its_head() -> None:
    other, mobile = (find_architecture(name).build() for name in ("efficientnet_b0", "mobilenet_v2"))
    head = ("classifier.1.weight", "classifier.1.bias")
    with pytest.raises(ArchitectureError, match="this looks like efficientnet_b0"):
        load_into(mobile, other.state_dict(), "mobilenet_v2", head)


def test_the_architecture_that_was_chosen_is_not_suggested_again(model: torch.nn.Module) -> None:
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "fc.bias"}
    with pytest.raises(
        ArchitectureError, match="only the head differs; it must be one linear layer"
    ) as refused:
        load_into(model, state, "small_resnet20", ())
    assert "--arch" not in refused.value.message and refused.value.problems == ("fc.bias is missing",)


def test_a_tensor_of_another_shape_is_named(model: torch.nn.Module) -> None:
    state = {**model.state_dict(), "stem.0.weight": torch.zeros(2, 2)}
    with pytest.raises(ArchitectureError) as refused:
        load_into(model, state, "small_resnet20", ())
    assert refused.value.problems[0].startswith("stem.0.weight is [2, 2], not [")


ODD = {
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.ones(3, device="meta"),
    "bool": torch.ones(3, dtype=torch.bool),
    "complex": torch.ones(3, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_plain_numbers_are_named(
    kind: str, model: torch.nn.Module, tmp_path: Path
) -> None:
    state = {**model.state_dict(), "stem.0.weight": ODD[kind]}
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ConfigError, match=r"not plain numbers|cannot be read") as refused:
        read_checkpoint(tmp_path / "c.pth", state)
    assert not refused.value.problems or refused.value.problems[0].startswith("stem.0.weight is ")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, model: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(
        {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()},
        tmp_path / "c.pth",
    )
    found = read_checkpoint(tmp_path / "c.pth", model.state_dict())
    assert found["stem.0.weight"].dtype == torch.float32
    torch.testing.assert_close(
        found["stem.0.weight"], model.state_dict()["stem.0.weight"], rtol=0.01, atol=1e-3
    )
    torch.save(
        {**model.state_dict(), "fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}, tmp_path / "c.pth"
    )
    with pytest.raises(ConfigError, match="not finite"):
        read_checkpoint(tmp_path / "c.pth", model.state_dict())


def test_the_older_names_in_torchvisions_densenet_files_are_understood() -> None:
    model = find_architecture("densenet121").build()
    older = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
        for name, tensor in model.state_dict().items()
    }
    assert older.keys() != model.state_dict().keys()
    load_into(find_architecture("densenet121").build(), older, "densenet121", ())
