"""`pistole plan`: the stages of dvc.yaml, without any of them having run."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pistole.cli import app
from pistole.errors import UserError
from pistole.lineage.dag import load_under
from tests import pages
from tests.e2e.micro import MICRO, ROOT, everything, inside, write_micro


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    write_micro(tmp_path / "params.yaml")
    return tmp_path


def told(project: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with inside(project):
        before = everything()
        app(["plan", *options], standalone_mode=False)
        assert everything() == before
    return capsys.readouterr().out


def test_every_stage_is_planned_and_nothing_is_written(project: Path, capsys):
    plan = json.loads(told(project, capsys, "--json", "--device-rate", "2"))
    stages = {stage["name"]: stage for stage in plan["stages"]}
    known = {stage["name"] for stage in load_under(ROOT / "dvc.yaml", project / "params.yaml")}
    assert set(stages) == known
    assert plan["profile"] == "micro"
    assert plan["missing"] == []
    assert stages["pretrain"]["frozen"]
    natural = stages["finetune@natural"]["typical"]
    images = MICRO["finetune.natural.steps"] * MICRO["finetune.natural.batch_size"]
    assert natural["images"] == images
    assert natural["forward_equivalents"] == 3 * images
    assert natural["flops"] == images * plan["tower"]["flops"]["weight_gradient"]
    assert natural["hours"] == pytest.approx(natural["flops"] / 2e12 / 3600)
    for kind in ("typical", "at_most"):
        for key in ("images", "forward_equivalents", "flops", "hours"):
            parts = sum(stage[kind][key] for stage in plan["stages"])
            assert plan["total"][kind][key] == pytest.approx(parts)
    assert stages["select"]["typical"]["hours"] < stages["select"]["at_most"]["hours"]
    assert stages["base"]["typical"]["flops"] > 0  # of the text tower


def test_the_plan_of_the_paper_is_what_usage_md_shows(project: Path, capsys):
    """But for this machine's disk, which it tells last."""
    section = pages.section(ROOT / "docs/usage.md", "## Plan a large run")
    call, _, shown = pages.fenced(section)[0][1].partition("\n")
    assert call.startswith("$ pistole plan ")
    text = told(project, capsys, *call.removeprefix("$ pistole plan ").split())
    disk = "\n- disk: "
    assert text.partition(disk)[0] == shown.partition(disk)[0]


def test_a_profile_is_planned_in_place_of_the_parameters(project: Path, capsys):
    text = told(project, capsys, "--profile", "imagenet-vitl14", "--device-rate", "h100")
    assert "Plan of profile imagenet-vitl14" in text
    assert "304.0 million visual parameters, QuickGELU" in text
    assert "evaluate, 16 stages" in text
    assert "data: no folder of split test in data for imagenet, stl10, cifar10" in text
    assert "memory: the slice finetune is held whole" in text
    assert "assumed" in text


def test_without_a_rate_there_are_no_hours(project: Path, capsys):
    text = told(project, capsys)
    assert "give --device-rate" in text
    (line,) = (line for line in text.splitlines() if line.startswith("finetune@natural"))
    assert "erm: 3 steps of 16 images" in line
    assert "Missing:\n- nothing" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "imagenet-vitl41"], "did you mean imagenet-vitl14"),
        (["--device-rate", "fast"], "give TFLOP/s above 0"),
        (["--device-rate", "3", "--calibrate"], "give one of them"),
    ],
)
def test_a_bad_option_is_a_user_error(project: Path, options, message):
    with inside(project), pytest.raises(UserError, match=message):
        app(["plan", *options], standalone_mode=False)


def test_outside_a_project_there_is_no_dag(project: Path):
    (project / "dvc.yaml").unlink()
    with inside(project), pytest.raises(UserError, match=r"dvc\.yaml does not exist"):
        app(["plan"], standalone_mode=False)


def test_the_paper_scale_profiles_say_what_the_paper_says():
    yaml = YAML(typ="safe", pure=True)
    for name in ("imagenet-vitl14", "imagenet-vitb32", "released-checkpoints"):
        values = yaml.load((ROOT / "profiles" / f"{name}.yaml").read_text())
        assert values["base"]["model"].endswith("-quickgelu")
        assert values["base"]["pretrained"] == "openai"
        assert len(values["datasets"]) == 14
        assert values["attack"]["eps"] == "2/255"
        assert values["attack"]["train"]["steps"] == 10
        assert values["attack"]["evaluate"]["apgd_t"]["targets"] == 9
        assert values["stability"]["K"] == 5
