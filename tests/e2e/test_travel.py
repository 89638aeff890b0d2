"""What leaves the project: model cards, clones and experiments."""

import os
import subprocess
import sys

import pytest
import yaml

from pistole.errors import UserError
from pistole.files import read_json, sha256_file, write_json
from pistole.lineage import receipts
from pistole.lineage.audit import audit
from pistole.lineage.audit.table import text
from pistole.lineage.card import write_card
from pistole.lineage.hashing import md5_path
from pistole.lineage.track import track
from pistole.lineage.tracking import tracking_uri
from pistole.params import load_params
from tests import pages
from tests.e2e.following import in_shell, lines_of
from tests.e2e.lineage_project import IDENTITY, STAGES, git, install, repro
from tests.e2e.micro import ROOT, environment

VALIDATOR = "PISTOLE_PROVENANCE_PYTHON"
PYTHON = os.environ.get(VALIDATOR) or ROOT / ".venv-provenance/bin/python"


@pytest.fixture
def merged(tmp_path):
    """A folder with a merged model, its evaluation and the report's numbers."""
    root = tmp_path / "merged"
    model = root / "artifacts/merged/pistole"
    model.mkdir(parents=True)
    (model / "visual.safetensors").write_bytes(b"weights")
    recipe = {"method": "pistole", "lambda": 0.4, "variant": "pistole", "base_digest": "b" * 64}
    write_json(model / "recipe.json", recipe | {"vectors": {"natural": "n", "robust": "r"}})
    numbers = {"clean": {"shape": 0.75}, "robust": {"shape": 0.5}, "n": {"shape": 16}}
    numbers |= {"clean_mean": 0.75, "robust_mean": 0.5}
    interval = [0.25, 0.875]
    numbers["ci95"] = {m: {"shape": interval} for m in ("clean", "robust")}
    numbers["ci95"] |= {"clean_mean": interval, "robust_mean": interval}
    write_json(root / "report/metrics.json", {"models": {"pistole": numbers}})
    attack = {"norm": "linf", "eps": 4 / 255, "apgd_ce": {"steps": 20, "restarts": 1}}
    write_json(root / "artifacts/evaluation/pistole/summary.json", {"attack": attack})
    (root / "raw").write_text("pictures")
    stage = {"cmd": "pistole merge pistole"}
    for side, path in (("deps", "raw"), ("outs", "artifacts/merged/pistole")):
        stage[side] = [{"path": path, "md5": md5_path(root, path)}]
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"merge@pistole": stage}}))
    return root


def test_a_model_card_has_the_hubs_metadata_and_the_lineage(merged):
    from huggingface_hub import ModelCard

    params = load_params(ROOT / "profiles/demo.yaml")
    card = write_card(merged, params, "pistole", "org/clip", "mit")
    parsed = ModelCard(card)
    assert parsed.data.base_model == "org/clip"
    assert parsed.data.license == "mit"
    assert yaml.safe_load(card.split("---")[1])["base_model_relation"] == "merge"
    results = {(r.metric_name, r.dataset_name): r.metric_value for r in parsed.data.eval_results}
    assert results == {("clean accuracy", "shape"): 0.75, ("robust accuracy", "shape"): 0.5}
    assert "| shape | 16 | 0.750 [0.250, 0.875] | 0.500 [0.250, 0.875] |" in card
    assert "| mean | 16 |" in card
    weights = merged / "artifacts/merged/pistole/visual.safetensors"
    assert f"| `visual.safetensors` | `{sha256_file(weights)}` |" in card
    assert f"| `raw` | `{md5_path(merged, 'raw')}` |" in card
    assert "apgd_ce (1 restarts, 20 steps), norm linf, radius 0.01569 in [0, 1]" in card
    assert write_card(merged, params, "pistole", None, None).count("base_model: embedded") == 1
    assert "found for the other models" not in card
    metrics = read_json(merged / "report/metrics.json")
    write_json(merged / "report/metrics.json", metrics | {"transfer": {}})
    pooled = write_card(merged, params, "pistole", None, None)
    assert "in [0, 1], then the adversarial images found for the other models." in pooled


def test_a_model_card_needs_a_merged_model_with_results(merged):
    params = load_params(ROOT / "profiles/demo.yaml")
    with pytest.raises(UserError, match="model is 'nobody': choose one of base"):
        write_card(merged, params, "nobody", None, None)
    write_json(merged / "report/metrics.json", {"models": {}})
    with pytest.raises(UserError, match="has no model pistole: dvc repro report"):
        write_card(merged, params, "pistole", None, None)
    (merged / "artifacts/merged/pistole/visual.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match=r"is NOT what dvc\.lock records"):
        write_card(merged, params, "pistole", None, None)


def dvc(project, variables, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_clone_that_pulls_agrees_and_runs_nothing(project, tmp_path, monkeypatch):
    """As docs/audit.md says it."""
    here, elsewhere = pages.blocks(ROOT / "docs/audit.md", "console")[:2]
    dvc(project, environment(), "remote", "add", "--default", "here", str(tmp_path / "remote"))
    git(project, "add", ".")
    in_shell(lines_of(here), project, tmp_path / "bin", **IDENTITY)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "git clone REPOSITORY project" in elsewhere
    script = lines_of(elsewhere).replace("REPOSITORY", str(project))
    script = script.replace("&& cd project\n", "&& cd project\ntest ! -e out\n")
    assert "test ! -e out" in script  # the clone has no output before it pulls
    (tmp_path / "elsewhere").mkdir()
    said = in_shell(script, tmp_path / "elsewhere", tmp_path / "bin")
    clone = tmp_path / "elsewhere/project"
    assert f"{len(STAGES)} runs written" in said
    report = audit(clone, tracking_uri(clone))
    assert report.ok, text(report)
    assert repro(clone) == []
    assert audit(clone, tracking_uri(clone)).ok


def test_an_experiment_in_a_copy_leaves_its_receipts_in_the_project(project, tmp_path):
    variables = install(tmp_path)
    dvc(project, variables, "exp", "run", "--temp", "--name", "more", "-S", "lam=0.75")
    assert receipts.latest(project, "merge")["params"]["params.yaml"]["lam"] == 0.75
    dvc(project, variables, "exp", "apply", "more")
    assert "lam: 0.75" in (project / "params.yaml").read_text()
    assert track(project, tracking_uri(project)).written == 2
    report = audit(project, tracking_uri(project))
    assert report.ok, text(report)
    assert repro(project) == []
