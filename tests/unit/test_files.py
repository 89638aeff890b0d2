"""Whole or not at all, and one-line errors."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from pistole.errors import UserError
from pistole.files import (
    atomic_directory,
    atomic_file,
    is_pickle,
    load_tensors,
    save_tensors,
    sha256_tensors,
    write_json,
)


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path: Path):
    a, b = torch.arange(6.0).view(2, 3), torch.ones(4)
    save_tensors(tmp_path / "1", {"b": b, "a": a}, {"y": 1, "x": [2]})
    save_tensors(tmp_path / "2", {"a": a, "b": b}, {"x": [2], "y": 1})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_tensors_and_metadata_come_back(tmp_path: Path):
    value = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).T
    save_tensors(tmp_path / "x", {"w": value}, {"note": "kept"})
    tensors, metadata = load_tensors(tmp_path / "x")
    assert torch.equal(tensors["w"], value)
    assert metadata == {"note": "kept"}


def half_a_file(target: Path) -> None:
    with atomic_file(target) as part:
        part.write_text("half")
        raise RuntimeError("boom")


def half_a_folder(target: Path) -> None:
    with atomic_directory(target) as part:
        (part / "a").write_text("new")
        raise RuntimeError("boom")


def test_a_failing_write_leaves_the_old_file_and_no_part(tmp_path: Path):
    target = tmp_path / "x.json"
    write_json(target, 1)
    with pytest.raises(RuntimeError, match="boom"):
        half_a_file(target)
    assert target.read_text() == "1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failing_folder_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "out"
    with atomic_directory(target) as part:
        (part / "a").write_text("old")
    with pytest.raises(RuntimeError, match="boom"):
        half_a_folder(target)
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_leftover_of_a_killed_process_is_removed_by_the_next_write(tmp_path: Path):
    code = f"""
        import os, signal
        from pistole.files import atomic_directory
        with atomic_directory({str(tmp_path / "out")!r}) as part:
            (part / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_directory(tmp_path / "out") as part:
        (part / "a").write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_ends_in_one_line_and_status_2(tmp_path: Path):
    code = """
        import sys
        from pistole import __main__, cli
        def work(*_, **__):
            with open("/dev/full", "w") as stream:
                stream.write("x" * 100_000)
        cli.app = work
        __main__.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_bad_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"missing\.safetensors does not exist"):
        load_tensors(tmp_path / "missing.safetensors")
    whole = tmp_path / "whole"
    save_tensors(whole, {"w": torch.ones(100)})
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(UserError, match="cut is truncated or not safetensors"):
        load_tensors(cut)
    torch.save({"w": torch.ones(2)}, tmp_path / "p.pt")
    assert is_pickle(tmp_path / "p.pt")
    with pytest.raises(UserError, match=r"p\.pt is a pickle"):
        load_tensors(tmp_path / "p.pt")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match="truncated"):
        load_tensors(tmp_path / "empty")


def test_digest_sees_name_dtype_shape_and_value():
    base = {"w": torch.zeros(4)}
    others = [
        {"v": torch.zeros(4)},
        {"w": torch.zeros(4, dtype=torch.float64)},
        {"w": torch.zeros(2, 2)},
        {"w": torch.tensor([0.0, 0, 0, 1e-30])},
    ]
    assert len({sha256_tensors(t) for t in [base, *others]}) == 5


def test_a_safetensors_header_of_a_pickles_first_bytes_is_no_pickle(tmp_path: Path):
    place = tmp_path / "x"
    for length in range(600, 700):
        save_tensors(place, {"w": torch.zeros(1)}, {"note": "x" * (length - 120)})
        if place.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of 640 bytes was made")
    assert not is_pickle(place)
    assert load_tensors(place)[0]["w"].tolist() == [0]
