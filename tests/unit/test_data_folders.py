"""Image folders, and the order of classes."""

from pathlib import Path

import pytest
import torch

from pistole.data.names import ClassList, first_difference, require_order
from pistole.data.registry import registry
from pistole.data.source import Source
from pistole.data.tasks import open_task, place_of, read_listed
from pistole.errors import UserError
from tests.conftest import picture


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """``birds/``: train and val with two class folders of 3 and 2 images."""
    for split in ("train", "val"):
        for number, name in enumerate(("blue_tit", "crow")):
            for i in range(3 - number):
                file = tmp_path / "birds" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(picture(100 * number + i, 8, 8))
    (tmp_path / "birds" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    return tmp_path / "birds"


def source(root: Path, name: str = "birds", **changes) -> Source:
    return Source(name, "folder", str(root), **changes)


def test_classes_are_the_sorted_folders_and_val_is_the_test_split(birds):
    (birds / "val" / "crow" / "note.txt").write_text("no image")
    task = open_task(source(birds))
    assert task.classnames == ["blue tit", "crow"]
    assert task.templates == ["a {c}"]
    split = task.split("test")
    assert split.ids == [f"test/{x}.png" for x in ("blue_tit/0", "blue_tit/1", "blue_tit/2")] + [
        "test/crow/0.png",
        "test/crow/1.png",
    ]
    assert split.labels == [0, 0, 0, 1, 1]
    assert task.split("train").ids[0] == "train/blue_tit/0.png"
    assert split.load([0, 3]).shape == (2, 3, 8, 8)


def test_listed_images_are_read_again_and_a_changed_one_is_refused(birds):
    split = open_task(source(birds)).split("test")
    ids, digests = [split.ids[4], split.ids[0]], split.digests([4, 0])
    assert torch.equal(read_listed(source(birds), ids, digests), split.load([4, 0]))
    (birds / "val" / "crow" / "1.png").write_bytes(picture(9, 8, 8))
    with pytest.raises(UserError, match=r"test/crow/1\.png has changed since it was listed"):
        read_listed(source(birds), ids, digests)


def test_a_folder_of_class_folders_is_the_test_split(birds):
    task = open_task(source(birds / "val", names=str(birds)))
    assert len(task.split("test").ids) == 5
    with pytest.raises(UserError, match="train does not exist"):
        task.split("train")


def test_templates_single_needs_no_file(birds):
    (birds / "zeroshot_classification_templates.txt").unlink()
    assert open_task(source(birds, templates="single")).templates == ["This is a photo of a {c}"]
    with pytest.raises(UserError, match=r"templates\.txt does not exist"):
        open_task(source(birds))


def test_class_names_of_a_file(birds):
    names = birds / "classnames.txt"
    names.write_text("blue_tit\ttitmouse\ncrow\tcarrion crow\n")
    assert open_task(source(birds)).classnames == ["titmouse", "carrion crow"]
    names.write_text("Blue Tit\nCrow\n")
    assert open_task(source(birds)).classnames == ["Blue Tit", "Crow"]
    names.write_text("crow\nblue tit\n")
    with pytest.raises(UserError, match="class 0 is 'blue_tit' but the list says 'crow'"):
        open_task(source(birds))
    names.write_text("blue tit\n")
    with pytest.raises(UserError, match="class 1 is 'crow' but the list says nothing"):
        open_task(source(birds))


def test_a_registered_name_gets_the_registrys_names_if_the_folders_are_its_classes(tmp_path):
    own = registry()["eurosat"].class_lists()[0].own
    for name in own:
        (tmp_path / "eurosat" / name).mkdir(parents=True)
        (tmp_path / "eurosat" / name / "1.png").write_bytes(picture(1, 8, 8))
    task = open_task(source(tmp_path / "eurosat", "eurosat"))
    assert task.classnames[-1] == "lake or sea"
    assert len(task.templates) == 3
    (tmp_path / "eurosat" / "Forest").rename(tmp_path / "eurosat" / "Woods")
    # Sorted folders: the first one that is not in its place is told.
    with pytest.raises(UserError, match=r"class 1 is 'HerbaceousVegetation' .* list says 'Forest'"):
        open_task(source(tmp_path / "eurosat", "eurosat"))


def test_splits_with_other_class_folders(birds):
    (birds / "train" / "owl").mkdir()
    with pytest.raises(UserError, match="train has a class folder owl, unlike"):
        open_task(source(birds)).split("train")
    (birds / "train" / "owl").rmdir()
    (birds / "train" / "crow").rename(birds / "train" / ".crow")
    with pytest.raises(UserError, match="train has no class folder crow, unlike"):
        open_task(source(birds)).split("train")


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"none does not exist: mend data\.root"):
        open_task(source(tmp_path / "none"))
    with pytest.raises(UserError, match="has no class folders in test or val"):
        open_task(source(tmp_path))
    (tmp_path / "a").mkdir()
    task = open_task(source(tmp_path, templates="single"))
    with pytest.raises(UserError, match="holds no images"):
        task.split("test")


def test_the_order_of_classes():
    lists = [ClassList(("a", "b", "c"), ("x", "y", "z")), ClassList(("a", "b"), ("x", "y"))]
    assert require_order(lists, ["A", "b"], "it") is lists[1]
    assert require_order(lists, ["x", "y", "z"], "it") is lists[0]
    with pytest.raises(UserError, match="class 1 is 'q' but the list says 'b'"):
        require_order(lists, ["a", "q"], "it")
    assert first_difference(["707-320", "A_b"], ["707 320", "a/B"]) is None
    assert first_difference(["a"], ["a", "b"]) == 1
    assert first_difference(["..."], ["---"]) == 0  # nothing in common but their emptiness


def test_where_a_dataset_is():
    assert place_of("sets", "dtd", "wds") == "sets/dtd"
    assert place_of("sets", "dtd", "torchvision") == "sets"
    assert place_of("https://host/x/", "dtd", "wds") == "https://host/x/dtd"
    assert place_of("OWNER", "dtd", "huggingface") == "OWNER/dtd"
