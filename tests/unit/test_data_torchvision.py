"""torchvision's datasets, from small copies of their files."""

import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as tv

from pistole.data.registry import registry
from pistole.data.source import Source
from pistole.data.tasks import open_task
from pistole.errors import UserError
from tests.conftest import picture


def source(root: Path, name: str, **changes) -> Source:
    return Source(name, "torchvision", str(root), **changes)


@pytest.fixture
def write_picture():
    """A function that writes one noise image, with its folders."""

    def write(path: Path, seed: int, side: int = 8) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, side, side))

    return write


@pytest.fixture
def offline(monkeypatch):
    """No class may fetch anything."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")

    for module in (tv.eurosat, tv.oxford_iiit_pet, tv.caltech, tv.fgvc_aircraft):
        monkeypatch.setattr(module, "download_and_extract_archive", refuse)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch) -> np.ndarray:
    """CIFAR-10's files with 20 test and 50 training images; returns the test images."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    source_of_noise = np.random.default_rng(0)
    batches = {name: 10 for name, _ in tv.CIFAR10.train_list} | {"test_batch": 20}
    for name, count in batches.items():
        pixels = source_of_noise.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    names = list(registry()["cifar10"].class_lists()[0].names)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    # The digests of the real files are torchvision's business.
    monkeypatch.setattr(tv.cifar, "check_integrity", lambda *_: True)
    return pixels.reshape(20, 3, 32, 32)


def test_cifar_is_read_with_its_pixels_labels_and_ids(tmp_path, cifar):
    task = open_task(source(tmp_path, "cifar10"))
    assert task.classnames[:2] == ["airplane", "automobile"]
    assert len(task.templates) == 18
    split = task.split("test")
    assert split.ids[:2] == ["test/0000000", "test/0000001"]
    assert split.labels == [i % 10 for i in range(20)]
    assert np.array_equal(split.load([3, 0]).numpy(), cifar[[3, 0]])
    assert len(task.split("train").ids) == 50


def test_digests_see_pixels_and_labels(tmp_path, cifar):
    before = open_task(source(tmp_path, "cifar10")).split("test").digests([0, 1])
    assert before[0] != before[1]
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    content = pickle.loads(file.read_bytes())
    content["data"][1, 0] ^= 1
    file.write_bytes(pickle.dumps(content))
    after = open_task(source(tmp_path, "cifar10")).split("test").digests([0, 1])
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_classes_in_another_order_are_refused(tmp_path, cifar):
    meta = tmp_path / "cifar-10-batches-py" / "batches.meta"
    names = pickle.loads(meta.read_bytes())["label_names"]
    names[2], names[3] = names[3], names[2]
    meta.write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(UserError, match=r"CIFAR10.*: class 2 is 'cat' but the list says 'bird'"):
        open_task(source(tmp_path, "cifar10"))


def test_a_label_that_names_no_class(tmp_path, cifar):
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    content = pickle.loads(file.read_bytes())
    content["labels"][4] = 10
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="image 4 has the label 10 but there are 10 class names"):
        open_task(source(tmp_path, "cifar10")).split("test")


def test_eurosat_has_no_splits(tmp_path, offline, write_picture):
    for number, own in enumerate(registry()["eurosat"].class_lists()[0].own):
        write_picture(tmp_path / "eurosat" / "2750" / own / f"{own}_1.png", number)
    task = open_task(source(tmp_path, "eurosat", resolution=16))
    split = task.split("test")
    assert split.labels == list(range(10))
    assert task.classnames[9] == "lake or sea"
    assert split.load([0, 9]).shape == (2, 3, 16, 16)
    with pytest.raises(UserError, match="EuroSAT has no training split: fine-tune on another"):
        task.split("train")


def test_a_broken_image_is_told_by_its_id(tmp_path, offline, write_picture):
    for number, own in enumerate(registry()["eurosat"].class_lists()[0].own):
        write_picture(tmp_path / "eurosat" / "2750" / own / f"{own}_1.png", number)
    (tmp_path / "eurosat" / "2750" / "Forest" / "Forest_1.png").write_bytes(b"no image")
    split = open_task(source(tmp_path, "eurosat")).split("test")
    assert [split.is_readable(i) for i in range(3)] == [True, False, True]
    with pytest.raises(UserError, match=r"test/0000001 in torchvision's EuroSAT in .* cannot be"):
        split.load([1])


def test_pets_has_splits_and_labels_without_decoding(tmp_path, offline, write_picture):
    folder = tmp_path / "oxford-iiit-pet"
    names = registry()["pets"].class_lists()[0].names
    for split, count in (("trainval", 2), ("test", 1)):
        lines = [
            f"{name.replace(' ', '_')}_{split}{i} {label} 1 1"
            for label, name in enumerate(names, 1)
            for i in range(count)
        ]
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "images").mkdir()
    task = open_task(source(tmp_path, "pets"))
    assert task.split("test").labels == list(range(37))
    assert len(task.split("train").labels) == 74
    write_picture(folder / "images" / "Abyssinian_test0.jpg", 1)
    assert task.split("test").load([0]).shape == (1, 3, 8, 8)


def test_caltech101_has_101_classes_in_torchvisions_order(tmp_path, offline, write_picture):
    names = registry()["caltech101"].class_lists()[1]
    for own in (*names.own, "BACKGROUND_Google"):
        write_picture(
            tmp_path / "caltech101" / "101_ObjectCategories" / own / "image_0001.jpg", 0, 4
        )
    (tmp_path / "caltech101" / "Annotations").mkdir()
    task = open_task(source(tmp_path, "caltech101"))
    assert task.classnames == list(names.names)
    assert task.classnames[0] == "off-center face"
    assert task.split("test").labels == list(range(101))


def test_a_dataset_that_is_absent_offline_is_one_line_with_the_remedy(tmp_path, offline):
    with pytest.raises(UserError) as told:
        open_task(source(tmp_path, "eurosat"))
    line = str(told.value)
    assert line.startswith(f"torchvision's EuroSAT is not in {tmp_path} and cannot be fetched (")
    assert "no network here" in line
    assert line.endswith("set data.sources.eurosat to another layout")
    assert "\n" not in line


def test_imagenet_is_never_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"torchvision's ImageNet is not in .*ILSVRC2012_devkit"):
        open_task(source(tmp_path, "imagenet"))


def test_a_dataset_that_torchvision_lacks(tmp_path):
    with pytest.raises(UserError, match="'imagenet_r' with layout torchvision: choose one of"):
        open_task(source(tmp_path, "imagenet_r"))


def test_every_entry_names_a_class_and_arguments_that_torchvision_has():
    import inspect

    for row in registry().values():
        if row.torchvision is None:
            continue
        parameters = inspect.signature(getattr(tv, row.torchvision.cls)).parameters
        for arguments in (row.torchvision.train, row.torchvision.test):
            assert set(arguments or {}) <= set(parameters), row.name
