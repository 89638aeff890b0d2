"""Stage prepare on a tiny slice of the embedded world, with task vectors that were drawn."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch.nn.functional import cross_entropy

from pistole.baselines.fisher import Fisher
from pistole.baselines.led import Led
from pistole.baselines.obm import Obm
from pistole.baselines.regmean import RegMean
from pistole.errors import UserError
from pistole.files import load_tensors, read_json, save_tensors
from pistole.lineage.dag import load_under
from pistole.models.zeroshot import functional_logits
from pistole.params import load_params
from pistole.params.fields import Need
from pistole.plan.disk import disk_of
from pistole.plan.stages import prepare as planned
from pistole.plan.tower import read_tower
from pistole.plan.work import by_kind
from pistole.seeds import generator
from pistole.stages import prepare
from pistole.stages.preparing import fisher, sources
from pistole.stages.preparing.job import Job
from pistole.stages.slices import read_slice
from pistole.stages.towers import base_digest, base_state
from tests.e2e.micro import ROOT, run_micro, write_micro
from tests.e2e.passes import counted

RULES = {"fisher": Fisher, "regmean": RegMean, "led": Led, "obm": Obm}
MEASURED = tuple(RULES)
COUNT = 6
PLACES = ("base", "vectors/natural.safetensors", "vectors/robust.safetensors", "data/shape")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Data, base and two random vectors of a project of one dataset."""
    folder = tmp_path_factory.mktemp("prepare")
    changes = {
        "datasets": ["shape"],
        "data__finetune": "shape",
        "slices": {"finetune": 16, "score": 8, "measure": 2, "select": 2, "test": 2},
        "prepare__images": COUNT,
        "stability__batch_size": 4,
    }
    run_micro(folder, [["data", "index", "shape"], ["base"]], **changes)
    base = folder / "artifacts/base"
    for source in ("natural", "robust"):
        noise = generator(0, source)
        tau = {
            name: 0.01 * torch.randn(value.shape, generator=noise)
            for name, value in base_state(base)[0].items()
        }
        about = {"source": source, "base_digest": base_digest(base)}
        save_tensors(folder / f"artifacts/vectors/{source}.safetensors", tau, about)
    return folder


def run(project: Path, need: str, out: Path, **changes) -> dict[str, float]:
    params = load_params(project / "params.yaml")
    if changes:
        own = params.prepare.model_copy(update=changes)
        params = params.model_copy(update={"prepare": own})
    return prepare.run(params, need, *(project / "artifacts" / place for place in PLACES), out)


@pytest.fixture(scope="module")
def job(project) -> Job:
    params = load_params(project / "params.yaml")
    base, natural, robust, data = (project / "artifacts" / place for place in PLACES)
    images = read_slice(data, "score", COUNT)
    return prepare.open_job(params, images, base, natural, robust)


@pytest.fixture(scope="module")
def done(project) -> dict[str, Path]:
    """Need -> what the stage wrote."""
    for need in MEASURED:
        run(project, need, project / "artifacts/prepared" / need)
    return {need: project / "artifacts/prepared" / need for need in MEASURED}


@pytest.mark.parametrize("need", MEASURED)
def test_the_statistics_are_what_the_rule_reads(need, done, job):
    statistics, about = load_tensors(done[need] / "statistics.safetensors")
    assert about == {"need": need}
    zero = {name: torch.zeros_like(value) for name, value in job.theta_0.items()}
    moved = RULES[need](statistics=statistics)(zero, (job.tau_nat, job.tau_rob), (1, 1))
    nothing = [name for name, value in moved.items() if not (value != 0).any()]
    # By LED both tasks may elect the same few coordinates of a small tensor.
    assert nothing == [] or need == "led"
    assert len(nothing) < len(moved) / 4


@pytest.mark.parametrize("need", MEASURED)
def test_another_run_gives_the_same_bytes(need, done, project, tmp_path):
    run(project, need, tmp_path / need)
    for file in ("statistics.safetensors", "summary.json"):
        assert (tmp_path / need / file).read_bytes() == (done[need] / file).read_bytes()


def test_the_summary_tells_the_images_and_the_attack(done, project):
    summaries = {need: read_json(folder / "summary.json") for need, folder in done.items()}
    told = summaries["fisher"]
    assert (told["need"], told["dataset"], told["images"]) == ("fisher", "shape", COUNT)
    assert told["attack"]["steps"] == 2
    assert len({summary["images_digest"] for summary in summaries.values()}) == 1
    assert 0 <= told["numbers"]["below_floor/natural"] <= 1
    # The micro base has two or more blocks of four linear layers, patches and a projection.
    assert summaries["regmean"]["numbers"]["linear_layers"] % 4 == 2
    assert summaries["obm"]["numbers"].keys() >= {"dead_inputs/natural", "dead_inputs/robust"}


