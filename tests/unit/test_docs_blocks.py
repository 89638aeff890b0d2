"""Every block of code on the pages is run by a test, or it is said here why none runs it."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pistole.lineage.frozen import resources_of
from pistole.params import load_params
from tests import pages
from tests.e2e.following import change
from tests.e2e.micro import ROOT, inside, status

CODE = {"console", "sh", "bash", "python", "yaml"}
# Page and section (all of it without one), and the test that follows it.
FOLLOWED = {
    ("docs/guides/merge-checkpoints.md", ""): "e2e/test_guides.py",
    ("docs/guides/evaluate-folder.md", ""): "e2e/test_guides.py",
    ("docs/library.md", ""): "e2e/test_guides.py",
    ("docs/merging.md", ""): "e2e/test_compared_methods.py",
    ("docs/audit.md", "## Take it elsewhere"): "e2e/test_travel.py",
    ("docs/audit.md", "## Statements, crates and cards"): "e2e/test_whole_dag.py",
    ("docs/usage.md", "### The same by hand"): "e2e/test_guides.py",
    ("docs/usage.md", "## Merging your own checkpoints"): "e2e/test_own_checkpoints.py",
    ("README.md", "## Bring your own model"): "e2e/test_own_checkpoints.py",
}
# Page and first line of a block, and the test that runs it.
RUN = {
    ("docs/usage.md", "$ make repro"): "e2e/test_whole_dag.py",
    ("docs/usage.md", "# pistole profile use tiny-imagenet"): "e2e/test_guides.py",
    ("docs/usage.md", "import torch"): "e2e/test_own_checkpoints.py",
    ("docs/usage.md", "$ pistole plan --profile imagenet-vitl14"): "e2e/test_plan.py",
    ("docs/tutorial.md", "$ pistole profile list"): "e2e/test_whole_dag.py",
    ("docs/tutorial.md", "$ pistole show"): "e2e/test_whole_dag.py",
    ("docs/data.md", "data:"): "unit/test_docs_blocks.py",
    ("docs/cluster.md", "meta: {resources:"): "unit/test_docs_blocks.py",
}
ENVIRONMENT = "makes an environment: the test run itself began with it"
WHOLE_RUN = "a run of half an hour; the same on small parameters: e2e/test_dvc.py"
EXPERIMENT = "re-runs half the demo; dvc exp run on a small DAG: e2e/test_travel.py"
DATASETS = "needs the datasets or a network; the same on small ones: unit/test_data_*.py"
CLUSTER = "both engines on a small DAG: e2e/test_cluster.py; Slurm: make test-slurm"
SERVER = "needs PostgreSQL and root: make test-server"
NOT_RUN = {
    ("README.md", "$ make repro"): WHOLE_RUN,
    ("CONTRIBUTING.md", "$ make env-dev"): ENVIRONMENT,
    ("docs/tutorial.md", "$ make env"): ENVIRONMENT,
    ("docs/tutorial.md", "$ dvc repro"): WHOLE_RUN,
    ("docs/tutorial.md", "$ dvc exp run"): EXPERIMENT,
    ("docs/usage.md", "$ make env"): ENVIRONMENT,
    ("docs/usage.md", "$ dvc exp run -S stability.kappa=4"): EXPERIMENT,
    ("docs/usage.md", "$ dvc exp run -S attack.evaluate.transfer=true"): EXPERIMENT,
    ("docs/usage.md", "$ dvc repro -f -s finetune@natural"): WHOLE_RUN,
    ("docs/usage.md", "$ pistole params && dvc repro"): "by hand in the section below it",
    ("docs/usage.md", "$ torchrun"): "with two processes: e2e/test_torchrun.py",
    ("docs/usage.md", "$ MLFLOW_TRACKING_URI"): "on a small DAG: unit/test_lineage_tracking.py",
    ("docs/data.md", "$ pistole data check cifar10 --layout torch"): DATASETS,
    ("docs/data.md", "$ pistole data check cifar10 --layout wds"): DATASETS,
    ("docs/data.md", "$ pistole data check imagenet_r"): DATASETS,
    ("docs/data.md", "$ mkdir -p ../torchvision"): DATASETS,
    ("docs/data.md", "$ pip install"): DATASETS,
    ("docs/cluster.md", "$ make cluster"): CLUSTER,
    ("docs/cluster.md", "$ dvc repro params"): CLUSTER,
    ("docs/cluster.md", "$ export MLFLOW_TRACKING_URI"): SERVER,
    ("docs/cluster.md", "# apt-get install"): SERVER,
}


def starts(page: str, text: str, listed: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    """The entries that a block begins as."""
    return [key for key in listed if key[0] == page and text.startswith(key[1])]


@pytest.mark.parametrize("path", pages.PAGES, ids=pages.NAMES)
def test_every_block_is_run_or_said_why_not(path: Path):
    page = path.relative_to(ROOT).as_posix()
    followed = [pages.section(path, heading) for at, heading in FOLLOWED if at == page]
    for kind, text in pages.fenced(path.read_text(encoding="utf-8")):
        told = starts(page, text, RUN | NOT_RUN) or any(text in section for section in followed)
        assert kind not in CODE or told, f"{page}: {text}"


@pytest.mark.parametrize(("key", "test"), [*FOLLOWED.items(), *RUN.items()], ids=str)
def test_the_test_that_runs_it_names_the_page(key: tuple[str, str], test: str):
    assert key[0].removeprefix("docs/") in (ROOT / "tests" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("key", [*RUN, *NOT_RUN], ids=str)
def test_nothing_is_listed_that_is_gone(key: tuple[str, str]):
    page, start = key
    assert any(text.startswith(start) for _, text in pages.fenced((ROOT / page).read_text()))


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_yaml_of_a_page_is_valid(page: str, tmp_path: Path):
    """As changes to the profile that the pages start from."""
    yaml = YAML()
    values = yaml.load(ROOT / "profiles/tiny-imagenet.yaml")
    blocks = pages.blocks(ROOT / page, "yaml")
    for text in blocks:
        said = yaml.load(text)
        change(values, said)
        values["datasets"] = [*said["data"]["sources"], values["data"]["finetune"]]
    yaml.dump(values, tmp_path / "params.yaml")
    params = load_params(tmp_path / "params.yaml")
    assert blocks
    assert params.data.root.startswith("../my-data")


def test_the_resources_of_the_page_are_those_that_a_stage_can_have():
    (text,) = pages.blocks(ROOT / "docs/cluster.md", "yaml")
    wanted = resources_of(YAML(typ="safe").load(text), "gpu")
    assert {"mem_mb": 4000, "runtime": 60}.items() <= wanted.items()


def test_a_wrong_file_is_told_as_the_page_says(tmp_path: Path, capsys):
    section = pages.section(ROOT / "docs/usage.md", "## When something is wrong")
    ((_, told),) = pages.fenced(section)
    text = (ROOT / "profiles/demo.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^threads: 2", "threads: no", text, flags=re.MULTILINE)
    text = re.sub(r"^  kappa: ", "  kapa: ", text, flags=re.MULTILINE)
    with inside(tmp_path):
        Path("params.yaml").write_text(text, encoding="utf-8")
        assert status("params") == 2
    assert capsys.readouterr().err == told
