import hashlib
import io
from collections import Counter

import pytest
import torch
from PIL import Image

from pistole.data.dataset import disjoint_slices, listed_subset, to_float
from pistole.data.source import Source
from pistole.data.tasks import open_task as open_source
from pistole.data.tasks import read_listed
from pistole.errors import UserError


def source_at(root, resolution=None):
    return Source("toy", "wds", str(root), resolution)


def open_task(root, resolution=None):
    return open_source(source_at(root, resolution))


@pytest.fixture
def root(tmp_path, write_wds):
    return write_wds(tmp_path / "toy")


def as_png(pixels: torch.Tensor, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def one_sample(root, write_tar, files):
    """Replace the test split by one shard of the given files."""
    for old in (root / "test").glob("*.tar"):
        old.unlink()
    write_tar(root / "test" / "0.tar", files)
    (root / "test" / "nshards.txt").write_text("1")
    return open_task(root)


def test_reads_names_templates_labels_and_ids(root):
    task = open_task(root)
    assert task.name == "toy"
    assert task.classnames == ["circle", "red square", "dog"]
    assert task.templates == ["a photo of a {c}.", "a blurry photo of a {c}."]
    split = task.split("test")
    assert split.ids[:3] == ["test/s0000000", "test/s0000002", "test/s0000004"]  # shard by shard
    assert Counter(split.labels) == {0: 4, 1: 4, 2: 4}
    assert all(
        label == int(key[-7:]) % 3 for key, label in zip(split.ids, split.labels, strict=True)
    )


def test_pixels_are_those_of_the_file_in_the_order_asked_for(root, write_tar):
    red = torch.zeros(4, 6, 3, dtype=torch.uint8)
    red[0, 5, 0] = 200
    files = {"a.cls": b"0", "a.png": as_png(red), "b.cls": b"1\n", "b.png": as_png(red * 0)}
    images = one_sample(root, write_tar, files).split("test").load([1, 0])
    assert images.shape == (2, 3, 4, 6)
    assert images.dtype == torch.uint8
    assert images[0].sum() == 0
    assert images[1].sum() == images[1, 0, 0, 5] == 200


def test_grey_images_become_rgb_and_nothing_is_read_for_no_position(root, write_tar):
    grey = torch.full((4, 4, 3), 7, dtype=torch.uint8)
    split = one_sample(root, write_tar, {"a.cls": b"0", "a.png": as_png(grey, "L")}).split("test")
    assert split.load([0]).unique().tolist() == [7]
    assert split.load([]).shape[0] == 0


def test_other_image_types_and_unknown_files(root, write_tar):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(buffer, "WEBP", lossless=True)
    files = {"x/a.CLS": b"2", "x/a.webp": buffer.getvalue(), "x/a.json": b"{}", "a.txt": b"hm"}
    split = one_sample(root, write_tar, files).split("test")
    assert (split.ids, split.labels) == (["test/a"], [2])
    assert split.load([0]).unique().tolist() == [9]


def test_resolution_resizes_the_shorter_side_and_crops_the_centre(root, write_tar):
    wide = torch.zeros(8, 24, 3, dtype=torch.uint8)
    wide[:, 8:16] = 240  # the middle third is bright
    folder = one_sample(root, write_tar, {"a.cls": b"0", "a.png": as_png(wide)}).root
    image = open_task(folder, resolution=4).split("test").load([0])[0]
    assert image.shape == (3, 4, 4)
    assert image.min() > 180
    kept = open_task(folder, resolution=8).split("test").load([0])[0]
    assert kept.unique().tolist() == [240]


def test_sizes_differ(root, write_tar):
    small, large = torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(5, 5, 3, dtype=torch.uint8)
    files = {"a.cls": b"0", "a.png": as_png(small), "b.cls": b"0", "b.png": as_png(large)}
    task = one_sample(root, write_tar, files)
    with pytest.raises(UserError, match=r"test/b.*5x5.*4x4.*data\.resolution"):
        task.split("test").load([0, 1])
    assert open_task(root, resolution=4).split("test").load([0, 1]).shape == (2, 3, 4, 4)


def test_digests_see_the_label_and_every_byte(root, write_tar):
    png = as_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    first = one_sample(root, write_tar, {"a.cls": b"0", "a.png": png}).split("test").digests([0])
    assert first == [hashlib.sha256(b"0\n" + png).hexdigest()]
    other = one_sample(root, write_tar, {"a.cls": b"1", "a.png": png}).split("test").digests([0])
    assert other != first


def test_read_listed_gives_listed_images_and_refuses_changed_ones(root, write_tar):
    split = open_task(root).split("test")
    ids, digests = [split.ids[5], split.ids[0]], split.digests([5, 0])
    assert torch.equal(read_listed(source_at(root), ids, digests), split.load([5, 0]))
    with pytest.raises(UserError, match="test/s0000000 has changed"):
        read_listed(source_at(root), ids, digests[:1] * 2)
    with pytest.raises(UserError, match="test/s9 is gone"):
        read_listed(source_at(root), ["test/s9"], ["0"])


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt"])
def test_no_class_names_or_no_templates(root, name):
    (root / name).write_text("\n")
    with pytest.raises(UserError, match=f"{name} is empty"):
        open_task(root)
    (root / name).unlink()
    with pytest.raises(UserError, match=f"{name} does not exist"):
        open_task(root)


def test_template_without_a_place_for_the_name(root):
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {}.\n")
    with pytest.raises(UserError, match=r"'a photo of a \{\}\.' lacks \{c\}"):
        open_task(root)


def test_folder_or_split_missing(root):
    with pytest.raises(UserError, match=r"nowhere does not exist.*data\.root"):
        open_task(root / "nowhere")
    with pytest.raises(UserError, match="val does not exist"):
        open_task(root).split("val")


@pytest.mark.parametrize("label", [b"3", b"-1"])
def test_label_outside_the_class_list(root, write_tar, label):
    png = as_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    task = one_sample(root, write_tar, {"k.cls": label, "k.png": png})
    with pytest.raises(
        UserError, match=rf"0\.tar: sample test/k .*label {label.decode()} .* 3 class"
    ):
        task.split("test")


def test_label_is_no_number(root, write_tar):
    png = as_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    task = one_sample(root, write_tar, {"k.cls": b"dog", "k.png": png})
    with pytest.raises(UserError, match=r"test/k has the label 'dog'"):
        task.split("test")


@pytest.mark.parametrize(
    ("files", "what"), [({"k.cls": b"0"}, "image"), ({"k.png": b"x"}, "label")]
)
def test_half_a_sample(root, write_tar, files, what):
    task = one_sample(root, write_tar, files)
    with pytest.raises(UserError, match=f"test/k has no {what}"):
        task.split("test")


def test_unreadable_image(root, write_tar):
    png = as_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    files = {"a.cls": b"0", "a.png": b"no image", "b.cls": b"0", "b.png": png[: len(png) // 2]}
    split = one_sample(root, write_tar, files).split("test")
    for position, key in enumerate(split.ids):
        with pytest.raises(UserError, match=f"sample {key} .*cannot be read"):
            split.load([position])


def test_duplicate_keys_within_a_shard_and_across_shards(root, write_tar):
    png = as_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    pair = [("k.cls", b"0"), ("k.png", png)]
    task = one_sample(root, write_tar, [*pair, ("k.jpg", png)])
    with pytest.raises(UserError, match="test/k has two images"):
        task.split("test")
    one_sample(root, write_tar, pair)
    write_tar(root / "test" / "1.tar", pair)
    (root / "test" / "nshards.txt").write_text("2")
    with pytest.raises(UserError, match=r"1\.tar: sample test/k has two labels"):
        task.split("test")


@pytest.mark.parametrize("keep", [100, 700, 1600, 2048])  # in header, between, in image, after it
def test_truncated_tar(root, write_tar, keep):
    png = as_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    task = one_sample(root, write_tar, {"k.cls": b"0", "k.png": png})
    path = root / "test" / "0.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"0\.tar is truncated"):
        task.split("test")


def test_shard_count_differs_from_nshards(root):
    count = root / "test" / "nshards.txt"
    for number, odd in (("3", "2.tar"), ("1", "1.tar")):
        count.write_text(number)
        with pytest.raises(UserError, match=rf"says {number} shards .*2 tar files.*{odd}"):
            open_task(root).split("test")
    count.write_text("two")
    with pytest.raises(UserError, match="missing or no number"):
        open_task(root).split("test")


def test_empty_split(root, write_tar):
    task = one_sample(root, write_tar, {})
    with pytest.raises(UserError, match="holds no samples"):
        task.split("test")


def test_to_float_maps_bytes_to_the_unit_interval():
    pixels = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert pixels.dtype == torch.float32
    assert pixels.tolist() == [0.0, pytest.approx(0.2), 1.0]


def test_slices_are_disjoint_balanced_sorted_and_seeded():
    labels = [i % 5 for i in range(100)]
    slices = disjoint_slices(labels, {"finetune": 50, "score": 20, "select": 30}, (1, "toy"))
    listed = [i for part in slices.values() for i in part]
    assert sorted(listed) == list(range(100))
    for part in slices.values():
        assert part == sorted(part)
        assert set(Counter(labels[i] for i in part).values()) == {len(part) // 5}
    assert slices == disjoint_slices(
        labels, {"finetune": 50, "score": 20, "select": 30}, (1, "toy")
    )
    assert slices != disjoint_slices(
        labels, {"finetune": 50, "score": 20, "select": 30}, (2, "toy")
    )


def test_a_subset_keeps_the_shares_of_unequal_classes():
    labels = [0] * 80 + [1] * 20
    for n in (5, 10, 50):
        share = Counter(labels[i] for i in listed_subset(labels, n, (0,)))
        assert share == {0: n * 0.8, 1: n * 0.2}
    odd = Counter(i % 3 for i in listed_subset([i % 3 for i in range(30)], 10, (0,)))
    assert sorted(odd.values()) == [3, 3, 4]


def test_slices_larger_than_the_data():
    with pytest.raises(UserError, match=r"a 7, b 4.* need 11 samples .* has 10"):
        disjoint_slices([0] * 10, {"a": 7, "b": 4}, (0,))
    with pytest.raises(UserError, match="need 11 samples"):
        listed_subset([0] * 10, 11, (0,))
    with pytest.raises(UserError, match="negative"):
        disjoint_slices([0] * 10, {"a": -1}, (0,))
    assert listed_subset([0] * 10, 0, (0,)) == []


@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "side"),
    [("cifar10", 10, 5000, 1000, 32), ("tiny_imagenet", 200, 8000, 2000, 64)],
)
def test_research_data_is_what_its_readme_says(research_data, name, classes, train, test, side):
    task = open_task(research_data / name)
    assert len(task.classnames) == classes
    splits = {split: task.split(split) for split in ("train", "test")}
    assert {split: len(part.ids) for split, part in splits.items()} == {
        "train": train,
        "test": test,
    }
    assert set(Counter(splits["test"].labels).values()) == {test // classes}
    assert splits["test"].load([0, 7]).shape == (2, 3, side, side)