def test_the_robust_model_sees_attacked_images_and_the_natural_one_clean_ones(job):
    natural, robust = sources.sources(job)
    assert torch.equal(natural.pixels, job.images.pixels())
    moved = (robust.pixels - natural.pixels).abs().amax((1, 2, 3))
    assert (moved > 0).all()
    assert moved.max() <= job.budget.eps + 1e-6
    for source, tau in ((natural, job.tau_nat), (robust, job.tau_rob)):
        assert all(torch.equal(source.theta[n], job.theta_0[n] + tau[n]) for n in tau)
    losses = [
        cross_entropy(functional_logits(job.model, robust.theta, x), robust.labels)
        for x in (natural.pixels, robust.pixels)
    ]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("need", ["fisher", "led"])
def test_gradients_in_turn_and_together_agree(need, done, job, monkeypatch):
    """The tower of the demo is small enough for all at once; one that is not takes them in turn."""
    assert sources.at_once(job) == job.pass_size == 4
    monkeypatch.setattr(sources, "GRADIENTS", 1)
    assert sources.at_once(job) == 1
    found, _ = prepare.preparation(need)(job)
    together = load_tensors(done[need] / "statistics.safetensors")[0]
    assert found.keys() == together.keys()
    for name, value in found.items():
        scale = float(together[name].abs().max())
        torch.testing.assert_close(value, together[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("need", MEASURED)
def test_the_plan_counts_the_passes(need, project, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "GRADIENTS", 1)  # passes of single images, which a hook can count
    params = load_params(project / "params.yaml")
    with counted() as passes:
        run(project, need, tmp_path / need)
    assert by_kind(planned(params, need, read_tower(params))) == passes


def test_the_plan_knows_the_bytes_of_the_statistics(done, project):
    params = load_params(project / "params.yaml")
    tower = read_tower(params)
    for need in ("fisher", "led", "regmean"):
        found = (done[need] / "statistics.safetensors").stat().st_size
        told = disk_of(f"prepare@{need}", params, tower, {}).kept
        assert told == pytest.approx(found, rel=0.01)


def test_the_norm_is_that_of_all_tensors(done):
    statistics = load_tensors(done["fisher"] / "statistics.safetensors")[0]
    for source in ("natural", "robust"):
        own = [v for key, v in statistics.items() if key.startswith(f"{source}/")]
        squares = sum(float(value.double().square().sum()) for value in own)
        assert float(statistics[f"norm/{source}"]) == pytest.approx(squares**0.5)


def test_a_label_is_drawn_by_the_id_of_its_image(job):
    numbers = fisher.uniforms(job, "natural")
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(set(numbers.tolist())) == COUNT
    assert not torch.equal(numbers, fisher.uniforms(job, "robust"))


def test_the_command_writes_the_stage_s_files(project):
    run_micro(
        project,
        [["prepare", "obm", "--data", "artifacts/data/shape", "--out", "own"]],
        datasets=["shape"],
        data__finetune="shape",
        slices={"finetune": 16, "score": 8, "measure": 2, "select": 2, "test": 2},
        prepare__images=COUNT,
        stability__batch_size=4,
    )
    assert {path.name for path in (project / "own").iterdir()} == {
        "statistics.safetensors",
        "summary.json",
    }


def test_what_cannot_be_prepared_is_refused(project, tmp_path):
    with pytest.raises(UserError, match="preparation is 'fischer': choose one of fisher, regmean"):
        run(project, "fischer", tmp_path / "out")
    with pytest.raises(UserError, match=r"prepare\.images is 9 but slice score has 8: lower it"):
        run(project, "fisher", tmp_path / "out", images=9)
    assert not (tmp_path / "out").exists()


def test_the_dag_has_one_stage_per_preparation_and_may_have_none(tmp_path):
    for needs in ([], ["fisher", "led"]):
        file = write_micro(tmp_path / "params.yaml", prepare__run=needs)
        stages = {stage["name"]: stage for stage in load_under(ROOT / "dvc.yaml", file)}
        assert [name for name in stages if name.startswith("prepare")] == [
            f"prepare@{need}" for need in needs
        ]
    stage = stages["prepare@led"]
    assert stage["cmd"] == ["pistole prepare led --out artifacts/prepared/led"]
    assert [out["path"] for out in stage["outs"]] == ["artifacts/prepared/led"]
    assert "artifacts/data/clutter/score" in stage["deps"]
    for place in stage["deps"]:
        assert place.startswith("artifacts/") or (ROOT / place).exists()


def test_preparations_and_params_name_the_same():
    assert tuple(prepare.PREPARATIONS) == get_args(Need)
    for need in MEASURED:
        assert callable(prepare.preparation(need))


def test_prepare_run_may_be_empty_but_names_no_stranger(tmp_path):
    params = load_params(write_micro(tmp_path / "params.yaml", prepare__run=["fisher", "led"]))
    assert params.prepare.run == ("fisher", "led")
    assert load_params(write_micro(tmp_path / "params.yaml", prepare__run=[])).prepare.run == ()
    for bad in (["fischer"], ["led", "led"]):
        with pytest.raises(UserError, match=r"prepare\.run"):
            load_params(write_micro(tmp_path / "params.yaml", prepare__run=bad))
