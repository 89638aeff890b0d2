"""Every merging method of the catalogue, from its preparation to merged weights and a curve."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pistole.baselines.registry import METHODS
from pistole.files import load_tensors, read_json
from pistole.params.methods import BASELINES, OFFICIAL, POINTS, PREPARATIONS, need_of
from tests.e2e.following import follow
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, refusal, run_micro, write_micro

COMPARED = [*BASELINES, "vanilla", "pistole"]
KNOBS = {
    "methods": COMPARED,
    "models": {"base": "artifacts/base", "pistole": "artifacts/merged/pistole"},
    "select__grid": [0.25, 0.5],
    "prepare__run": list(PREPARATIONS),
    "prepare__steps": 2,
    "frontier__methods": ["vanilla", "ties", "fisher"],
    "theory__merge_path__methods": ["pistole"],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    check = ["params", "--check", "params.yaml", "--out", "artifacts/params.ok"]
    commands = [
        [*check, "--needs", "artifacts/prepared/needs.json"],
        *PREPARED,
        *FINETUNED,
        *SCORED,
        *(["prepare", need] for need in PREPARATIONS),
        ["select"],
        *(["merge", name] for name in COMPARED),
        ["frontier", "ties"],
    ]
    return run_micro(tmp_path_factory.mktemp("compared"), commands, **KNOBS)


def merged(project: Path, name: str) -> dict[str, torch.Tensor]:
    return load_tensors(project / "artifacts/merged" / name / "visual.safetensors")[0]


def test_the_dag_learns_which_method_needs_what(project: Path):
    needs = read_json(project / "artifacts/prepared/needs.json")
    assert set(needs) == set(PREPARATIONS)
    assert needs["fisher"] == ["fisher", "fisher_official"]


@pytest.mark.parametrize("name", COMPARED)
def test_every_method_gives_a_finite_model_that_is_not_the_base(project: Path, name: str):
    theta, base = merged(project, name), load_tensors(project / "artifacts/base/visual.safetensors")
    assert theta.keys() == base[0].keys()
    assert all(value.dtype == base[0][key].dtype for key, value in theta.items())
    assert all(value.isfinite().all() for value in theta.values())
    assert any(not torch.equal(value, base[0][key]) for key, value in theta.items())


def test_the_chosen_settings_are_on_record(project: Path):
    lambdas = read_json(project / "artifacts/select/lambda.json")
    options = read_json(project / "artifacts/select/options.json")
    assert set(lambdas) == {name for name in COMPARED if METHODS[name].has_axis}
    assert set(lambdas.values()) <= {0.25, 0.5}
    assert set(options["robustness_soup"]) == set(options["greedy_soup"]) == {"natural", "robust"}
    for name, chosen in options.items():
        recipe = read_json(project / "artifacts/merged" / name / "recipe.json")
        assert recipe["options"] == chosen
        assert recipe["lambda"] == lambdas.get(name)
    point = read_json(project / "artifacts/merged/ties_official/recipe.json")
    assert (point["lambda"], point["options"]) == (None, {})


def test_a_tuned_method_is_never_worse_on_the_held_out_images_than_its_official_point(
    project: Path,
):
    import csv

    with (project / "artifacts/select/grid.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for name in (n.removesuffix(OFFICIAL) for n in POINTS if n.endswith(OFFICIAL)):
        own = [row for row in rows if row["method"] == name]
        official = [r for r in own if (r["lambda"], r["options"]) == ("0.5", "")]
        best = max(float(row["clean"]) + float(row["robust"]) for row in own)
        assert official, name
        assert best >= float(official[0]["clean"]) + float(official[0]["robust"])


def test_the_curve_is_measured_at_the_tuned_options(project: Path):
    summary = json.loads((project / "artifacts/frontier/ties/summary.json").read_text())
    options = read_json(project / "artifacts/select/options.json")
    assert summary["options"] == options.get("ties", {})


def test_merging_again_gives_the_same_bytes(project: Path, tmp_path: Path):
    for name in ("dare_ties", "fisher", "greedy_soup", "distac_ties"):
        run_micro(project, [["merge", name, "--out", str(tmp_path / name)]], **KNOBS)
        first = (project / "artifacts/merged" / name / "visual.safetensors").read_bytes()
        assert (tmp_path / name / "visual.safetensors").read_bytes() == first


def test_the_commands_of_the_page_work(project: Path, tmp_path: Path):
    """Those of docs/merging.md."""
    folder = tmp_path / "copy"
    shutil.copytree(project, folder)
    with inside(folder):
        follow("docs/merging.md")
    assert read_json(folder / "artifacts/merged/ties/recipe.json")["lambda"] == 0.3
    assert merged(folder, "ties").keys() == merged(project, "ties").keys()


def test_a_lambda_for_a_point_is_refused(project: Path, capsys):
    with inside(project):
        told = refusal(capsys, "merge", "ties_official", "--lambda", "0.3")
    assert told == "lambda is 0.3, but method 'ties_official' has none: leave it out"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"prepare__run": []},
            "prepare.run: methods need more prepared: add fisher, for fisher, fisher_official; ",
        ),
        ({"frontier__methods": ["vanilla", "ties_official"]}, "ties_official has no lambda"),
        ({"theory__merge_path__methods": ["fisher"]}, "fisher reads a preparation: drop it"),
    ],
)
def test_parameters_that_cannot_run_are_refused(tmp_path: Path, capsys, changes, told):
    write_micro(tmp_path / "params.yaml", **{**KNOBS, **changes})
    with inside(tmp_path):
        assert told in refusal(capsys, "params", "--check")


def test_every_preparation_belongs_to_a_method():
    assert {need_of(name) for name in METHODS} - {None} == set(PREPARATIONS)
