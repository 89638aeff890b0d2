"""Broken dataset folders and full disks, as the commands meet them."""

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pistole.files import read_json
from tests.conftest import picture
from tests.e2e.micro import everything, inside, refusal, run_micro, status, write_micro

SLICES = {"finetune": 4, "score": 2, "measure": 2, "select": 2, "test": 4}
TOY = {
    "data__root": "sets",
    "data__layout": "wds",
    "data__finetune": "toy",
    "datasets": ["toy"],
    "slices": SLICES,
    "finetune__natural__batch_size": 4,
    "finetune__robust__batch_size": 4,
}
NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
LIST = ("data", "index", "toy", "--out", "new")


@pytest.fixture
def toy(tmp_path: Path, write_wds):
    """The dataset folder ``sets/toy``: 3 classes, 12 training and 12 test images."""
    write_micro(tmp_path / "params.yaml", **TOY)
    folder = write_wds(tmp_path / "sets" / "toy")
    (folder / NAMES).write_text("circle\nred square\nstar\n")
    (folder / TEMPLATES).write_text("a photo of a {c}\n")
    with inside(tmp_path):
        yield Path("sets/toy")


@pytest.fixture
def replace_test_split(toy: Path, write_tar) -> Callable[[dict[str, bytes]], None]:
    """A function that puts other files into the test split."""

    def replace(files: dict[str, bytes]) -> None:
        shutil.rmtree(toy / "test")
        write_tar(toy / "test" / "0.tar", files)
        (toy / "test" / "nshards.txt").write_text("1\n")

    return replace


def test_a_folder_is_listed_with_disjoint_training_slices(toy):
    assert status(*LIST) == 0
    index = read_json("new/index.json")
    assert index["classnames"] == ["circle", "red square", "star"]
    listed = {name: read_json(f"new/{name}/index.json")["ids"] for name in SLICES}
    assert {name: len(ids) for name, ids in listed.items()} == SLICES
    training = [i for name, ids in listed.items() if name != "test" for i in ids]
    assert len(set(training)) == len(training)
    assert {i.split("/")[0] for i in training} == {"train"}


@pytest.mark.parametrize("name", [NAMES, TEMPLATES])
def test_no_class_names_or_templates(toy, capsys, name):
    (toy / name).unlink()
    told = refusal(capsys, *LIST)
    assert re.fullmatch(rf"sets/toy/{name} does not exist: write one .* per line", told)


@pytest.mark.parametrize(
    ("label", "line"),
    [
        (b"3", "label 3 but there are 3 class names (0 to 2): mend the label or the names"),
        (b"nan", "label 'nan': write a whole number"),
        (b"1.0", "label '1.0': write a whole number"),
    ],
)
def test_a_label_that_names_no_class(toy, replace_test_split, capsys, label, line):
    replace_test_split({"k.cls": label, "k.png": b"unread"})
    assert refusal(capsys, *LIST) == f"sets/toy/test/0.tar: sample test/k has the {line}"


def test_more_images_than_there_are(toy, capsys):
    write_micro(Path("params.yaml"), **TOY | {"slices": SLICES | {"select": 5}})
    told = refusal(capsys, *LIST)
    assert re.search("select 5.* need 13 samples but the split has 12: lower them$", told)


def test_a_class_name_that_the_text_tower_cannot_read(toy, capsys):
    (toy / NAMES).write_text("circle\nred square\nokapi\n")
    assert status("data", "index", "toy") == 0
    told = refusal(capsys, "base", "--out", "new")
    assert told.startswith("word 'okapi' of 'a photo of a okapi' is outside the text tower's ")
    assert told.endswith(": use other words or a larger base")


def test_an_unreadable_image_is_named_when_it_is_listed(toy, replace_test_split, capsys):
    broken = {f"{key}.png": picture(7, 8, 8) for key in "abc"} | {"d.png": picture(7, 8, 8)[:60]}
    replace_test_split(broken | {f"{key}.cls": b"1" for key in "abcd"})
    assert refusal(capsys, *LIST) == (
        "toy/test: 1 of 4 images cannot be read (test/d in sets/toy/test/0.tar), "
        "above the 0.1% that are passed over: copy or make them again"
    )


def test_an_image_broken_after_it_was_listed_is_named_when_it_is_read(toy, write_tar, capsys):
    run_micro(Path(), [["data", "index", "toy"], ["base"]], **TOY)
    shard = toy / "test" / "0.tar"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"IDAT", b"IDAX"))
    told = refusal(capsys, "evaluate", "base", "--model", "artifacts/base", "--out", "new")
    assert re.search(r"sets/toy: sample test/s\d+ has changed since it was listed", told)


def test_images_changed_after_they_were_listed(toy, replace_test_split, capsys):
    run_micro(Path(), [["data", "index", "toy"], ["base"]], **TOY)
    files = {f"s{i:07d}.png": picture(5, 8, 8) for i in range(12)}
    replace_test_split(files | {f"s{i:07d}.cls": b"%d" % (i % 3) for i in range(12)})
    told = refusal(capsys, "evaluate", "base", "--model", "artifacts/base", "--out", "new")
    assert re.search(
        r"^sets/toy: sample test/s\d+ has changed since it was listed: run stage data again$", told
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with outputs of the commands that a full disk stops."""
    commands = [
        ["data", "index", "shape"],
        ["base"],
        ["finetune", "natural"],
        ["vectors", "natural"],
    ]
    sizes = {"finetune": 16, "score": 2, "measure": 2, "select": 2, "test": 8}
    return run_micro(
        tmp_path_factory.mktemp("written"),
        commands,
        datasets=["shape"],
        data__finetune="shape",
        slices=sizes,
    )


WRITING = {
    "a folder with images": (["data", "index", "shape"], "artifacts/data/shape"),
    "a folder with weights": (["base"], "artifacts/base"),
    "a file": (["vectors", "natural"], "artifacts/vectors/natural.safetensors"),
    "text": (["params", "--out", "artifacts/params.ok"], "artifacts/params.ok"),
}


@pytest.fixture
def disk(written: Path):
    """The project, and whatever the disk was made to refuse is allowed again afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with inside(written):
        yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("what", [key for key in WRITING if key != "text"])
def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_result(disk, capsys, what):
    command, place = WRITING[what]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the rest of a file is refused
    assert refusal(capsys, *command) == f"{place}: File too large: nothing half-written was kept"


@pytest.mark.parametrize("what", WRITING)
def test_a_disk_that_is_full_when_the_file_is_flushed(disk, capsys, monkeypatch, what):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command, place = WRITING[what]
    monkeypatch.setattr(os, "fsync", full)
    told = refusal(capsys, *command)
    assert told == f"{place}: No space left on device: nothing half-written was kept"


def test_what_the_full_disk_left_is_still_whole(written):
    with inside(written):
        before = everything()
        assert status("vectors", "natural", "--out", "again.safetensors") == 0
        vector = Path("artifacts/vectors/natural.safetensors")
        assert Path("again.safetensors").read_bytes() == vector.read_bytes()
        assert everything().keys() - before.keys() == {"again.safetensors"}
