"""What leaves the project: crates, statements, model cards, clones and experiments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pistole.errors import UserError
from pistole.files import read_json, sha256_file, write_json
from pistole.lineage import receipts
from pistole.lineage.audit import audit
from pistole.lineage.audit.table import text
from pistole.lineage.card import write_card
from pistole.lineage.crate import write_crate
from pistole.lineage.hashing import md5_path
from pistole.lineage.statement import PAYLOAD, make_statement, sign, verify
from pistole.lineage.track import track
from pistole.lineage.tracking import tracking_uri
from pistole.params import load_params
from tests.e2e.lineage_project import STAGES, copy, create, git, install, repro
from tests.e2e.micro import ROOT, environment, status

VALIDATOR = "PISTOLE_PROVENANCE_PYTHON"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = create(tmp_path_factory.mktemp("finished") / "project")
    assert sorted(repro(root)) == sorted(STAGES)
    git(root, "add", ".")
    git(root, "commit", "-m", "results")
    return root


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    folder = copy(finished, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def things(crate):
    return {e["@id"]: e for e in read_json(crate / "ro-crate-metadata.json")["@graph"]}


def ids(value):
    return {item["@id"] for item in (value if isinstance(value, list) else [value])}


def test_a_crate_has_an_action_per_stage_with_digests_and_parameters(project, tmp_path):
    crate = tmp_path / "crate"
    done = write_crate(project, crate, "a run", "https://spdx.org/licenses/MIT")
    assert done["stages"] == len(STAGES)
    graph = things(crate)
    for stage in STAGES:
        receipt = receipts.latest(project, stage)
        action = graph[f"#run/{stage}"]
        objects = {graph[i].get("name"): graph[i] for i in ids(action["object"])}
        assert set(receipt["deps"]) <= set(objects)
        for file, values in receipt["params"].items():
            assert file == "params.yaml"
            assert all(objects[key]["@type"] == "PropertyValue" for key in values)
        assert {graph[i]["name"] for i in ids(action["result"])} == set(receipt["outs"])
        tool = graph[action["instrument"]["@id"]]
        software = {
            graph[i]["name"]: graph[i]["softwareVersion"] for i in ids(tool["softwareRequirements"])
        }
        assert software.pop("python") == receipt["environment"]["python"]
        assert software.pop("envs/runtime.txt").endswith(receipt["environment"]["lock_sha256"])
        versions = receipt["environment"]["versions"]
        assert software | {"pistole": tool["softwareVersion"]} == versions
        assert action["startTime"] <= action["endTime"]
        assert graph[f"#step/{stage}"]["workExample"] == action["instrument"]
    files = [entity for entity in graph.values() if "File" in entity["@type"]]
    assert len(files) == done["files"]
    for entity in files:
        place = crate / entity["@id"]
        assert entity["sha256"] == sha256_file(place) == sha256_file(project / entity["@id"])
        assert int(entity["contentSize"]) == place.stat().st_size
    run = graph["#run"]
    assert {graph[i]["name"] for i in ids(run["object"])} == {"raw", "stage.py"}
    assert {graph[i]["name"] for i in ids(run["result"])} == {"out/score.csv", "report/score.json"}
    again = tmp_path / "again"
    write_crate(project, again, "a run", "https://spdx.org/licenses/MIT")
    assert things(again) == graph


def test_a_crate_of_an_edited_project_is_refused_and_leaves_nothing(project, tmp_path, capsys):
    (project / "raw/pictures.txt").write_text("other")
    with pytest.raises(UserError, match="raw is not what dvc.lock records: run pistole audit"):
        write_crate(project, tmp_path / "crate", "a run", "not stated")
    assert not (tmp_path / "crate").exists()
    (tmp_path / "crate").mkdir()
    assert status("crate", str(tmp_path / "crate")) == 2
    assert "exists: remove it, or choose another folder" in capsys.readouterr().err


def test_a_crate_is_valid(project, tmp_path):
    python = os.environ.get(VALIDATOR) or ROOT / ".venv-provenance/bin/python"
    if not Path(python).exists():
        pytest.skip(f"no environment with roc-validator: {VALIDATOR} or .venv-provenance")
    command = [python, ROOT / "tests/e2e/validate_crate.py", tmp_path / "crate"]
    write_crate(project, tmp_path / "crate", "a run", "not stated")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": VALID") == 3
    broken = read_json(tmp_path / "crate/ro-crate-metadata.json")
    broken["@graph"] = [e for e in broken["@graph"] if e["@type"] != "ControlAction"]
    write_json(tmp_path / "crate/ro-crate-metadata.json", broken)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert "provenance-run-crate: INVALID" in done.stdout


def test_a_statement_has_subjects_materials_and_parameters(project):
    statement = make_statement(project, "out/merged")
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {
            "name": "out/merged/visual.txt",
            "digest": {"sha256": sha256_file(project / "out/merged/visual.txt")},
        }
    ]
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"] == {
        "stage": "merge",
        "cmd": ["stage merge out/merged"],
        "params.yaml": {"lam": 0.5},
    }
    materials = {row["name"]: row["digest"] for row in build["resolvedDependencies"]}
    commit = git(project, "rev-parse", "HEAD~1").strip()
    assert materials == {
        "stage.py": {"sha256": sha256_file(project / "stage.py")},
        "code": {"gitCommit": commit},
        "raw": {"dvcMd5": md5_path(project, "raw")},
        **{
            name: {"sha256": sha256_file(project / name)}
            for name in (f"out/checkpoints/{s}/weights.txt" for s in ("natural", "robust"))
        },
    }


def test_a_statement_is_only_made_of_what_is_recorded(project):
    with pytest.raises(UserError, match="raw is no output of one stage"):
        make_statement(project, "raw")
    with pytest.raises(UserError, match="out/checkpoints is no output of one stage"):
        make_statement(project, "out/checkpoints")
    shutil.rmtree(project / receipts.FOLDER / "merge")
    with pytest.raises(UserError, match="merge has no receipt of this run"):
        make_statement(project, "out/merged")
    (project / "out/merged/visual.txt").unlink()
    (project / "out/merged/visual.txt").write_text("better")
    with pytest.raises(UserError, match="out/merged is NOT what dvc.lock records"):
        make_statement(project, "out/merged")


def keys(folder, name):
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", private],
        ["pkey", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return private, public


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_a_signed_statement_is_verified_with_its_key_alone(project, tmp_path, capsys):
    private, public = keys(tmp_path, "mine")
    _, other = keys(tmp_path, "other")
    file = tmp_path / "statement.json"
    assert status("statement", "make", "out/merged", "--key", str(private), "--out", str(file)) == 0
    assert status("statement", "verify", str(file), "--key", str(public)) == 0
    assert capsys.readouterr().out.endswith("1 files are as stated\n")
    assert verify(project, file, public) == make_statement(project, "out/merged")
    with pytest.raises(UserError, match="was not signed with the key"):
        verify(project, file, other)
    with pytest.raises(UserError, match="is signed: give --key"):
        verify(project, file, None)
    with pytest.raises(UserError, match=r"is no Ed25519PrivateKey in PEM"):
        sign({}, public)
    envelope = read_json(file)
    write_json(file, envelope | {"payload": envelope["payload"].replace("A", "B", 1)})
    with pytest.raises(UserError, match="was not signed with the key"):
        verify(project, file, public)
    write_json(file, envelope | {"payloadType": "text/plain"})
    with pytest.raises(UserError, match="was not signed with the key"):
        verify(project, file, public)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_the_signature_is_that_of_dsse(tmp_path):
    """Openssl verifies it over DSSE's encoding, written out by hand here."""
    private, public = keys(tmp_path, "mine")
    envelope = sign({"a": 1}, private)
    body = b'{"a": 1}'
    encoded = b"DSSEv1 28 application/vnd.in-toto+json 8 " + body
    assert len(PAYLOAD) == 28
    import base64

    (tmp_path / "signed").write_bytes(encoded)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    files = ["-in", tmp_path / "signed", "-sigfile", tmp_path / "signature"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unsigned_statement_is_compared_with_the_files(project, tmp_path):
    file = tmp_path / "statement.json"
    write_json(file, make_statement(project, "out/merged"))
    verify(project, file, None)
    with pytest.raises(UserError, match="is not signed: leave out --key"):
        verify(project, file, tmp_path / "key")
    (project / "out/merged/visual.txt").unlink()
    (project / "out/merged/visual.txt").write_text("better")
    with pytest.raises(UserError, match=r"visual\.txt is not what .* states: run pistole audit"):
        verify(project, file, None)


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
    assert "apgd_ce (20 steps, 1 restarts), norm linf, radius 0.01569 in [0, 1]" in card
    assert write_card(merged, params, "pistole", None, None).count("base_model: embedded") == 1


def test_a_model_card_needs_a_merged_model_with_results(merged):
    params = load_params(ROOT / "profiles/demo.yaml")
    with pytest.raises(UserError, match="model is 'nobody': choose one of base"):
        write_card(merged, params, "nobody", None, None)
    write_json(merged / "report/metrics.json", {"models": {}})
    with pytest.raises(UserError, match="has no model pistole: dvc repro report"):
        write_card(merged, params, "pistole", None, None)
    (merged / "artifacts/merged/pistole/visual.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="is NOT what dvc.lock records"):
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


def test_a_clone_that_pulls_agrees_and_runs_nothing(project, tmp_path):
    git(project, "add", "--force", str(receipts.FOLDER))
    dvc(project, environment(), "remote", "add", "--default", "here", str(tmp_path / "remote"))
    dvc(project, environment(), "push")
    git(project, "add", ".")
    git(project, "commit", "-m", "receipts")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", str(project), str(clone))
    assert not (clone / "out").exists()
    dvc(clone, environment(), "pull")
    assert track(clone, tracking_uri(clone)).written == len(STAGES)
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
    assert track(project, tracking_uri(project)).written == len(STAGES) + 2
    report = audit(project, tracking_uri(project))
    assert report.ok, text(report)
    assert repro(project) == []
