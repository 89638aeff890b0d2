"""Stage transfer, and the images that stage evaluate keeps for it."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pistole.files import load_tensors, read_json, save_tensors
from pistole.models.zeroshot import with_head
from pistole.params import load_params
from pistole.plan.disk import disk_of
from pistole.plan.stages import transfer as planned
from pistole.plan.tower import read_tower
from pistole.plan.work import by_kind
from pistole.progress import QUIET
from pistole.robust import cascade, ensemble
from pistole.robust.journal import Journal
from pistole.stages.runtime import classifier, text_head, tower, with_parameters
from pistole.stages.slices import read_slice
from tests.e2e.micro import PREPARED, ROOT, inside, refusal, run_micro, status, write_micro
from tests.e2e.passes import counted
from tests.unit.test_stages_evaluate import killed_after

MODELS = {"base": "artifacts/base", "robust": "near", "vanilla": "far"}
ON = {"attack__evaluate__transfer": True, "attack__eps": "2/255", "models": MODELS}
EFFORT = {"apgd_ce__steps": 1, "apgd_t__steps": 1, "apgd_t__targets": 1, "ladder": 0}
ON |= {f"attack__evaluate__{key}": value for key, value in EFFORT.items()}
CPU = torch.device("cpu")


def evaluate(name: str) -> None:
    """Run ``pistole evaluate`` on a row of the table."""
    assert status("evaluate", name, "--model", MODELS[name]) == 0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base and two towers beside it, evaluated for the pool and tried on it."""
    folder = run_micro(tmp_path_factory.mktemp("transfer"), PREPARED, **ON)
    base, about = load_tensors(folder / "artifacts/base/visual.safetensors")
    for place, size in (("near", 0.01), ("far", 0.05)):
        noise = torch.Generator().manual_seed(len(place))
        moved = {
            name: value + size * value.abs().mean() * torch.randn(value.shape, generator=noise)
            for name, value in base.items()
        }
        save_tensors(folder / place / "visual.safetensors", moved, about)
    with inside(folder):
        for name in MODELS:
            with blind() if name == "robust" else contextlib.nullcontext():
                evaluate(name)
        assert status("transfer") == 0
    return folder


