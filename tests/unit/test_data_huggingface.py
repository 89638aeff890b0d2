"""Hugging Face datasets, built here; skipped without the package."""

import sys

import pytest
import torch

from pistole.data.source import Source
from pistole.data.tasks import open_task, read_listed
from pistole.errors import UserError
from tests.conftest import picture


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets: pip install 'pistole\[hugg"):
        open_task(Source("toy", "huggingface", str(tmp_path)))


@pytest.fixture
def hf(monkeypatch, tmp_path):
    """The package, offline, with its cache in a folder of the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets")


def rows_of(hf, labels, names, column="label", **more):
    features = hf.Features(
        {"image": hf.Image(), column: hf.ClassLabel(names=names)}
        | {key: hf.ClassLabel(names=value) for key, value in more.items()}
    )
    images = [{"bytes": picture(i, 8, 8), "path": None} for i in range(len(labels))]
    columns = {"image": images, column: labels} | {key: [0] * len(labels) for key in more}
    return hf.Dataset.from_dict(columns, features=features)


def source(root, name="toy", **changes):
    return Source(name, "huggingface", str(root), templates="single", **changes)


def test_a_saved_dataset(hf, tmp_path):
    splits = hf.DatasetDict(
        train=rows_of(hf, [0, 1, 0, 1], ["red_square", "dog"]),
        validation=rows_of(hf, [1, 0], ["red_square", "dog"]),
    )
    splits.save_to_disk(str(tmp_path / "toy"))
    task = open_task(source(tmp_path / "toy"))
    assert task.classnames == ["red square", "dog"]
    assert task.templates == ["This is a photo of a {c}"]
    split = task.split("test")
    assert (split.ids, split.labels) == (["test/0000000", "test/0000001"], [1, 0])
    assert len(task.split("train").ids) == 4
    assert split.load([1]).shape == (1, 3, 8, 8)
    again = read_listed(source(tmp_path / "toy"), ["test/0000001"], split.digests([1]))
    assert torch.equal(again, split.load([1]))


def test_a_folder_of_files(hf, tmp_path, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            file = tmp_path / "pets2" / split / name / "1.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(picture(1, 8, 8))
    task = open_task(source(tmp_path / "pets2"))
    assert task.classnames == ["cat", "dog"]
    assert task.split("test").load([0]).shape == (1, 3, 8, 8)


def test_class_order_and_names_of_the_registry(hf, tmp_path):
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    for folder, order in (("good", names), ("bad", [names[1], names[0], *names[2:]])):
        rows_of(hf, [0, 9], order).save_to_disk(str(tmp_path / folder))
    task = open_task(source(tmp_path / "good", "stl10"))
    assert task.split("test").labels == [0, 9]  # a dataset without splits is the test split
    with pytest.raises(UserError, match="class 0 is 'bird' but the list says 'airplane'"):
        open_task(source(tmp_path / "bad", "stl10"))


def test_the_label_column_of_a_registered_dataset_is_the_one_with_its_classes(hf, tmp_path):
    from pistole.data.registry import registry

    names = [name.replace(" ", "_") for name in registry()["cifar100"].class_lists()[0].names]
    rows = rows_of(hf, [3, 99], names, "fine_label", coarse_label=["fish", "trees"])
    rows.save_to_disk(str(tmp_path / "c"))
    assert open_task(source(tmp_path / "c", "cifar100")).split("test").labels == [3, 99]
    with pytest.raises(UserError, match=r"2 columns of type ClassLabel .columns: image, fine"):
        open_task(source(tmp_path / "c", "mine"))


def test_withheld_labels_are_passed_over(hf, tmp_path):
    splits = hf.DatasetDict(
        test=rows_of(hf, [-1, -1], ["a", "b"]), validation=rows_of(hf, [1, 0], ["a", "b"])
    )
    splits.save_to_disk(str(tmp_path / "toy"))
    task = open_task(source(tmp_path / "toy"))
    assert task.split("test").labels == [1, 0]
    with pytest.raises(UserError, match=r"has no labelled split train .has test, validation"):
        task.split("train")


def test_a_dataset_that_cannot_be_opened(hf, tmp_path):
    with pytest.raises(UserError, match="cannot be opened by the package datasets") as told:
        open_task(source(tmp_path / "none"))
    assert "\n" not in str(told.value)
