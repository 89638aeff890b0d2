"""What limits the verdicts is told."""

from pistole.report import caveats


def test_lambda_is_told_honestly() -> None:
    chosen = caveats.about_lambda(True, 0.3, [])
    assert "was chosen for PISTOLE" in chosen
    assert "play no part" not in chosen
    assert caveats.about_lambda(False, 0.3, []) == "lambda = 0.3 was set for all, not chosen."
    assert "not comparable: Self mask." in caveats.about_lambda(True, 0.3, ["self_mask"])
    assert "the natural vector and its mask play no part" in caveats.about_lambda(True, 0.0, [])
    assert "the robust vector and its mask play no part" in caveats.about_lambda(True, 1.0, [])
    assert caveats.about_lambda(True, None, []) == ""


def test_unequal_amounts_are_told() -> None:
    assert caveats.about_amount(["uniform_shrink", "zero_nat"]) == ""
    assert caveats.about_amount(["self_mask"]).startswith("Self mask also keeps another amount")
    assert caveats.about_amount(["random_score", "self_mask"]).startswith(
        "Random score and Self mask also keep another amount"
    )


def test_caution_counts() -> None:
    text = caveats.caution(14)
    assert text.startswith("14 comparisons of the Sum")
    assert "about 0.7 of them" in text
    assert caveats.caution(0) == ""
