"""What the table of the contraction check says of each claim (docs/method.md A.3.4, A.6, E.1)."""

import json
import math

import pytest

from pistole.method.masks import MaskSettings
from pistole.theory.interference import Contraction
from pistole.theory.interference_claims import (
    above,
    as_proven,
    below,
    cap_directions,
    direction,
    jointly,
    log_convex,
)
from pistole.theory.interference_summary import Setting, summarise
from pistole.theory.interference_table import COLUMNS, least_selectivity, row, selective_share

OWN = MaskSettings(gamma=0.5, kappa=2, q=0.99, cap_mode="renorm")
ABOUT = Setting(images=40, resamples=9, variant="pistole", masks=OWN, lam=0.25)
KAPPAS = [0.0, 1.0, 2.0, 4.0]
GEOMETRIC = [1.0, 0.5, 0.25, 0.0625]  # a straight line in log: the least convex curve


def entry(grid: str, gradient: str = "robust", point: str = "base", **cells: object) -> dict:
    return row(grid, point, gradient, OWN, cells)


def curve(rhos: list, gradient: str = "robust", gamma: float = 0.5, error: float = 0.0) -> list:
    return [
        entry(
            "kappa",
            gradient,
            kappa=kappa,
            gamma=gamma,
            envelope_ratio=None if rho is None else rho * (1 + error),
            rho_w=rho,
        )
        for kappa, rho in zip(KAPPAS, rhos, strict=True)
    ]


def interval(quantity: str, low: float, high: float, grid="interval", **cells: object) -> dict:
    ends = {"estimate": (low + high) / 2, "low": low, "high": high}
    return entry(grid, quantity=quantity, **{"point": "source"} | ends | cells)


def test_a_row_has_every_column_and_no_number_that_json_lacks():
    found = entry("loss", estimate=math.nan, low=-math.inf, high=1.0, layer="a")
    assert tuple(found) == COLUMNS
    assert (found["estimate"], found["low"], found["high"]) == (None, None, 1.0)
    assert (found["grid"], found["point"], found["gradient"]) == ("loss", "base", "robust")
    assert (found["kappa"], found["gamma"], found["q"], found["cap_mode"]) == (
        2,
        0.5,
        0.99,
        "renorm",
    )


def test_layers_without_interference_count_neither_way():
    parts = {
        name: Contraction(*[1.0] * 8, selectivity=s)
        for name, s in {"a": 1.2, "b": 0.9, "c": math.nan, "d": 1 - 1e-9, "all": 0.5}.items()
    }
    assert selective_share(parts) == pytest.approx(2 / 3)
    assert least_selectivity(parts) == 0.9
    assert math.isnan(selective_share({"c": parts["c"], "all": parts["all"]}))


def test_theorem_1_holds_where_the_identity_and_all_shapes_do():
    rows = curve(GEOMETRIC, "natural") + curve([1.0, 0.4, 0.3, 0.29])
    rows += [entry("layer", layer="all", rho_w=0.3), interval("rho_w", 0.28, 0.32)]
    found = summarise(rows, ABOUT)
    assert found["verdict"] == "holds"
    assert found["identity_error"] == 0
    shapes = ("falls_in_kappa", "log_convex_in_kappa", "grows_with_gamma", "bound_holds")
    assert all(found[key] for key in shapes)
    assert found["rho_w"] == {"robust at base": 0.3}
    assert found["rho_w_ci95"] == {"robust at source": [0.28, 0.32]}
    assert (
        "0.300 to 0.300 over 1 places (95% intervals within 0.280 to 0.320)" in found["statement"]
    )
    assert found["measurement"].startswith("40 images that the scores never saw")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("rhos", "falls", "convex"),
    [
        ([1.0, 0.5, 0.5, 0.5], True, True),
        ([1.0, 0.5, 0.25, 0.26], False, True),  # convex, but it rises at the end
        ([1.0, 0.9, 0.4, 0.1], True, False),  # slopes of log: -0.1, -0.8, -0.7
        ([1.0, 0.5, 0.25, 0.2501], False, True),
        ([1.0, 0.5, 0.25, 0.0625 * 0.99], True, False),  # just below the straight line
        ([1.0, 0.5, 0.25, 0.0625 * 1.01], True, True),
        ([1.0, 0.5, 0.25 + 1e-8, 0.25], True, True),  # round-off of fp32 is no violation
        ([1.0, 0.0, 0.0, 0.0], True, True),  # log 0 has no slope
    ],
)
def test_falling_and_log_convex(rhos, falls, convex):
    # The bad curve decides, whichever it is.
    for rows in (
        curve(rhos) + curve(GEOMETRIC, "natural"),
        curve(GEOMETRIC, "natural") + curve(rhos),
    ):
        found = summarise(rows, ABOUT)
        assert (found["falls_in_kappa"], found["log_convex_in_kappa"]) == (falls, convex)
        assert found["verdict"] == ("holds" if falls and convex else "fails")
        assert ("rho_w rises" in found["statement"]) is not falls
        assert ("is not convex" in found["statement"]) is not convex