@contextlib.contextmanager
def blind() -> Iterator[None]:
    """Attacks that find nothing, as on a model that hides its gradients."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("apgd_ce", "apgd_t"):
            patch.setattr(ensemble, name, lambda model, x, *rest, **effort: x)
        patch.setattr(cascade, "fgsm", lambda x, gradient, eps: x)
        yield


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(project, tmp_path / "copy")


def outcomes(project: Path, name: str) -> list[dict]:
    """The rows of an evaluation."""
    return pq.read_table(project / "artifacts/evaluation" / name / "outcomes.parquet").to_pylist()


def results(project: Path) -> tuple[dict, list[dict]]:
    """What stage transfer wrote."""
    folder = project / "artifacts/transfer"
    return read_json(folder / "summary.json"), pq.read_table(folder / "fooled.parquet").to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def found(project: Path, name: str, dataset: str) -> tuple[torch.Tensor, dict]:
    """The images that fooled a model."""
    path = project / f"artifacts/evaluation/{name}/adversarial/{dataset}.safetensors"
    tensors, about = load_tensors(path)
    return tensors["images"], about


def test_the_images_of_exactly_the_fooled_samples_are_kept(project):
    for name in MODELS:
        for dataset in ("clutter", "shape"):
            images, about = found(project, name, dataset)
            rows = [row for row in outcomes(project, name) if row["dataset"] == dataset]
            fooled = [r["id"] for r in rows if r["clean_correct"] and not r["robust_correct"]]
            assert about["ids"] == fooled
            assert (name == "robust") == (not fooled)
            if not fooled:
                continue
            listed = read_slice(project / "artifacts/data" / dataset, "test")
            clean = listed.pixels(torch.tensor([listed.ids.index(i) for i in fooled]))
            assert images.dtype == torch.float32
            assert images.min() >= 0
            assert images.max() <= 1
            assert 0 < (images - clean).abs().max() <= 2 / 255 + 1e-6


def test_what_falls_was_right_and_is_wrong_on_the_image_that_is_named(project):
    summary, rows = results(project)
    assert {row["model"] for row in rows} >= {"robust"}  # whose own attack was blind
    with inside(project):
        base = Path("artifacts/base")
        for row in rows:
            before = {(r["dataset"], r["id"]): r for r in outcomes(project, row["model"])}
            own = before[row["dataset"], row["id"]]
            assert own["robust_correct"]
            assert row["fooled_by"] not in ("", row["model"])
            images, about = found(project, row["fooled_by"], row["dataset"])
            image = images[about["ids"].index(row["id"])]
            clf = classifier(base, row["dataset"], CPU)
            with_parameters(clf, tower(Path(MODELS[row["model"]]), base, CPU))
            head = with_head(clf, text_head(base, row["dataset"]))
            assert head(image[None]).argmax() != own["label"]
    assert len({(row["model"], row["dataset"], row["id"]) for row in rows}) == len(rows)
    assert list(summary["models"]) == sorted(MODELS)


def test_the_summary_agrees_with_the_rows_and_accuracy_never_rises(project):
    summary, rows = results(project)
    for name, model in summary["models"].items():
        evaluated = read_json(project / f"artifacts/evaluation/{name}/summary.json")
        assert model["digest"] == evaluated["digest"]
        assert summary["attack"] == {**evaluated["attack"], "transfer": True}
        for dataset, line in model["tasks"].items():
            own = [r for r in rows if (r["model"], r["dataset"]) == (name, dataset)]
            assert line["robust_before"] == evaluated["tasks"][dataset]["robust"]
            assert line["robust"] == pytest.approx(line["robust_before"] - len(own) / line["n"])
            assert line["robust"] <= line["robust_before"]
            counts = {other: sum(r["fooled_by"] == other for r in own) for other in MODELS}
            assert line["fooled_by"] == {other: n for other, n in counts.items() if n}
        assert model["robust_mean"] <= model["robust_mean_before"]


def test_the_plan_bounds_its_passes(project):
    with inside(project), counted() as passes:
        assert status("transfer") == 0
        params = load_params(Path("params.yaml"))
    assert passes["forward"] == sum(
        line["forwards"]
        for model in results(project)[0]["models"].values()
        for line in model["tasks"].values()
    )
    typical, bound = (by_kind(planned(params, bound=bound))["forward"] for bound in (False, True))
    assert bound == 3 * 2 * 2 * 16
    assert 0 < typical < bound
    assert passes["forward"] < bound


def test_the_plan_bounds_the_images_on_disk(project):
    with inside(project):
        params = load_params(Path("params.yaml"))
        pixels = read_tower(params).image_size ** 2 * 3
        disk = disk_of("evaluate@base", params, read_tower(params), {})
    folder = project / "artifacts/evaluation/base/adversarial"
    kept = sum(path.stat().st_size for path in folder.iterdir())
    assert disk.kept == disk.aside == 4 * 2 * 16 * pixels
    assert 0 < kept < disk.kept
    off = params.attack.evaluate.model_copy(update={"transfer": False})
    without = params.model_copy(
        update={"attack": params.attack.model_copy(update={"evaluate": off})}
    )
    assert disk_of("evaluate@base", without, read_tower(params), {}).kept == 0
    assert planned(without, bound=True) == []


def test_two_runs_and_other_batches_write_the_same_bytes(copy):
    before = contents(copy / "artifacts/transfer")
    with inside(copy):
        write_micro(Path("params.yaml"), **ON, attack__evaluate__batch_size=5)
        assert status("transfer") == 0
    assert contents(copy / "artifacts/transfer") == before


def test_without_the_pool_the_evaluation_is_the_same_without_its_images(copy):
    place = copy / "artifacts/evaluation/base"
    before = contents(place)
    with inside(copy):
        write_micro(Path("params.yaml"), **{**ON, "attack__evaluate__transfer": False})
        evaluate("base")
    after = contents(place)
    assert set(after) == {"summary.json", "outcomes.parquet"}
    assert after == {name: before[name] for name in after}
    assert set(before) - set(after) == {
        f"adversarial/{d}.safetensors" for d in ("clutter", "shape")
    }


def test_off_it_writes_that_it_is_off_and_loads_no_torch(tmp_path):
    write_micro(tmp_path / "params.yaml")
    code = (
        "import sys; from pathlib import Path; from pistole.params import load_params;"
        "from pistole.stages import transfer;"
        "here = Path(); params = load_params(here / 'params.yaml');"
        "numbers = transfer.run(params, here, here, here, here / 'out');"
        "assert numbers == {'fell': 0, 'forwards': 0}, numbers;"
        "assert 'torch' not in sys.modules"
    )
    env = {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, check=True)
    assert read_json(tmp_path / "out/summary.json") == {"transfer": False, "models": {}}
    table = pq.read_table(tmp_path / "out/fooled.parquet")
    assert table.column_names == ["model", "dataset", "id", "fooled_by"]
    assert len(table) == 0


def test_a_killed_evaluation_goes_on_and_keeps_the_same_images(copy, monkeypatch):
    changes = {**ON, "attack__evaluate__batch_size": 5, "attack__evaluate__radii": ["1/255"]}
    out = copy / "artifacts/evaluation/again"
    with inside(copy):
        write_micro(Path("params.yaml"), **changes)
        assert status("evaluate", "again", "--model", "artifacts/base") == 0
        whole = contents(out)
        shutil.rmtree(out)
    killed_after(copy, 3)
    assert list((copy / ".pistole/resume/evaluate-again").rglob("*.safetensors"))
    known, recall = [], Journal.recall
    monkeypatch.setattr(Journal, "recall", lambda *b: known.append(recall(*b)) or known[-1])
    with inside(copy):
        assert status("evaluate", "again", "--model", "artifacts/base") == 0
    assert sum(batch is not None for batch in known) == 4
    assert any(batch is not None and not batch.all() for batch in known)
    assert contents(out) == whole
    assert not (copy / ".pistole/resume/evaluate-again").exists()


def refused(project: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which ``pistole transfer`` refuses."""
    with inside(project), pytest.MonkeyPatch.context() as patch:
        patch.setenv(QUIET, "1")
        return refusal(capsys, "transfer")


