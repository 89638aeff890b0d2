"""Tensors that are read from their files when asked for, and files that are written in parts."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pistole.errors import UserError
from pistole.files import sha256_file
from pistole.models.stream_writer import Slot, data_order, require_room, write_stream
from pistole.models.streams import find_weights, open_state, size_of
from tests.unit.own_checkpoints import OPEN_CLIP, state_of, write_shards


def mixed() -> dict[str, torch.Tensor]:
    state = state_of({"a": (3, 5), "b.c": (), "empty": (0, 2), "z": (7,)}, 0)
    return {
        **state,
        "half": state["a"].half(),
        "brain": state["a"].bfloat16(),
        "double": state["a"].double(),
        "count": torch.tensor([1, 2**40]),
        "flag": torch.tensor([True, False, True]),
    }


@pytest.mark.parametrize("kind", ["file", "shards", "pickle", "old pickle"])
def test_every_part_of_every_tensor_is_read_as_it_was_written(tmp_path: Path, kind: str):
    state = mixed()
    if kind == "shards":
        place = write_shards(tmp_path, state, count=3)
    elif kind == "file":
        place = tmp_path / "x.safetensors"
        save_file(state, place)
    else:
        place = tmp_path / "x.pt"
        torch.save({"state_dict": state}, place, _use_new_zipfile_serialization=kind == "pickle")
    with open_state(place, allow_pickle=True) as opened:
        assert opened.tensors.keys() == state.keys()
        for name, value in state.items():
            stored, size = opened.tensors[name], value.numel()
            assert (stored.dtype, stored.shape, size_of(stored)) == (value.dtype, value.shape, size)
            for start, stop in ((0, size), (size // 2, size), (min(1, size), min(3, size))):
                part = stored.read(start, stop)
                assert part.dtype == value.dtype
                assert torch.equal(part, value.reshape(-1)[start:stop])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_changing_what_was_read_changes_no_second_reading(tmp_path: Path, suffix: str):
    place = tmp_path / f"x.{suffix}"
    state = {"w": torch.ones(4)}
    save_file(state, place) if suffix == "safetensors" else torch.save(state, place)
    with open_state(place, allow_pickle=True) as opened:
        opened.tensors["w"].read(0, 4).zero_()
        assert opened.tensors["w"].read(0, 4).tolist() == [1, 1, 1, 1]


def test_a_folder_stands_for_its_weights(tmp_path: Path):
    for name in ("pytorch_model.bin", "visual.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_text("x")
        assert find_weights(tmp_path).name == name  # each goes before those written until then


def broken(tmp_path: Path, how: str) -> Path:
    state = state_of(OPEN_CLIP, 0)
    file = tmp_path / "x.safetensors"
    save_file(state, file)
    if how == "pickle":
        torch.save(state, file)
    elif how == "no such file":
        return tmp_path / "nothing"
    elif how == "no weights":
        file.unlink()
        return tmp_path
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif how == "cut header":
        file.write_bytes(file.read_bytes()[:20])
    elif how == "text":
        file.write_text("no tensors here, but some words")
    elif how == "empty":
        file.write_text("")
    else:
        index = write_shards(tmp_path, state)
        if how == "no shard":
            (tmp_path / "model-00002-of-00002.safetensors").unlink()
        elif how == "other shard":
            save_file(state, tmp_path / "model-00001-of-00002.safetensors")
        else:
            index.write_text("[]")
        return index
    return file


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", "is a pickle, which can run code: .* --allow-pickle"),
        ("no such file", "does not exist: give a checkpoint's file or folder"),
        ("no weights", "holds no weights .* give their file"),
        ("cut", "is truncated or not safetensors"),
        ("cut header", "is truncated or not safetensors"),
        ("text", "is truncated or not safetensors"),
        ("empty", "is truncated or not safetensors"),
        ("no shard", r"model-00002-of-00002.safetensors does not exist, but .* names it"),
        ("other shard", "disagree on tensor"),
        ("index", "has no weight_map"),
    ],
)
def test_broken_checkpoints_are_refused(tmp_path: Path, how: str, message: str):
    place = broken(tmp_path, how)
    with pytest.raises(UserError, match=message), open_state(place):
        pass


def test_unknown_dtypes_are_refused(tmp_path: Path):
    save_file({"w": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with (
        pytest.raises(UserError, match=r"'w' has dtype F8_E4M3: convert it"),
        open_state(tmp_path / "x.safetensors"),
    ):
        pass


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path):
    place = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4000)}, place)
    with open_state(place) as opened:
        os.truncate(place, 4000)
        with pytest.raises(UserError, match="became shorter"):
            opened.tensors["w"].read(0, 4000)


def slots_of(state: dict[str, torch.Tensor]) -> dict[str, Slot]:
    return {name: Slot(value.dtype, tuple(value.shape)) for name, value in state.items()}


def parts_of(state: dict[str, torch.Tensor], length: int = 4) -> list[torch.Tensor]:
    ordered = [state[name].reshape(-1) for name in data_order(slots_of(state))]
    return [part for value in ordered for part in value.split(length) if value.numel()]


def test_a_written_file_is_what_the_library_reads_and_orders_alike(tmp_path: Path):
    state, place, theirs = mixed(), tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    digest = write_stream(place, slots_of(state), parts_of(state), {"note": "kept"})
    assert digest == sha256_file(place)
    loaded = load_file(place)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    save_file(state, theirs)
    size = sum(value.nbytes for value in state.values())
    assert place.read_bytes()[-size:] == theirs.read_bytes()[-size:]
    with open_state(place) as opened:
        assert opened.metadata == {"note": "kept"}


def test_parts_that_do_not_fill_the_file_leave_none(tmp_path: Path):
    state = mixed()
    with pytest.raises(ValueError, match="bytes were given"):
        write_stream(tmp_path / "x", slots_of(state), parts_of(state)[1:], {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path: Path, monkeypatch):
    state, place = mixed(), tmp_path / "x.safetensors"
    write_stream(place, slots_of(state), parts_of(state), {})
    before, write = place.read_bytes(), os.write
    room = len(before) - 10

    def fails(descriptor: int, data: memoryview) -> int:
        nonlocal room
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(OSError, match="No space left") as failure:
        write_stream(place, slots_of(state), parts_of(state), {})
    assert failure.value.filename == str(place)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert place.read_bytes() == before


def test_what_the_disk_cannot_hold_is_not_begun(tmp_path: Path):
    slots = {"w": Slot(torch.float32, (2**40, 2**20))}
    with pytest.raises(UserError, match=r"needs .* GiB and .* are free: make room"):
        require_room(tmp_path / "new" / "x.safetensors", slots)
