"""What the page shows of a theory check."""

import pytest

from pistole.report import theory
from pistole.report.inputs import Recorded
from pistole.report.tables import TITLES
from pistole.report.theory import shown_numbers

WORDS = {"claim": "c", "measurement": "m", "verdict": "holds"}


def test_words_are_not_numbers() -> None:
    assert shown_numbers({**WORDS, "statement": "s", "slope": 1.5}) == ({"slope": "1.5"}, [])


@pytest.mark.parametrize(
    "value",
    [
        {f"k{i}": 1.0 for i in range(13)},
        {"a": {f"k{i}": 1.0 for i in range(13)}},
        {"deep": [1.0, 2.0, 3.0, 4.0, 5.0]},
        {"rows": [{"x": 1.0}]},
        [1.0] * 5,
        [{"eta": 0.1}],
        [[1.0, 2.0]],
    ],
)
def test_what_is_long_stays_in_the_file(value: object) -> None:
    assert shown_numbers({**WORDS, "long": value, "n": 3}) == ({"n": "3"}, ["long"])


def test_small_dicts_and_short_lists_are_shown() -> None:
    summary = {"rho_w": {"at base": 0.5, "at 0.5": {"low": None}}, "fall_ci95": [0.1, 0.2]}
    summary["twelve"] = {f"k{i}": i for i in range(12)}
    shown, left_out = shown_numbers(summary)
    assert left_out == []
    assert shown["rho_w: at base"] == "0.5"
    assert shown["rho_w: at 0.5.low"] == "null"
    assert shown["fall_ci95"] == "0.1 to 0.2"
    assert shown["twelve: k11"] == "11"


def test_check_without_a_figure_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory.figures, "CHECKS", {})
    view = theory.view("conflict_map", Recorded({**WORDS, "n": 3}, [{"x": 1.0}]))
    assert view["title"] == TITLES["conflict_map"]
    assert (view["statement"], view["rows"], view["caption"]) == ("", [], None)
    assert view["claim"] == "c"
