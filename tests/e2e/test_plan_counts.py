"""The plan's formulas against the images that really go through the tower, stage by stage."""

import csv
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pistole.cli import app
from pistole.params import CHECKS, load_params
from pistole.plan.attacks import Survival, ensemble
from pistole.plan.stages import evaluate, frontier, select, works_of
from pistole.plan.tower import read_tower
from pistole.plan.work import Works, by_kind
from pistole.stages.evaluate import ensemble_spec
from tests.e2e.micro import SCORED, SOURCES, inside, write_micro
from tests.e2e.passes import counted

CHANGES = {
    "attack__evaluate__apgd_t__targets": 1,  # then the outcomes tell what every attempt met
    "methods": ["vanilla", "pistole", "permuted_mask_1"],
    "theory__interference__resamples": 3,
    "theory__conflict_map__samples": 9,  # blocks of 2 images and one left over
    "theory__merge_path__samples": 10,  # two batches, parts of one image
    "theory__merge_path__methods": ["pistole"],
    "frontier__methods": ["vanilla", "pistole"],
    "slices": {"finetune": 64, "score": 18, "measure": 17, "select": 15, "test": 11},
}
STAGES = {
    "base": ["base"],
    **{f"finetune@{s}": ["finetune", s] for s in SOURCES},
    **{f"stability@{s}": ["stability", s] for s in SOURCES},
    "select": ["select"],
    "evaluate@base": ["evaluate", "base", "--model", "artifacts/base"],
    "evaluate@robust": ["evaluate", "robust", "--model", "artifacts/checkpoints/robust"],
    **{f"frontier@{m}": ["frontier", m] for m in ("vanilla", "pistole")},
    **{f"theory@{check}": ["theory", check] for check in CHECKS},
}
BEFORE = {  # what a stage needs beside the ones above
    "base": [["data", "clutter"], ["data", "shape"]],
    "stability@natural": [["vectors", source] for source in SOURCES],
    "select": [SCORED[-1]],
    "evaluate@base": [["merge", m] for m in CHANGES["methods"]],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every stage's result and, in ``seen``, the passes that it took."""
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(scope="module")
def seen(project: Path) -> dict[str, dict[str, int]]:
    models = {"base": "artifacts/base", "robust": "artifacts/checkpoints/robust"}
    write_micro(project / "params.yaml", models=models, **CHANGES)
    found = {}
    with inside(project):
        for stage, command in STAGES.items():
            for other in BEFORE.get(stage, []):
                app(other, standalone_mode=False)
            with counted() as passes:
                app(command, standalone_mode=False)
            found[stage] = passes
    return found


@pytest.fixture(scope="module")
def planned(seen, project: Path):
    """From a stage to its planned passes."""
    params = load_params(project / "params.yaml")
    with inside(project):
        tower = read_tower(params)

    def plan(stage: str, bound: bool = True) -> Works:
        return works_of(stage, params, tower, {}, {}, bound=bound)

    plan.params = params
    return plan


EXACT = [name for name in STAGES if name.split("@")[0] in ("finetune", "stability", "theory")]


@pytest.mark.parametrize("stage", EXACT)
def test_the_formula_is_what_the_stage_does(stage: str, seen, planned):
    assert by_kind(planned(stage)) == seen[stage]


def test_selection_passes_follow_from_the_clean_accuracies(seen, planned, project: Path):
    with (project / "artifacts/select/grid.csv").open() as stream:
        clean = [float(row["clean"]) for row in csv.DictReader(stream)]
    share = Survival(sum(clean) / len(clean), 0, 0)
    found = by_kind(select(planned.params, share))
    assert found == pytest.approx(seen["select"])


@pytest.mark.parametrize("model", ["base", "robust"])
def test_evaluation_passes_follow_from_the_outcomes(model: str, seen, planned, project: Path):
    table = pq.read_table(project / f"artifacts/evaluation/{model}/outcomes.parquet")
    spec, works = ensemble_spec(planned.params), []
    for name in planned.params.datasets:
        part = table.filter(pc.equal(table["dataset"], name))
        right, after = (pc.sum(part[c]).as_py() for c in ("clean_correct", "apgd_ce_correct"))
        works += ensemble(len(part), right, [right, after], spec)
    assert by_kind(works) == seen[f"evaluate@{model}"]


@pytest.mark.parametrize("method", ["vanilla", "pistole"])
def test_frontier_passes_follow_from_the_outcomes(method: str, seen, planned, project: Path):
    table = pq.read_table(project / f"artifacts/frontier/{method}/outcomes.parquet")
    right = pc.mean(table["clean_correct"]).as_py()
    found = by_kind(frontier(planned.params, Survival(right, right, right)))
    assert found == pytest.approx(seen[f"frontier@{method}"])


@pytest.mark.parametrize("stage", [s for s in STAGES if s not in (*EXACT, "base")])
def test_no_stage_does_more_than_the_bound(stage: str, seen, planned):
    bound = by_kind(planned(stage))
    assert all(images <= bound[kind] for kind, images in seen[stage].items())


def test_a_stage_without_a_model_has_no_passes(seen, planned):
    assert seen["base"] == {}
    assert by_kind(planned("masks")) == by_kind(planned("merge@pistole")) == {}


def test_passes_that_exits_save_are_expected_to_be_fewer(planned):
    for stage in ("select", "evaluate@base", "evaluate@robust", "frontier@pistole"):
        bound, typical = (by_kind(planned(stage, b)) for b in (True, False))
        assert all(typical[kind] < bound[kind] for kind in typical)
    base, robust = (by_kind(evaluate(planned.params, {}, s)) for s in _shares())
    assert sum(base.values()) < sum(robust.values())


def _shares():
    from pistole.plan.attacks import FRAGILE, STURDY

    return FRAGILE, STURDY
