"""With the transfer pool the report has the numbers after it; without it nothing changes."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_artifacts import IMAGES, LEVELS, TASKS, make_params
from report_files import write_json

from pistole.errors import UserError
from pistole.files import read_json
from pistole.params import Params
from pistole.report import terminal
from pistole.report.inputs import read_results
from pistole.report.transfer import sentence
from pistole.stages import report

FALLEN = {"pistole": "natural", "robust": "base"}  # one answer each per task, and to whose image


def pooled() -> Params:
    """Parameters with the pool on."""
    params = make_params()
    evaluate = params.attack.evaluate.model_copy(update={"transfer": True})
    attack = params.attack.model_copy(update={"evaluate": evaluate})
    return params.model_copy(update={"attack": attack})


def outcomes(artifacts: Path, name: str) -> list[dict]:
    """The rows of an evaluation."""
    return pq.read_table(artifacts / "evaluation" / name / "outcomes.parquet").to_pylist()


def first_right(artifacts: Path, name: str, task: str) -> str:
    """The first sample that a model gets right under attack."""
    rows = outcomes(artifacts, name)
    return next(r["id"] for r in rows if r["dataset"] == task and r["robust_correct"])


@pytest.fixture(scope="module")
def pool(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts and report where two models lose an answer in every task; tests only read it."""
    folder = tmp_path_factory.mktemp("pool")
    root = Path(shutil.copytree(finished / "artifacts", folder / "artifacts"))
    write_transfer(root)
    report.run(pooled(), root, folder / "report")
    return folder


@pytest.fixture
def artifacts(pool: Path, tmp_path: Path) -> Path:
    """Results of all earlier stages, to change."""
    return Path(shutil.copytree(pool / "artifacts", tmp_path / "artifacts"))


def write_transfer(root: Path) -> None:
    """Write what stage transfer writes."""
    rows, models = [], {}
    for name in LEVELS:
        about = read_json(root / "evaluation" / name / "summary.json")
        lost = int(name in FALLEN)
        if lost:
            rows += [{"model": name, "dataset": t, "id": first_right(root, name, t)} for t in TASKS]
        tasks = {
            task: {
                "robust_before": line["robust"],
                "robust": line["robust"] - lost / IMAGES,
                "fooled_by": {FALLEN[name]: 1} if lost else {},
                "data_digest": line["data_digest"],
            }
            for task, line in about["tasks"].items()
        }
        before = sum(line["robust_before"] for line in tasks.values()) / len(tasks)
        models[name] = {"digest": about["digest"], "tasks": tasks, "robust_mean_before": before}
    attack = {**about["attack"], "transfer": True}
    summary = {"transfer": True, "attack": attack, "seed": 0, "models": models}
    write_json(root / "transfer" / "summary.json", summary)
    table = pa.Table.from_pylist([{**row, "fooled_by": FALLEN[row["model"]]} for row in rows])
    pq.write_table(table, root / "transfer" / "fooled.parquet")


def test_the_numbers_are_those_after_the_pool(finished: Path, pool: Path) -> None:
    off, on = (read_json(place / "report/metrics.json") for place in (finished, pool))
    assert "transfer" not in off
    for name, before in off["models"].items():
        after, lost = on["models"][name], int(name in FALLEN) / IMAGES
        assert after["clean"] == before["clean"]
        for task in TASKS:
            assert after["robust"][task] == pytest.approx(before["robust"][task] - lost)
        assert after["robust_mean"] == pytest.approx(before["robust_mean"] - lost)
        assert after["sum"] == pytest.approx(before["sum"] - lost)
        told = on["transfer"][name]
        assert told["robust_mean_before"] == pytest.approx(before["robust_mean"])
        assert told["fell"] == dict.fromkeys(TASKS, int(name in FALLEN))
        assert told["fooled_by"] == ({FALLEN[name]: len(TASKS)} if name in FALLEN else {})
    # PISTOLE lost an answer per task and vanilla none: paired, on the same images.
    leads = [found["differences"]["vanilla"]["robust_mean"]["value"] for found in (off, on)]
    assert leads[1] == pytest.approx(leads[0] - 1 / IMAGES)
    tests = [found["mcnemar"]["natural"]["robust"] for found in (off, on)]
    assert tests[0] != tests[1]
    assert off["frontier"] == on["frontier"]


def test_the_page_says_that_the_pool_was_used_and_who_fell_to_whom(
    finished: Path, pool: Path
) -> None:
    off, on = ((place / "report/index.html").read_text() for place in (finished, pool))
    assert "Transfer pool" not in off
    assert '<h3 id="transfer">Transfer pool</h3>' in on
    assert "4 answers of 18 models fell to them" in on
    assert f"<td>{len(TASKS)}</td><td>Natural {len(TASKS)}</td>" in on
    assert "<td>0</td><td>–</td>" in on
    assert '""transfer"": true' in (pool / "report/table.csv").read_text()
    assert "transfer" not in (finished / "report/table.csv").read_text()


def test_the_terminal_says_it_too(pool: Path) -> None:
    metrics = read_json(pool / "report/metrics.json")
    told = " ".join(" ".join(text.split()) for text in terminal.sentences(metrics))
    assert sentence(metrics["transfer"]) in told
    del metrics["transfer"]
    assert "pool" not in " ".join(terminal.sentences(metrics))


def test_the_points_beside_the_curves_are_measured_as_the_curves(artifacts: Path) -> None:
    assert (
        read_results(pooled(), artifacts).anchors == read_results(make_params(), artifacts).anchors
    )


def change(artifacts: Path, edit) -> None:
    """Rewrite the summary of stage transfer."""
    path = artifacts / "transfer" / "summary.json"
    summary = read_json(path)
    edit(summary)
    write_json(path, summary)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda s: s.update(transfer=False), "the pool was off"),
        (lambda s: s["models"].pop("vanilla"), "another evaluation of vanilla"),
        (lambda s: s["models"]["gism"].update(digest="0" * 64), "another evaluation of gism"),
        (lambda s: s["attack"].update(eps=0.5), "another evaluation of base"),
        (lambda s: s.update(seed=1), "another evaluation of base"),
        (
            lambda s: s["models"]["base"]["tasks"]["digit"].update(data_digest="0" * 64),
            "another evaluation of base",
        ),
    ],
)
def test_a_pool_of_something_else_is_refused(artifacts: Path, edit, problem: str) -> None:
    change(artifacts, edit)
    with pytest.raises(UserError, match=rf"{problem}.*: run stage transfer again"):
        read_results(pooled(), artifacts)


def test_an_answer_that_was_wrong_cannot_fall(artifacts: Path) -> None:
    row = next(r for r in outcomes(artifacts, "base") if not r["robust_correct"])
    table = pa.table({"model": ["base"], "dataset": [row["dataset"]], "id": [row["id"]]})
    pq.write_table(table, artifacts / "transfer" / "fooled.parquet")
    with pytest.raises(UserError, match=r"1 right answers .* evaluation has 0: run stage transfer"):
        read_results(pooled(), artifacts)


def test_a_missing_pool_names_its_stage(artifacts: Path) -> None:
    (artifacts / "transfer" / "fooled.parquet").unlink()
    with pytest.raises(UserError, match="run stage transfer, which writes it"):
        read_results(pooled(), artifacts)
