"""Sentences that depend on the numbers, and numbers as they are shown."""

import pytest

from pistole.report.page import inline
from pistole.report.statistics import Interval
from pistole.report.tables import in_order, signed
from pistole.report.values import flatten, number
from pistole.report.words import beyond_lambda, headline, origin, remedy, unreliable, weaknesses


def told(value: float, low: float, high: float, others: float = 1.0) -> str:
    """The headline for one lead over vanilla merging."""
    own = {"clean_mean": 0.8, "robust_mean": 0.3, "sum": 1.1}
    metrics = {"models": {"pistole": own, "vanilla": {"sum": others}}}
    lead = Interval(value, low, high)
    return headline(metrics, {"vanilla": dict.fromkeys(("clean_mean", "robust_mean", "sum"), lead)})


@pytest.mark.parametrize(
    ("ends", "verb", "zero"),
    [
        ((0.02, 0.01, 0.03), "PISTOLE beats vanilla", "clear of zero"),
        ((-0.02, -0.03, -0.01), "PISTOLE does worse than vanilla", "clear of zero"),
        ((0.02, -0.01, 0.05), "PISTOLE cannot be told apart from vanilla", "which holds zero"),
        ((0.0, 0.0, 0.0), "PISTOLE answers exactly as often right as vanilla", "which holds zero"),
    ],
)
def test_headline_claims_no_more_than_the_interval(ends, verb: str, zero: str) -> None:
    text = told(*ends)
    assert text.startswith(verb)
    assert zero in text
    assert "largest" not in text


def test_headline_admits_a_better_model() -> None:
    assert told(-0.1, -0.2, 0.1, others=1.2).endswith("The row with the largest Sum is Vanilla.")


def test_headline_without_pistole() -> None:
    assert "not among the evaluated models" in headline({"models": {"base": {"sum": 1}}}, {})


def test_full_strength_attack_has_no_weakness() -> None:
    attack = {"apgd_ce": {"steps": 100}, "apgd_t": {"steps": 100, "targets": 9}}
    assert weaknesses(attack) == []
    attack["apgd_t"] = {"steps": 99, "targets": 8}
    assert len(weaknesses(attack)) == 2


def test_unreliable_names_the_score() -> None:
    stability = {"natural": {"reliability": {"gism": 0.49, "pistole": 0.5}}}
    assert unreliable(stability) == ["natural / gism (0.49)"]


def test_remedy_is_that_of_the_stage() -> None:
    assert remedy({"natural": {}}) == "set stability.score_stat to rms"  # an old record
    rms = {"score_stat": "rms"}
    assert remedy({"natural": rms, "robust": {"score_stat": "mean_abs"}}).startswith("set")
    assert remedy({"natural": rms, "robust": rms}) == "raise slices.score"


def test_origin_of_every_kind_of_model() -> None:
    own = {"source": "robust", "objective": None, "checkpoint": "mine.safetensors"}
    assert origin(own) == "robust source, your checkpoint mine.safetensors"
    trained = {"source": "natural", "objective": "erm", "checkpoint": None}
    assert origin(trained) == "natural source, fine-tuned here (erm)"
    merged = {"method": "vanilla", "lambda": 0.25, "variant": None, "rescale": "norm"}
    assert origin(merged) == "merge Vanilla, λ = 0.25, rescale norm"
    soup = {"method": "greedy_soup", "lambda": None, "rescale": "none"}
    assert origin(soup).endswith(", no rescaling")
    assert "λ" not in origin(soup)
    assert origin({"record": None}) == "a model from outside the pipeline"


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (2 / 255, "attack.eps", "2/255"),
        (0.5 / 255, "attack.train.alpha", "0.5/255"),
        (0.1, "attack.eps", "25.5/255"),
        (0.123, "attack.eps", "0.123"),
        (0.0, "attack.eps", "0/255"),
        (1e-4, "lr", "0.0001"),
        (None, "beta", "null"),
        (True, "regen", "true"),
        ([0.0, 0.5], "grid", "0, 0.5"),
        (200, "test", "200"),
        (1.2e-7, "error", "1.2e-7"),
        (1e-12, "error", "1e-12"),
        (123456.7, "trace", "123457"),
        (1.5e12, "trace", "1.5e12"),
        (-0.123456, "slope", "-0.1235"),
        ([0.9, 0.95], "slope_ci95", "0.9 to 0.95"),
        ([0.9, None], "slope_ci95", "0.9 to null"),
        ([0.0, 2 / 255], "agreement.radii", "0/255, 2/255"),
        (float("inf"), "x", "inf"),
    ],
)
def test_numbers_read_like_params_yaml(value: object, key: str, text: str) -> None:
    assert number(value, key) == text


def test_flatten_keeps_order() -> None:
    assert list(flatten({"b": {"x": 1, "a": 2}, "a": 3})) == ["b.x", "b.a", "a"]


def test_differences_that_round_to_zero_have_no_sign() -> None:
    assert [signed(v) for v in (0.012, -0.012, 0.0, -0.0001)] == ["+1.2", "-1.2", "0.0", "0.0"]


def test_order_of_the_paper_then_strangers() -> None:
    assert list(in_order({"mine": 0, "pistole": 0, "base": 0})) == ["base", "pistole", "mine"]


def test_inline_keeps_the_ids_of_figures_apart() -> None:
    body = '<g id="a" clip-path="url(#b)"/><use xlink:href="#c"/>'
    svg = f'<?xml?>\n<svg width="9pt" height="9pt">{body}</svg>'
    text = inline(svg, "frontier")
    assert 'id="frontier-a"' in text
    assert "url(#frontier-b)" in text
    assert '"#frontier-c"' in text
    assert text.startswith("<svg")
    assert "9pt" not in text


def points_of(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"lambda": 0.0, "clean_mean": c, "robust_mean": r} for c, r in pairs]


def test_curves_are_compared_at_equal_clean_accuracy() -> None:
    curves = {
        "pistole": points_of((0.6, 0.5), (0.7, 0.3), (0.95, 0.1)),  # the last: out of reach
        # At 0.6: 0.4, at 0.7: 0.3; the last point is worse in both than the first.
        "wise_ft": points_of((0.8, 0.2), (0.5, 0.5), (0.69, 0.05)),
        "vanilla": points_of((0.1, 0.9), (0.2, 0.8)),
    }
    vanilla, wise_ft = beyond_lambda(curves)
    assert vanilla == "the best points of vanilla merging reach none of PISTOLE's clean accuracies"
    assert wise_ft == (
        "against the best points of WiSE-FT at equal clean accuracy, 1 of 2 points of PISTOLE's "
        "line lie higher; the mean gap is +5.0 robust points"
    )
    assert beyond_lambda({}) == []
