"""The real dvc.yaml under the real DVC, on the micro parameters and up to the merged model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pistole.files import load_tensors, sha256_file
from tests.e2e.micro import MICRO, ROOT, SOURCES, environment, make_project, write_micro

TARGET = "merge@pistole"
CODE = "import sys; from tests.e2e.micro import repro; sys.exit(repro(*sys.argv[1:]))"
STAGES = {
    "params",
    "data@clutter",
    "base",
    *(f"{stage}@{s}" for stage in ("finetune", "vectors", "stability") for s in SOURCES),
    "masks",
    "select",
    TARGET,
}


def repro(folder: Path, hash_seed: int = 0) -> tuple[int, list[str], str]:
    """Return exit status, stages that ran, and output of ``dvc repro merge@pistole``."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, TARGET],
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, re.findall("Running stage '(.*)':", done.stdout), done.stdout


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def lock(folder: Path) -> dict:
    return YAML(typ="safe", pure=True).load(folder / "dvc.lock")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("first"), datasets=["clutter"])
    status, ran, output = repro(folder)
    assert status == 0, output
    assert sorted(ran) == sorted(STAGES)
    return folder


def test_another_folder_gives_the_same_bytes(project, tmp_path):
    second = make_project(tmp_path, datasets=["clutter"])
    status, ran, output = repro(second, hash_seed=1)
    assert status == 0, output
    assert sorted(ran) == sorted(STAGES)
    assert digests(second) == digests(project)
    assert len(digests(project)) > 25
    # Not the bytes: DVC's order of independent stages is that of Python's hashes.
    assert lock(second) == lock(project)


def test_a_second_run_runs_nothing(project):
    before = digests(project), (project / "dvc.lock").read_bytes()
    status, ran, output = repro(project)
    assert (status, ran) == (0, []), output
    assert output.rstrip().endswith("Data and pipelines are up to date.")
    assert (digests(project), (project / "dvc.lock").read_bytes()) == before


def test_an_invalid_value_stops_before_any_work(project):
    before, locked = digests(project), lock(project)
    write_micro(project / "params.yaml", datasets=["clutter"], stability__kappa=-1)
    status, ran, output = repro(project)
    assert status != 0
    assert ran == ["params"]
    told = "pistole: params.yaml: stability.kappa: -1 is not valid (number >= 0 and <= 1000)\n"
    assert told in output
    # DVC removes what a stage will write before it runs it; all else is as it was.
    assert before.pop("artifacts/params.ok")
    assert before.pop("artifacts/prepared/needs.json")
    assert digests(project) == before
    assert lock(project) == locked


def test_another_kappa_reruns_the_masks_and_what_is_below_them(project):
    before = digests(project)
    mean = mask_mean(project)
    write_micro(project / "params.yaml", datasets=["clutter"], stability__kappa=4)
    status, ran, output = repro(project)
    assert status == 0, output
    assert ran == ["params", "masks", "select", TARGET]
    for source in SOURCES:
        assert f"Stage 'stability@{source}' didn't change, skipping" in output
    changed = {
        name.split("/")[1]
        for name, digest in digests(project).items()
        if before.get(name) != digest
    }
    assert "masks" in changed
    assert changed <= {"masks", "select", "merged", "params.ok", "prepared"}
    assert mask_mean(project) < mean


def test_another_test_size_trains_and_scores_nothing_again(project):
    before = digests(project)
    slices = MICRO["slices"] | {"test": 8}
    changes = {"datasets": ["clutter"], "stability__kappa": 4, "slices": slices}
    write_micro(project / "params.yaml", **changes)
    status, ran, output = repro(project)
    assert status == 0, output
    assert ran[:3] == ["params", "data@clutter", "base"]
    assert not [stage for stage in ran if re.match("finetune|vectors|stability", stage)]
    after = digests(project)
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert {name for name in changed if name.startswith("artifacts/data")} == {
        f"artifacts/data/clutter/test/{file}" for file in ("images.safetensors", "index.json")
    }
    assert not [name for name in changed if re.search("checkpoints|vectors|stability", name)]


def mask_mean(folder: Path) -> float:
    masks = load_tensors(folder / "artifacts/masks/pistole.safetensors")[0]
    return sum(mask.mean().item() for mask in masks.values()) / len(masks)
