"""Sentences about ablation and controls: never more than the interval says."""

import pytest

from pistole.report import verdicts
from pistole.report.statistics import Interval
from pistole.report.tables import CONTROLS, PERMUTED, POOL

UP, DOWN, BOTH = (
    Interval(0.03, 0.01, 0.05),
    Interval(-0.03, -0.05, -0.01),
    Interval(0.01, -0.02, 0.04),
)
INF = float("inf")


@pytest.mark.parametrize(
    ("lead", "same", "outcome"),
    [
        (UP, False, "more"),
        (DOWN, False, "less"),
        (BOTH, False, "undecided"),
        (Interval(0.0, 0.0, 0.0), False, "undecided"),
        (Interval(0.02, 0.0, 0.03), False, "undecided"),  # an end at zero is not clear of it
        (UP, True, "identical"),
    ],
)
def test_judge(lead: Interval, same: bool, outcome: str) -> None:
    assert verdicts.judge(lead, same) == outcome


def test_every_control_has_words() -> None:
    expected = {name for name in CONTROLS if name not in PERMUTED} | {POOL, "vanilla", "wise_ft"}
    assert set(verdicts.RIVALS) == expected
    assert set(verdicts.AIMLESS) <= expected
    texts = [text for rival in verdicts.RIVALS.values() for text in vars(rival).values()]
    assert all(text.isascii() for text in texts)


def test_comparison_says_what_was_found_and_how_sure() -> None:
    said = {
        outcome: verdicts.compared("self_mask", lead, 900)
        for outcome, lead in (("more", UP), ("less", DOWN), ("open", BOTH))
    }
    assert said == {
        "more": "PISTOLE gives more than masks from each vector's own objective: +3.0 points of "
        "Sum, 95% interval +1.0 to +5.0. The other objective's gradient helps.",
        "less": "PISTOLE gives less than masks from each vector's own objective: -3.0 points of "
        "Sum, 95% interval -5.0 to -1.0. The other objective's gradient does harm here.",
        "open": "PISTOLE cannot be told apart, at n = 900, from masks from each vector's own "
        "objective: +1.0 points of Sum, 95% interval -2.0 to +4.0. Whether the other objective's "
        "gradient helps stays open.",
    }


def test_the_same_model_is_no_evidence() -> None:
    text = verdicts.compared("zero_nat", Interval(0.0, 0.0, 0.0), 900, same_weights=True)
    assert text == (
        "The masked robust vector alone has PISTOLE's own weights here, so nothing is compared."
    )


def test_step_names_a_change_of_lambda() -> None:
    moved = verdicts.step("vanilla", "gism", UP, 900, lambdas=(0.2, 0.0))
    assert moved == (
        "GISM (lambda 0 instead of 0.2) gives more than Vanilla: +3.0 points of Sum, 95% interval "
        "+1.0 to +5.0."
    )
    assert "lambda" not in verdicts.step("vanilla", "gism", UP, 900, lambdas=(0.2, 0.2))
    same = verdicts.step("gism", "gism_apt", BOTH, 900, same_weights=True)
    assert same == "GISM + APT has the weights of GISM, so nothing is compared."


def test_steps_in_short_names_those_clear_of_zero_in_either_direction() -> None:
    steps = [
        ("vanilla", "gism", UP, "more"),
        ("gism", "gism_pci", BOTH, "undecided"),
        ("gism", "gism_apt", DOWN, "less"),
        ("gism_apt", "pistole", Interval(0, 0, 0), "identical"),
    ]
    assert verdicts.steps_in_short(steps) == (
        "Of 4 steps of the ablation, 2 change the Sum with an interval clear of zero: GISM over "
        "Vanilla (+3.0, +1.0 to +5.0); GISM + APT over GISM (-3.0, -5.0 to -1.0)."
    )
    assert verdicts.steps_in_short(steps[1:2]) == (
        "None of the 1 step of the ablation changes the Sum with an interval clear of zero."
    )


def test_gain_that_is_not_clear_is_none() -> None:
    assert verdicts.gained(UP, 9).endswith("95% interval +1.0 to +5.0.")
    for lead in (BOTH, DOWN):
        assert verdicts.gained(lead, 9).endswith("So there is no clear gain to explain.")


@pytest.mark.parametrize(
    ("leads", "answer"),
    [
        ((UP, UP, UP), "the aim of the masks matters here"),
        ((UP, UP, BOTH), "the evidence that the aim of the masks matters is mixed"),
        ((UP, DOWN, BOTH), "the evidence that the aim of the masks matters is mixed"),
        ((BOTH, BOTH, DOWN), "nothing here shows that the aim of the masks matters"),
    ],
)
def test_aim_needs_every_control(leads: tuple[Interval, ...], answer: str) -> None:
    text = verdicts.aim(dict(zip(verdicts.AIMLESS, leads, strict=True)), 900)
    assert text.endswith(f" So {answer}.")


def test_aim_lists_by_outcome() -> None:
    leads = {"uniform_shrink": BOTH, POOL: UP, "random_score": DOWN}
    assert verdicts.aim(leads, 900).startswith(
        "Against masking without aim, PISTOLE gives more than shuffled masks, cannot be told "
        "apart, at n = 900, from uniform shrinking and gives less than masks from noise."
    )
    assert verdicts.aim({}, 900) == ""


def test_split_gives_shares_with_intervals() -> None:
    shares = {
        "uniform_shrink": (Interval(0.05, 0.02, 0.08), Interval(0.5, 0.2, 0.9)),
        POOL: (Interval(-0.01, -0.02, 0.03), Interval(-0.1, -INF, 0.3)),
    }
    text = verdicts.split(Interval(0.1, 0.05, 0.15), shares, (0.4, 0.5))
    assert text == (
        "Of PISTOLE's lead of +10.0 points over vanilla merging, +5.0 comes with uniform shrinking "
        "alone (a share of 50%, 95% interval 20% to 90%) and -1.0 comes with shuffled masks alone "
        "(a share of -10%, 95% interval up to 30%). All of them include the change of lambda from "
        "0.4 to 0.5."
    )
    assert "include" not in verdicts.split(UP, shares, (0.4, 0.4))
    for ends, words in (((0.2, INF), "20% and more"), ((-INF, INF), "unbounded")):
        wide = {"uniform_shrink": (UP, Interval(0.5, *ends))}
        assert f"95% interval {words})" in verdicts.split(UP, wide)
