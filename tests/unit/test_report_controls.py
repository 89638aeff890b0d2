"""The sections ablation and controls on answers whose differences are known."""

import numpy as np
import pytest

from pistole.report.controls import ablation, comparisons, controls
from pistole.report.metrics import flat_metrics
from pistole.report.rows import comparison_groups, missing
from pistole.report.statistics import Paired, compare
from pistole.report.tables import ABLATION, CONTROLS, PERMUTED

IMAGES = 400
RIGHT = {  # model -> how many images it is right on, clean and attacked alike
    "vanilla": 200,
    "gism": 240,
    "gism_pci": 241,
    "gism_apt": 230,
    "pistole": 300,
    "wise_ft": 300,
    "wise_ft_matched": 220,
    "uniform_shrink": 250,
    "permuted_mask_1": 200,
    "permuted_mask_2": 210,
    "permuted_mask_3": 220,
    "random_score": 299,
    "self_mask": 340,
    "magnitude_mask": 300,
    "zero_nat": 300,
}


def answered(names: tuple[str, ...]) -> Paired:
    """Model k is right on the first RIGHT[k] images, so on all that a smaller one is right on."""
    rows = np.arange(IMAGES)[:, None] < [RIGHT[name] for name in names]
    return compare(names, {"one": np.stack([rows, rows], axis=2)}, resamples=1000, seed=0)


def entries(names: tuple[str, ...], **lambdas: float) -> dict[str, dict]:
    """Entries of metrics.json; zero_nat has the weights of pistole."""
    digests = {"zero_nat": "pistole"}
    return {n: {"digest": digests.get(n, n), "lambda": lambdas.get(n, 0.5)} for n in names}


def sections(*names: str, variant: str | None = "pistole", **lambdas: float) -> dict[str, dict]:
    paired, models = answered(names), entries(names, **lambdas)
    return {
        "ablation": ablation(paired, models, IMAGES, variant),
        "controls": controls(paired, models, IMAGES, chosen=True),
    }


def outcome(section: dict, rival: str) -> str:
    return {entry["rival"]: entry["verdict"] for entry in section["verdicts"]}[rival]


def test_steps_are_paired_changes_of_the_sum() -> None:
    steps = sections(*RIGHT)["ablation"]["steps"]
    found = {(s["from"], s["to"]): (s["sum"]["value"], s["verdict"]) for s in steps}
    assert found == {
        ("vanilla", "gism"): (pytest.approx(2 * 40 / IMAGES), "more"),
        ("gism", "gism_pci"): (pytest.approx(2 * 1 / IMAGES), "undecided"),
        ("gism", "gism_apt"): (pytest.approx(-2 * 10 / IMAGES), "less"),
        ("gism_apt", "pistole"): (pytest.approx(2 * 70 / IMAGES), "more"),
        ("gism_pci", "pistole"): (pytest.approx(2 * 59 / IMAGES), "more"),
    }


def test_controls_are_judged_by_the_paired_interval() -> None:
    section = sections(*RIGHT)["controls"]
    assert [entry["rival"] for entry in section["verdicts"]] == [
        "vanilla",
        "uniform_shrink",
        "permuted_mask",
        "random_score",
        "self_mask",
        "magnitude_mask",
        "zero_nat",
        "wise_ft_matched",
        "wise_ft",
    ]
    assert outcome(section, "uniform_shrink") == "more"
    assert outcome(section, "random_score") == "undecided"  # one image of 400
    assert outcome(section, "self_mask") == "less"
    assert outcome(section, "zero_nat") == "identical"
    assert outcome(section, "wise_ft") == "undecided"  # the same answers, other weights
    assert section["statement"].endswith(
        "So the evidence that the aim of the masks matters is mixed."
    )


def test_permutations_are_pooled() -> None:
    pooled = sections(*RIGHT)["controls"]["pooled"]
    assert pooled["sum"] == pytest.approx(2 * 210 / IMAGES)
    assert pooled["difference"]["sum"]["value"] == pytest.approx(2 * 90 / IMAGES)
    low, high = pooled["difference"]["sum"]["ci95"]
    # 80 images on which PISTOLE alone is right, 20 on which 1 or 2 of 3 permutations are.
    lead = np.concatenate([np.ones(80), np.full(10, 2 / 3), np.full(10, 1 / 3), np.zeros(300)])
    assert high - low == pytest.approx(2 * 2 * 1.96 * lead.std() / IMAGES**0.5, rel=0.1)


def test_gain_is_split() -> None:
    split = sections(*RIGHT)["controls"]["split"]
    assert split["gain"]["value"] == pytest.approx(2 * 100 / IMAGES)
    shares = {name: part["share"]["value"] for name, part in split["shares"].items()}
    assert shares == pytest.approx(
        {"wise_ft_matched": 0.2, "uniform_shrink": 0.5, "permuted_mask": 0.1}
    )