def test_other_weights_than_were_evaluated_are_refused(copy, capsys):
    shutil.copy(copy / "far/visual.safetensors", copy / "near/visual.safetensors")
    assert "near has other weights than evaluate@robust saw" in refused(copy, capsys)


def test_an_evaluation_without_images_is_named(copy, capsys):
    shutil.rmtree(copy / "artifacts/evaluation/vanilla/adversarial")
    told = refused(copy, capsys)
    assert "does not exist: run stage evaluate@vanilla, which writes it" in told


def rewrite(project: Path, change) -> None:
    """Change the images that fooled the row base, or what is told of them."""
    path = project / "artifacts/evaluation/base/adversarial/clutter.safetensors"
    tensors, about = load_tensors(path)
    save_tensors(path, *change(tensors["images"], about))


@pytest.mark.parametrize(
    "change",
    [
        lambda images, about: ({"images": images}, {**about, "model": "0" * 64}),
        lambda images, about: ({"images": images}, {**about, "eps": 0.5}),
        lambda images, about: ({"images": images}, {**about, "data_digest": "0" * 64}),
        lambda images, about: ({"images": images}, {**about, "ids": ["x", *about["ids"][1:]]}),
    ],
)
def test_images_of_something_else_are_refused(copy, capsys, change):
    rewrite(copy, change)
    told = refused(copy, capsys)
    assert told.endswith("of another model, attack or data: run stage evaluate@base again")


def test_an_image_outside_the_ball_is_refused(copy, capsys):
    rewrite(copy, lambda images, about: ({"images": (images + 0.1).clamp(0, 1)}, about))
    told = refused(copy, capsys)
    assert "an image found for base is outside the threat model" in told
    assert told.endswith("evaluate base again")
