"""Listed samples: fixed, stratified, and readable."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pistole.data.dataset import disjoint_slices, interleaved
from pistole.data.images import ImageSplit
from pistole.data.listing import readable_slices
from pistole.errors import UserError
from tests.conftest import picture

GOOD, BAD = picture(1, 4, 4), picture(1, 4, 4)[:60]


class Kept:
    """An image in memory."""

    where = "memory"

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content


def split_of(labels: list[int], corrupt: set[int] = frozenset()) -> ImageSplit:
    places = [Kept(BAD if i in corrupt else GOOD) for i in range(len(labels))]
    return ImageSplit([f"test/{i}" for i in range(len(labels))], labels, None, places)


def test_without_corrupt_images_the_slices_are_the_plain_ones():
    labels, sizes = [i % 7 for i in range(200)], {"a": 70, "b": 35, "c": 20}
    listed = readable_slices(split_of(labels), sizes, (3, "toy"), "toy")
    plain = disjoint_slices(labels, sizes, (3, "toy"))
    assert {name: part.positions for name, part in listed.items()} == plain
    assert not any(part.corrupt for part in listed.values())


def test_a_corrupt_image_is_passed_over_and_the_next_takes_its_place():
    labels = [i % 2 for i in range(3000)]
    order = interleaved(labels, (0, "toy"))
    listed = readable_slices(
        split_of(labels, {order[1200]}), {"a": 1000, "b": 1000}, (0, "toy"), "toy"
    )
    assert listed["a"] == (sorted(order[:1000]), [])
    assert listed["b"] == (sorted([*order[1000:1200], *order[1201:2001]]), [order[1200]])


@pytest.mark.parametrize(("broken", "refused"), [(1, False), (2, True)])
def test_more_than_one_in_a_thousand_stops(broken, refused):
    labels = [0] * 1100
    order = interleaved(labels, (0, "toy"))
    split = split_of(labels, set(order[:broken]))
    if refused:
        with pytest.raises(UserError) as told:
            readable_slices(split, {"test": 1000}, (0, "toy"), "toy/test")
        first = ", ".join(f"test/{i} in memory" for i in order[:2])
        assert str(told.value) == (
            f"toy/test: 2 of 1000 images cannot be read ({first}), "
            "above the 0.1% that are passed over: copy or make them again"
        )
    else:
        listed = readable_slices(split, {"test": 1000}, (0, "toy"), "toy/test")["test"]
        assert listed.corrupt == order[:1]
        assert listed.positions == sorted(order[1:1001])


def test_a_wholly_corrupt_split_is_not_read_to_its_end():
    split = split_of([0] * 500, set(range(500)))
    with pytest.raises(UserError, match=r"20 of 20 images .* and 17 more\), above"):
        readable_slices(split, {"test": 20}, (0, "toy"), "toy")


def test_too_few_are_left_without_the_corrupt_one():
    split = split_of([0] * 1000, {5})
    with pytest.raises(UserError, match="need 1000 samples but the split has 999: lower"):
        readable_slices(split, {"test": 1000}, (0, "toy"), "toy")


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.floats(0.05, 1),
    st.integers(0, 5),
)
def test_each_class_has_its_share(counts, share, seed):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    size = max(1, int(share * len(labels)))
    listed = readable_slices(split_of(labels), {"test": size}, (seed, "toy"), "toy")["test"]
    assert len(set(listed.positions)) == size
    found = Counter(labels[i] for i in listed.positions)
    for label, count in enumerate(counts):
        # Each class is within 1/2 of its share at the place where the list was cut, and the cut is
        # within 1/2 of an image per class of size; where classes are equal that is 1 in all.
        bound = 0.5 + 0.5 * len(counts) * count / len(labels)
        assert abs(found[label] - size * count / len(labels)) <= bound + 1e-9