@pytest.mark.parametrize("right", [190, 200, 201])  # less, equal, not told apart
def test_no_clear_gain_is_not_split(monkeypatch: pytest.MonkeyPatch, right: int) -> None:
    monkeypatch.setitem(RIGHT, "pistole", right)
    section = sections(*RIGHT)["controls"]
    assert section["split"] is None
    assert section["gain_statement"].endswith("So there is no clear gain to explain.")


def test_nothing_to_split_with() -> None:
    assert sections("vanilla", "pistole", "self_mask")["controls"]["split"] is None


def test_the_same_weights_are_no_evidence() -> None:
    paired, models = answered(tuple(RIGHT)), entries(tuple(RIGHT))
    for name in ("uniform_shrink", "gism_apt"):
        models[name]["digest"] = "pistole"
    section = controls(paired, models, IMAGES, chosen=True)
    assert outcome(section, "uniform_shrink") == "identical"
    assert "uniform" not in section["statement"]
    steps = ablation(paired, models, IMAGES, "pistole")["steps"]
    (same,) = [step for step in steps if step["verdict"] == "identical"]
    assert (same["from"], same["to"]) == ("gism_apt", "pistole")


def test_other_lambdas_are_told() -> None:
    made = sections(*RIGHT, vanilla=0.2, self_mask=0.4)
    assert "change of lambda from 0.2 to 0.5" in made["controls"]["split"]["statement"]
    assert "not comparable: Self mask" in made["controls"]["lambda_statement"]


def test_comparisons_with_the_same_model_do_not_count() -> None:
    assert comparisons(list(sections(*RIGHT).values())) == 8 + 5


@pytest.mark.parametrize("variant", ["pistole", None])
def test_pistole_with_its_own_masks_is_the_last_step(variant: str | None) -> None:
    made = sections("vanilla", "gism", "pistole", variant=variant)["ablation"]
    assert made["models"] == ["vanilla", "gism", "pistole"]
    assert made["missing"] == ["gism_pci", "gism_apt"]


def test_pistole_with_other_masks_is_no_step() -> None:
    made = sections("vanilla", "gism", "gism_apt", "pistole", variant="gism")["ablation"]
    assert made["models"] == ["vanilla", "gism", "gism_apt"]
    assert {step["to"] for step in made["steps"]} == {"gism", "gism_apt"}


def test_without_variants_there_is_no_ablation() -> None:
    made = sections("vanilla", "pistole")
    assert made["ablation"]["models"] == made["ablation"]["steps"] == []
    assert made["ablation"]["statement"] == ""
    assert made["controls"]["verdicts"] == []
    assert made["controls"]["missing"] == list(CONTROLS)
    assert comparisons(list(made.values())) == 0


def test_without_pistole_nothing_is_judged() -> None:
    section = sections("vanilla", "uniform_shrink", *PERMUTED)["controls"]
    assert section["verdicts"] == []
    assert section["statement"] == section["gain_statement"] == ""
    assert section["pooled"]["difference"] is None


def test_one_permutation_is_its_own_mean() -> None:
    section = sections("pistole", "permuted_mask_2")["controls"]
    assert section["pooled"] is None
    assert outcome(section, "permuted_mask") == "more"


def metrics_of(*names: str) -> dict:
    """As much of metrics.json as rows and flat numbers read."""
    paired, made = answered(names), sections(*names)
    models = {
        name: {key: part.value for key, part in paired.mean([name]).items()}
        | {"ci95": {key: [part.low, part.high] for key, part in paired.mean([name]).items()}}
        | entries(names)[name]
        for name in names
    }
    return {"models": models, "differences": {}, **made}


def test_rows_put_the_mean_after_its_permutations() -> None:
    groups = comparison_groups(metrics_of(*RIGHT))
    assert [group["title"] for group in groups] == ["Ablation", "Controls"]
    first, second = ([row["name"] for row in group["rows"]] for group in groups)
    assert first == list(ABLATION)
    assert second[:6] == ["wise_ft_matched", "uniform_shrink", *PERMUTED, "permuted_mask"]
    parts = [row["name"] for row in groups[1]["rows"] if row["part_of_mean"]]
    assert parts == list(PERMUTED)


def test_rows_of_what_is_there() -> None:
    few = metrics_of("vanilla", "pistole", "permuted_mask_2")
    (group,) = comparison_groups(few)
    assert [row["name"] for row in group["rows"]] == ["permuted_mask_2"]
    assert not group["rows"][0]["part_of_mean"]
    assert missing(few)[:3] == ["GISM", "GISM + PCI", "GISM + APT"]
    assert comparison_groups(metrics_of("vanilla", "pistole")) == []


def test_tracker_gets_leads_and_shares() -> None:
    flat = flat_metrics(metrics_of(*RIGHT))
    assert flat["pistole_minus/permuted_mask"] == pytest.approx(0.45)
    assert flat["step/gism_to_gism_apt"] == pytest.approx(-0.05)
    assert flat["share_of_gain/uniform_shrink"] == pytest.approx(0.5)
