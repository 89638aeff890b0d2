"""The table of all rows: its order, ties with the best, and kinds of rows."""

import numpy as np
import pytest

from pistole.report.families import FAMILIES, PALETTE, family, looks
from pistole.report.methods import behind_the_best, ties_in_words
from pistole.report.statistics import MEASURES, compare
from pistole.report.tables import CONTROLS, LABELS, MAIN, in_order, label


def answers(**right: list[int]) -> dict[str, np.ndarray]:
    """One task; per model how many of the 100 images it gets right when clean and attacked."""
    images = np.arange(100)
    columns = [np.stack([images < a, images < b], axis=1) for a, b in right.values()]
    return {"task": np.stack(columns, axis=1)}


def test_a_row_is_tied_if_the_paired_interval_holds_zero() -> None:
    outcomes = answers(best=[90, 40], near=[90, 38], far=[90, 10], clean=[95, 5])
    paired = compare(["best", "near", "far", "clean"], outcomes, resamples=2000, seed=0)
    behind = behind_the_best(paired)
    assert {n: round(gap.value, 6) for n, gap in behind["sum"].items()} == {
        "best": 0.0,
        "near": 0.02,
        "far": 0.3,
        "clean": 0.3,
    }
    assert [behind["sum"][n].side for n in ("near", "far", "clean")] == [0, 1, 1]
    # A pair of images tells them apart less than their own intervals suggest: paired, not single.
    assert behind["robust_mean"]["near"].high < 0.06
    # The measure decides who is best: in clean accuracy another row.
    assert behind["clean_mean"]["clean"].value == 0
    assert behind["clean_mean"]["best"].side == 1
    assert set(behind) == set(MEASURES)


def row(name: str, *, best: bool = False, tied: bool = False) -> dict:
    return {"label": name, "best": ["sum"] * best, "tied": ["sum"] * tied}


def test_ties_in_words() -> None:
    first = row("A", best=True)
    assert ties_in_words([first]) == "The largest Sum is that of A, the only row."
    assert ties_in_words([first, row("B")]).endswith("no other of 1 rows is tied with it.")
    told = ties_in_words([first, row("B", tied=True), row("C", best=True), row("D")])
    assert told.endswith("2 of 3 other rows are statistically tied with it.")
    told = ties_in_words([first, row("B", tied=True)])
    assert told.endswith("all 1 other rows are statistically tied with it.")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("base", "sources"),
        ("vanilla", "simple"),
        ("gism_pci", "pistole"),
        ("pistole", "pistole"),
        ("permuted_mask_2", "controls"),
        ("ties", "tuned"),
        ("ties_official", "official"),
        ("something", "tuned"),
    ],
)
def test_every_row_has_a_kind(name: str, kind: str) -> None:
    assert family(name) == kind
    assert kind in FAMILIES


def test_forty_rows_look_different_and_official_settings_like_the_tuned() -> None:
    methods = [name for name in LABELS if family(name) == "tuned"]
    names = [*MAIN, *methods, *(f"{name}_official" for name in methods)]
    found = looks(names)
    faces = {(look.colour, look.shape, look.hollow) for look in found.values()}
    assert len(faces) == len(names)
    for name in methods:
        tuned, official = found[name], found[f"{name}_official"]
        assert (tuned.colour, tuned.shape) == (official.colour, official.shape)
        assert (tuned.hollow, official.hollow) == (False, True)
        assert tuned.colour in PALETTE
        assert official.quiet
        assert not tuned.quiet
    assert all(looks([name])[name].quiet for name in CONTROLS)


def test_official_settings_are_told_and_come_after_the_tuned() -> None:
    assert label("ties_official") == "TIES (official)"
    names = dict.fromkeys(["zzz", "fisher", "ties_official", "ties", "pistole"])
    assert list(in_order(names)) == ["pistole", "ties", "ties_official", "fisher", "zzz"]
