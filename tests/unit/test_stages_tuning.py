"""The search for a method's setting: its order, its ties, and what it asks."""

from dataclasses import dataclass, field

import pytest

from pistole.baselines.registry import MergeMethod
from pistole.stages.tuning import Setting, greedy, trials, tune

GRID = (0, 0.5, 1)


def method(**more) -> MergeMethod:
    return MergeMethod(lambda: {}, **more)


@dataclass
class Asked:
    """A score that remembers what it was asked."""

    peak: dict[str, float]
    settings: list[Setting] = field(default_factory=list)

    def __call__(self, setting: Setting) -> float:
        self.settings.append(setting)
        found = {"lam": setting.lam, **setting.options}
        return -sum((found.get(k, 1.0) - v) ** 2 for k, v in self.peak.items())


def test_lambda_comes_first_and_then_each_option_at_the_best_of_those_before():
    knobs = method(tuned={"scaling": (0.5, 1.0, 2.0), "density": (0.1, 0.2)})
    score = Asked({"lam": 0.5, "scaling": 2.0, "density": 0.1})
    found = tune(knobs, GRID, score)
    assert found == Setting(0.5, {"scaling": 2.0, "density": 0.1})
    assert [s.lam for s in score.settings] == [0, 0.5, 1, *[0.5] * 5]
    assert score.settings[-1].options == {"scaling": 2.0, "density": 0.2}
    assert len(score.settings) == trials(knobs, GRID) == 8


def test_a_tie_keeps_the_smaller_lambda_and_the_official_options():
    knobs = method(tuned={"scaling": (0.5, 2.0)})
    assert tune(knobs, GRID, lambda _: 1.0) == Setting(0)


def test_no_setting_is_scored_twice():
    knobs = method(tuned={"scaling": (0.5, 1.0)})
    score = Asked({"lam": 1, "scaling": 0.5})
    tune(knobs, GRID, score)
    keys = [(s.lam, tuple(s.options.items())) for s in score.settings]
    assert len(keys) == len(set(keys))


def test_the_weights_of_a_soup_are_tried_together():
    weights = {"natural": (0.0, 1.0), "robust": (0.0, 0.5, 1.0)}
    soup = method(has_axis=False, tuned=weights)

    def ridge(setting: Setting) -> float:  # no single weight moves up from (0, 0)
        a, b = setting.options["natural"], setting.options["robust"]
        return 1.0 if (a, b) == (1.0, 0.5) else -a - b

    assert tune(soup, GRID, ridge) == Setting(options={"natural": 1.0, "robust": 0.5})
    assert trials(soup, GRID) == 6


def test_a_fixed_point_asks_nothing():
    fixed = method(has_axis=False)
    score = Asked({})
    assert tune(fixed, GRID, score) == Setting()
    assert not score.settings
    assert trials(fixed, GRID) == 0


def test_the_greedy_soup_adds_what_does_not_lower_the_score():
    """Candidates 0.5 (best), 0 and 1: only with 1 does the mean of lambda stay near 0.7."""
    pot = method(has_axis=False, searched=True)

    def score(setting: Setting) -> float:
        return -abs(setting.options["natural"] - 0.7)

    found = greedy(GRID, score)
    assert found.options == pytest.approx({"natural": 0.75, "robust": 0.25})
    assert tune(pot, GRID, score) == found
    assert trials(pot, GRID) == 2 * len(GRID) - 1


def test_a_greedy_soup_of_one_is_its_best_candidate():
    assert greedy(GRID, lambda s: -s.options["natural"]).options == {"natural": 0.0, "robust": 1.0}
