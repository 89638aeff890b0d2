"""dvc.yaml as DVC resolves it."""

import json

import pytest

from pistole.errors import UserError
from pistole.lineage import dag

DVC_YAML = """
stages:
  make:
    desc: makes it
    matrix: {method: "${methods}"}
    cmd: make ${item.method}
    deps: [src/code.py, ../images]
    params: [seed, attack.eps]
    outs:
      - out/${item.method}: {type: dir, cache: false}
    meta: {resources: {gpu: 1}}
  table:
    cmd: [collect, print]
    frozen: true
    deps: [out]
    metrics: [table.json]
"""


@pytest.fixture
def project(tmp_path):
    from dvc.repo import Repo

    root = tmp_path / "project"
    root.mkdir()
    Repo.init(str(root), no_scm=True).close()
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text("methods: [a, b]\nseed: 1\nattack: {eps: 2/255, steps: 3}\n")
    return root


def test_load_resolves_matrices_params_and_outs(project):
    stages = {stage["name"]: stage for stage in dag.load(project)}
    assert list(stages) == ["make@a", "make@b", "table"]
    assert stages["make@a"] == {
        "name": "make@a",
        "cmd": ["make a"],
        "wdir": ".",
        "deps": ["../images", "src/code.py"],
        "params": {"params.yaml": {"seed": 1, "attack.eps": "2/255"}},
        "outs": [
            {
                "path": "out/a",
                "dir": True,
                "cache": False,
                "persist": False,
                "metric": False,
                "plot": False,
            }
        ],
        "frozen": False,
        "always": False,
        "meta": {"resources": {"gpu": 1}},
        "desc": "makes it",
    }
    assert stages["table"]["cmd"] == ["collect", "print"]
    assert stages["table"]["frozen"]
    assert stages["table"]["outs"][0]["metric"]
    assert json.loads(json.dumps(stages)) == stages


def test_load_stage_equals_load_from_any_folder(project, monkeypatch):
    monkeypatch.chdir("/")
    assert [dag.load_stage(project, stage["name"]) for stage in dag.load(project)] == dag.load(
        project
    )


def test_what_dvc_refuses_is_one_line(project, tmp_path):
    with pytest.raises(UserError, match="'nope' not found"):
        dag.load_stage(project, "nope")
    (project / "dvc.yaml").write_text("stages: {a: {command: x}}\n")
    with pytest.raises(UserError, match="extra keys not allowed"):
        dag.load_stage(project, "a")
    with pytest.raises(UserError, match="not inside of a DVC repository"):
        dag.load(tmp_path)


def test_a_dependency_that_is_not_a_local_path_is_refused(project):
    (project / "dvc.yaml").write_text("stages: {a: {cmd: x, deps: ['https://example.org/x']}}\n")
    with pytest.raises(UserError, match=r"a: https://example\.org/x is not a local path"):
        dag.load(project)


def test_parameters_are_what_dvc_reads_and_a_file_is_parsed_once(project, monkeypatch):
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    (project / "other.yaml").write_text("a: {b: [1, 2]}\nc: null\n")
    wanted = (
        "[seed, attack, attack.eps, nope, seed.nope, {other.yaml: [a.b, c]}, {absent.yaml: [a]}]"
    )
    text = f"stages:\n  one: {{cmd: x, params: {wanted}}}\n  two: {{cmd: x, params: [seed]}}\n"
    (project / "dvc.yaml").write_text(text + "  three: {cmd: x, params: [{other.yaml: }]}\n")
    with Repo(str(project)) as repo:
        theirs = {s.name: {d.def_path: d.read_params() for d in s.deps} for s in repo.index.stages}
    read, parsed = ParamsDependency.read_params, []
    monkeypatch.setattr(
        ParamsDependency, "read_params", lambda self: parsed.append(self.fs_path) or read(self)
    )
    assert {stage["name"]: stage["params"] for stage in dag.load(project)} == theirs
    assert theirs["three"]["other.yaml"] == {"a": {"b": [1, 2]}, "c": None}
    assert len(parsed) == len(set(parsed)) == 3
