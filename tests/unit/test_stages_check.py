"""Commands ``data list``, ``data check`` and ``data index``, as a user meets them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from pistole.data.registry import registry
from pistole.data.sheet import COLUMNS, GAP, LINE, ROWS, SIDE, contact_sheet
from pistole.files import read_json
from pistole.stages.slices import read_slice
from tests.conftest import picture
from tests.e2e.micro import inside, refusal, status, write_micro

SLICES = {"finetune": 4, "score": 2, "measure": 2, "select": 2, "test": 8}


@pytest.fixture
def folder(tmp_path: Path, write_wds):
    """A project with ``sets/toy`` (wds), ``sets/cifar10`` (wds, short) and ``birds`` (folders)."""
    write_wds(tmp_path / "sets" / "toy")
    cifar = write_wds(tmp_path / "sets" / "cifar10", classes=10, per_class=2, width=32, height=32)
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (cifar / name).unlink()
    for split, count in (("train", 8), ("test", 12)):
        for i in range(count):
            file = tmp_path / "birds" / split / ("crow" if i % 4 else "tit") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(i, 20 + i, 16))
    write_micro(
        tmp_path / "params.yaml",
        data={
            "root": "sets",
            "layout": "wds",
            "resolution": "protocol",
            "templates": "single",
            "finetune": "toy",
            "sources": {
                "toy": {"layout": "wds", "root": "sets/toy", "resolution": None, "names": None},
                "birds": {"layout": "folder", "root": "birds", "resolution": 16, "names": None},
            },
        },
        datasets=["toy", "cifar10", "birds"],
        slices=SLICES,
        finetune__natural__batch_size=4,
        finetune__robust__batch_size=4,
    )
    with inside(tmp_path):
        yield tmp_path


def test_one_project_mixes_layouts_and_resolutions(folder):
    for name in ("toy", "cifar10", "birds"):
        assert status("data", "index", name) == 0
    about = {name: read_json(f"artifacts/data/{name}/index.json") for name in ("cifar10", "birds")}
    assert about["cifar10"]["resolution"] == 32  # that of the papers
    assert about["cifar10"]["classnames"][0] == "airplane"
    assert (about["birds"]["layout"], about["birds"]["root"]) == ("folder", "birds")
    assert about["birds"]["templates"] == ["This is a photo of a {c}"]
    images = read_slice(Path("artifacts/data/birds"), "test").images
    assert images.shape == (8, 3, 16, 16)
    assert read_slice(Path("artifacts/data/toy"), "score").images.shape == (2, 3, 8, 8)


def test_test_slices_are_listed_stratified_and_the_same_at_each_call(folder):
    for out in ("one", "two"):
        assert status("data", "index", "birds", "--out", out) == 0
        assert status("data", "index", "cifar10", "--out", f"{out}-cifar") == 0
    for place in ("", "-cifar"):
        files = [Path(f"{out}{place}/test/index.json").read_bytes() for out in ("one", "two")]
        assert files[0] == files[1]
    birds, cifar = read_json("one/test/index.json"), read_json("one-cifar/test/index.json")
    assert Counter(birds["labels"]) == {0: 6, 1: 2}  # 9 crows and 3 tits have shares 6 and 2
    assert set(Counter(cifar["labels"]).values()) == {1}
    assert birds["corrupt"] == []
    assert len(birds["ids"]) == len(set(birds["ids"])) == len(birds["sha256"]) == 8


def test_protocol_needs_a_registered_dataset(folder, capsys):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("resolution: 16", "resolution: protocol"))
    told = refusal(capsys, "data", "index", "birds")
    assert told == (
        "data.sources.birds.resolution is 'protocol' but dataset 'birds' is not registered: "
        "give a number of px or null"
    )


def test_check_of_a_dataset_of_ones_own(folder, capsys):
    assert status("data", "check", "birds", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["classes"], found["images_per_class"]) == (12, 2, [3, 9])
    assert (found["registry"], found["corrupt"], found["problems"]) == (None, [], [])
    assert found["decoded"] == 12
    with Image.open("data-check/birds.png") as sheet:
        assert sheet.size == (COLUMNS * (SIDE + GAP) + GAP, 2 * (SIDE + LINE + GAP) + GAP)


def test_check_compares_counts_with_the_registry(folder, capsys):
    assert status("data", "check", "cifar10") == 2
    written = capsys.readouterr()
    assert [line.split()[-2:] for line in written.out.splitlines()[1:3]] == [
        ["20", "10000"],
        ["10", "10"],
    ]
    assert written.err == (
        "pistole: cifar10: 20 images but the registry says 10000: mend the data, "
        "or pass --subset if it is one\n"
    )
    assert status("data", "check", "cifar10", "--subset", "--decode", "7", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["decoded"], found["pixels"]) == (7, ["32x32"])
    assert found["registry"]["first_other_name"] is None


def test_check_tells_other_class_names_and_more_classes(folder, capsys):
    own = [*registry()["cifar10"].class_lists()[0].names, "lorry"]
    own[1] = "car"
    Path("sets/cifar10/classnames.txt").write_text("\n".join(own) + "\n")
    assert status("data", "check", "cifar10", "--subset") == 2
    written = capsys.readouterr()
    assert "class 1 is 'car', there 'automobile'" in " ".join(written.out.split())
    assert "11 classes but the registry says 10: mend the data;" in written.err
    assert "a class has no test image" in written.err


def test_check_counts_corrupt_images_after_the_table(folder, capsys):
    Path("birds/test/crow/5.png").write_bytes(b"no image")
    assert status("data", "check", "birds", "--sheet", "sheet.png") == 2
    written = capsys.readouterr()
    assert "corrupt" in written.out
    assert written.err.startswith("pistole: birds/test: 1 of 12 images cannot be read (test/crow/5")
    assert Path("sheet.png").is_file()


def test_check_without_params(folder, capsys):
    Path("params.yaml").unlink()
    assert status("data", "check", "x", "--layout", "folder", "--root", "birds") == 2
    assert "does not exist: write one template per line" in capsys.readouterr().err
    told = refusal(capsys, "data", "check", "x", "--layout", "folder")
    assert told == "--layout and --root belong together: give both or neither"
    told = refusal(capsys, "data", "check", "x", "--layout", "zip", "--root", "birds")
    assert told == ("--layout is 'zip': choose one of wds, folder, torchvision, huggingface")


def test_the_embedded_world_is_not_checked(folder, capsys):
    write_micro(Path("params.yaml"))
    told = refusal(capsys, "data", "check", "clutter")
    assert told.startswith("dataset 'clutter' is drawn, not stored (data.layout embedded)")


def test_list(capsys):
    assert status("data", "list", "--suite", "paper", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 14
    assert rows[2] | {"suites": None} == {
        "name": "cifar10",
        "title": "CIFAR-10",
        "suites": None,
        "test": 10000,
        "classes": 10,
        "resolution": 32,
        "metric": "top-1",
        "templates": 18,
        "clip_benchmark": "vtab/cifar10",
        "torchvision": "CIFAR10",
    }
    assert status("data", "list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(registry())
    assert status("data", "list", "--suite", "fare") == 2


def test_a_sheet_holds_36_pictures_each_in_its_place():
    pictures = [
        (Image.new("RGB", (4 + i, 8), (6 * i, 0, 0)), "a name far too long for its place")
        for i in range(40)
    ]
    sheet = contact_sheet(pictures)
    assert sheet.size == (COLUMNS * (SIDE + GAP) + GAP, ROWS * (SIDE + LINE + GAP) + GAP)
    for number in range(COLUMNS * ROWS):
        x = GAP + number % COLUMNS * (SIDE + GAP) + SIDE // 2
        y = GAP + number // COLUMNS * (SIDE + LINE + GAP) + SIDE // 2
        assert sheet.getpixel((x, y)) == (6 * number, 0, 0)
        beside = sheet.crop((x + SIDE // 2, y, x + SIDE // 2 + GAP, y + SIDE // 2 + LINE))
        assert beside.getcolors() == [(GAP * (SIDE // 2 + LINE), (255, 255, 255))]