def test_a_curve_needs_no_even_steps_to_be_convex():
    steps = [{"kappa": k, "rho_w": math.exp(-k)} for k in (0.0, 0.5, 4.0, 16.0)]
    assert log_convex(steps)
    assert not log_convex([*steps[:2], {"kappa": 4.0, "rho_w": math.exp(-3.9)}, steps[3]])


@pytest.mark.parametrize(("error", "verdict"), [(9e-7, "holds"), (-9e-7, "holds"), (2e-6, "fails")])
def test_the_identity_may_err_by_round_off_alone(error, verdict):
    found = summarise(curve(GEOMETRIC, "natural") + curve(GEOMETRIC, error=error), ABOUT)
    assert found["verdict"] == verdict
    assert found["identity_error"] == pytest.approx(abs(error), rel=1e-6)
    assert (found["falls_in_kappa"], found["log_convex_in_kappa"]) == (True, True)


def test_the_identity_is_asked_of_every_grid():
    rows = [*curve(GEOMETRIC), entry("cap", envelope_ratio=0.4, rho_w=0.5)]
    assert summarise(rows, ABOUT)["identity_error"] == pytest.approx(0.2)
    assert summarise(rows, ABOUT)["verdict"] == "fails"


@pytest.mark.parametrize(("second", "grows"), [(1.0, True), (0.9, False)])
def test_a_larger_gamma_never_lowers_rho_w(second, grows):
    rows = curve(GEOMETRIC, gamma=0.25) + curve(
        [1.0, *(second * r for r in GEOMETRIC[1:])], gamma=1
    )
    found = summarise(rows, ABOUT)
    assert (found["grows_with_gamma"], found["falls_in_kappa"]) == (grows, True)
    assert found["verdict"] == ("holds" if grows else "fails")


@pytest.mark.parametrize(("bound", "holds"), [(0.5, True), (0.49, False)])
def test_the_mix_of_both_vectors_keeps_its_bound(bound, holds):
    mixed = entry("lambda", "both", envelope_ratio=0.5, rho_w=0.5, bound=bound)
    found = summarise([*curve(GEOMETRIC), mixed, entry("lambda", "both")], ABOUT)
    assert found["bound_holds"] is holds
    assert found["verdict"] == ("holds" if holds else "fails")


def test_nothing_that_interferes_decides_nothing():
    found = summarise(curve([None] * 4), ABOUT)
    assert found["verdict"] == "undecided"
    assert "nothing interferes" in found["statement"]
    assert "not defined" in found["statement"]
    assert found["loss_verdict"] == found["proposition_verdict"] == "undecided"
    assert found["selectivity_verdict"] == "undecided"
    json.dumps(found, allow_nan=False)
    assert summarise(curve([None] * 4) + curve(GEOMETRIC, "natural"), ABOUT)["verdict"] == "holds"


@pytest.mark.parametrize(
    ("values", "course"),
    [
        ([1.0, 0.5, 0.5], "falls"),
        ([0.5, 0.5, 0.6], "rises"),
        ([0.5, 0.5 + 1e-8, 0.5], "unchanged"),
        ([0.5, 0.6, 0.5], "mixed"),
        ([0.5], "unchanged"),
    ],
)
def test_directions(values, course):
    assert direction(values) == course


def cap(mode: str, rhos: list[float], gradient: str = "robust") -> list[dict]:
    return [
        entry("cap", gradient, cap_mode=mode, q=q, rho_w=rho, envelope_ratio=rho)
        for q, rho in zip((0.9, 0.99, 1.0), rhos, strict=True)
    ]


def test_the_direction_of_each_reading_of_the_cap():
    rows = cap("score_clip", [0.7, 0.6, 0.5]) + cap("renorm", [0.1, 0.3, 0.5])
    rows += cap("renorm", [0.2, 0.2, 0.2], "natural") + cap("mask_cap", [0.5] * 3)
    found = summarise(rows, ABOUT)
    assert found["cap_direction"] == {
        "score_clip": "rises",
        "renorm": "falls",
        "mask_cap": "unchanged",
    }
    assert found["cap_verdicts"] == {
        "score_clip": "fails",
        "renorm": "holds",
        "mask_cap": "undecided",
    }
    assert found["cap_as_proven"]
    assert (
        "score_clip rises, renorm falls, mask_cap unchanged (as proven)" in found["cap_statement"]
    )


def test_places_that_disagree_on_the_cap_are_mixed():
    rows = cap("renorm", [0.1, 0.3, 0.5]) + cap("renorm", [0.5, 0.3, 0.1], "natural")
    assert cap_directions(rows) == {"renorm": "mixed"}
    found = summarise(rows, ABOUT)
    assert found["cap_verdicts"] == {"renorm": "fails"}
    assert "which contradicts the proof" in found["cap_statement"]


