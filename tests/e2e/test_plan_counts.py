"""The plan's formulas against the images that really go through the tower, stage by stage."""

import csv
from pathlib import Path

import pytest

from pistole.cli import app
from pistole.params import CHECKS, Params, load_params
from pistole.plan.attacks import ensemble, ladder
from pistole.plan.stages import PASSES, evaluate, finetune, select, works_of
from pistole.plan.survival import FRAGILE, STURDY, Survival
from pistole.plan.tower import read_tower
from pistole.plan.work import FORWARD, Work, Works, by_kind
from pistole.stages.attacking import ensemble_spec
from tests.attempts import Record, recorded
from tests.e2e.micro import PREPARED, SCORED, SOURCES, inside, run_micro, write_micro
from tests.e2e.passes import counted

CHANGES = {
    "attack__evaluate__apgd_t__restarts": 2,
    "attack__evaluate__radii": ["2/255", "6/255"],
    "attack__evaluate__fab_t__steps": 2,
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
    "base": PREPARED[:-1],
    "stability@natural": [["vectors", source] for source in SOURCES],
    "select": [SCORED[-1]],
    "evaluate@base": [["merge", m] for m in CHANGES["methods"]],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every stage's result and, in ``seen``, the passes that it took."""
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """What the ensemble's attempts met, of every stage."""
    return {}


@pytest.fixture(scope="module")
def seen(project: Path, records: dict[str, Record]) -> dict[str, dict[str, int]]:
    models = {"base": "artifacts/base", "robust": "artifacts/checkpoints/robust"}
    write_micro(project / "params.yaml", models=models, **CHANGES)
    found = {}
    with inside(project):
        for stage, command in STAGES.items():
            for other in BEFORE.get(stage, []):
                app(other, standalone_mode=False)
            with counted() as passes, recorded() as records[stage]:
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
    share = Survival(sum(clean) / len(clean), 0, 0, 0)
    found = by_kind(select(planned.params, share))
    assert found == pytest.approx(seen["select"])


def in_attempts(record: Record, images: int, times: int, params: Params, **options) -> Works:
    """An evaluation of ``times`` tasks without its ladder, from what its attempts met."""
    spec = ensemble_spec(params, **options)
    works = times * ensemble(images, [], spec) + ensemble(0, record.attempts, spec)
    return [*works, Work(FORWARD, record.late, 1)]


@pytest.mark.parametrize("model", ["base", "robust"])
def test_evaluation_passes_follow_from_what_its_attempts_met(
    model: str, seen, planned, records, project: Path
):
    params, stage = planned.params, f"evaluate@{model}"
    assert {a.name for a in records[stage].attempts} == {"fgsm", "apgd_ce", "apgd_t", "fab_t"}
    works = in_attempts(records[stage], 11, 2, params)
    rungs = params.attack.evaluate.ladder
    least, most = (
        by_kind([*works, *ladder(rungs, standing), *ladder(rungs, standing)])
        for standing in (0, rungs)
    )
    assert least["image_gradient"] == pytest.approx(seen[stage]["image_gradient"])
    assert least[FORWARD] < seen[stage][FORWARD] <= most[FORWARD]  # Square ends on what it breaks


@pytest.mark.parametrize("method", ["vanilla", "pistole"])
def test_frontier_passes_follow_from_what_its_attempts_met(method: str, seen, planned, records):
    stage = f"frontier@{method}"
    assert {a.name for a in records[stage].attempts} == {"fgsm", "apgd_ce"}
    works = in_attempts(records[stage], 8, 2 * 2, planned.params, apgd_ce_alone=True)
    assert by_kind(works) == pytest.approx(seen[stage])


OBJECTIVES = {
    **{name: {"objective": name} for name in PASSES},
    "fare": {"objective": "fare", "attack__train__loss": "l2"},
    "tecoa_l2": {"objective": "tecoa", "attack__train__loss": "l2"},
    "pmg_detached": {"objective": "pmg", "detach_clean": True},
    "tga_in_parts": {"objective": "tga", "accumulate": 3, "precision": "bf16"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and base alone."""
    return run_micro(tmp_path_factory.mktemp("prepared"), PREPARED)


@pytest.mark.parametrize("case", OBJECTIVES)
def test_one_step_of_every_objective(case: str, prepared: Path):
    knobs = {"steps": 1, "attack__train__loss": "ce", **OBJECTIVES[case]}
    changes = {k if "__" in k else f"finetune__robust__{k}": v for k, v in knobs.items()}
    file = write_micro(prepared / f"{case}.yaml", **changes)
    params = load_params(file)
    command = ["finetune", "robust", "--params", file.name, "--out", case]
    with inside(prepared), counted() as passes:
        app(command, standalone_mode=False)
    works = finetune(params, "robust")
    assert by_kind(works) == passes
    assert max(work.batch for work in works) == (6 if "accumulate" in knobs else 16)


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
    base, robust = (by_kind(evaluate(planned.params, {}, s)) for s in (FRAGILE, STURDY))
    assert sum(base.values()) < sum(robust.values())
