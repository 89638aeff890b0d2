"""What leaves the project: crates and statements."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pistole.errors import UserError
from pistole.files import read_json, sha256_file, write_json
from pistole.lineage import receipts
from pistole.lineage.crate import write_crate
from pistole.lineage.hashing import md5_path
from pistole.lineage.statement import PAYLOAD, make_statement, sign, verify
from tests.e2e.lineage_project import STAGES, git
from tests.e2e.micro import ROOT, environment, status

VALIDATOR = "PISTOLE_PROVENANCE_PYTHON"
PYTHON = os.environ.get(VALIDATOR) or ROOT / ".venv-provenance/bin/python"


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
    with pytest.raises(UserError, match=r"raw is not what dvc\.lock records: run pistole audit"):
        write_crate(project, tmp_path / "crate", "a run", "not stated")
    assert not (tmp_path / "crate").exists()
    (tmp_path / "crate").mkdir()
    assert status("crate", str(tmp_path / "crate")) == 2
    assert "exists: remove it, or choose another folder" in capsys.readouterr().err


def test_a_crate_is_valid(project, tmp_path):
    if not Path(PYTHON).exists():
        pytest.skip(f"no environment with roc-validator: {VALIDATOR} or .venv-provenance")
    command = [PYTHON, ROOT / "tests/e2e/validate_crate.py", tmp_path / "crate"]
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
    with pytest.raises(UserError, match=r"out/merged is NOT what dvc\.lock records"):
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