@pytest.mark.parametrize(
    ("mode", "course", "proven"),
    [
        ("score_clip", "falls", False),
        ("score_clip", "rises", True),
        ("renorm", "rises", False),
        ("zero_top", "falls", True),
        ("mask_cap", "unchanged", True),
    ],
)
def test_what_is_proven_of_each_reading(mode, course, proven):
    assert as_proven({mode: course}) is proven


@pytest.mark.parametrize(
    ("least", "verdict"),
    [([1.2, 1.0 - 1e-8], "holds"), ([1.2, 0.99], "fails"), ([None], "undecided")],
)
def test_the_proposition_needs_every_layer(least, verdict):
    rows = [entry("proposition", point="source", selectivity=s) for s in least]
    assert summarise(rows, ABOUT)["proposition_verdict"] == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([], "undecided"),
        (["holds"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["holds", "undecided", "fails"], "fails"),
    ],
)
def test_a_claim_holds_if_all_its_parts_do(parts, verdict):
    assert jointly(parts) == verdict


def test_intervals_decide_only_where_they_are_clear_of_the_limit():
    high, around, low = (interval("x", *ends) for ends in ((1.1, 1.3), (0.9, 1.3), (0.7, 0.9)))
    undefined = entry("interval", quantity="x")
    for rows, up, down in (
        ([high, undefined], "holds", "fails"),
        ([low], "fails", "holds"),
        ([high, around], "undecided", "fails"),
        ([high, around, low], "fails", "fails"),
        ([undefined], "undecided", "undecided"),
    ):
        assert (above(rows, 1.0), below(rows, 1.0)) == (up, down)


@pytest.mark.parametrize(
    ("own", "gain", "verdict"),
    [
        ((1.1, 1.3), (1.05, 1.2), "holds"),
        ((1.1, 1.3), (0.95, 1.05), "undecided"),  # no better than permuted masks
        ((0.9, 1.1), (1.05, 1.2), "undecided"),
        ((1.1, 1.3), (0.8, 0.9), "fails"),
        ((0.8, 0.9), (1.05, 1.2), "fails"),
    ],
)
def test_selectivity_must_beat_1_and_permuted_masks(own, gain, verdict):
    rows = [
        interval("selectivity", *own),
        interval("selectivity_permuted", 1.0, 1.1),
        interval("selectivity_gain", *gain),
        *(
            entry("layer", layer=n, selectivity_permuted=s)
            for n, s in zip("abc", (1, 7, 2), strict=True)
        ),
        entry("layer", layer="all", selectivity_permuted=9.0, selective_layers=0.75),
    ]
    found = summarise(rows, ABOUT)
    assert found["selectivity_verdict"] == verdict
    assert found["selectivity"] == {"robust at source": pytest.approx(sum(own) / 2)}
    assert found["selectivity_ci95"] == {"robust at source": list(own)}
    assert found["selectivity_permuted_median_layer"] == {"robust at base": 2}
    assert found["selective_layers"] == {"robust at base": 0.75}
    # Theorem 1 as stated does not depend on the aim of the masks.
    assert summarise(rows + curve(GEOMETRIC), ABOUT)["verdict"] == "holds"


def trial(low: float, high: float, gradient: str, point: str = "source") -> list[dict]:
    place = {"grid": "loss", "gradient": gradient, "point": point}
    return [
        interval("masked", 0.1, 0.3, first_order=-0.05, second_order_share=1.25, **place),
        interval("uniform", 0.2, 0.6, first_order=-0.05, **place),
        interval("unmasked", -0.1, 0.6, first_order=-0.05, **place),
        interval("masked_minus_uniform", low, high, **place),
    ]


@pytest.mark.parametrize(
    ("natural", "robust", "verdict"),
    [
        ((-0.2, -0.1), (-0.3, -0.1), "holds"),
        ((-0.2, -0.1), (-0.3, 0.1), "undecided"),
        ((-0.2, -0.1), (0.1, 0.3), "fails"),
    ],
)
def test_the_true_loss_is_judged_at_the_sources(natural, robust, verdict):
    rows = trial(*natural, "natural") + trial(*robust, "robust")
    rows += trial(0.1, 0.2, "natural", "base") + trial(-0.1, 0.2, "robust", "base")
    found = summarise(rows, ABOUT)
    assert found["loss_verdict"] == verdict
    told = found["loss_statement"]
    assert "natural loss +0.200 masked (first-order term -0.050) and +0.400 uniform" in told
    assert "the lower loss in 0, the higher one in 1 of 2 cases" in told
    assert found["loss_masked_minus_uniform_ci95"]["robust at source"] == list(robust)
    assert found["second_order_share"]["natural at source"] == 1.25
    assert len(found["loss_unmasked"]) == 4


def test_the_second_order_share_of_noise_is_not_told():
    rows = trial(-0.2, -0.1, "natural")
    rows[0] |= {"low": -0.1}
    assert summarise(rows, ABOUT)["second_order_share"] == {}
