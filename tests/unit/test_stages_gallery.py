"""Stage gallery: what it shows is what an attack inside the ball does to listed test images."""

from pathlib import Path

import pytest
import torch

from pistole.files import load_tensors, read_json
from pistole.models.zeroshot import with_head
from pistole.params import load_params
from pistole.plan.stages import gallery as planned
from pistole.plan.work import by_kind
from pistole.stages.gallery import amplified
from pistole.stages.runtime import classifier, text_head, tower, with_parameters
from pistole.stages.slices import index_of, read_slice
from tests.e2e.micro import PREPARED, inside, run_micro, status, write_micro
from tests.e2e.passes import counted

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and base; the rows of the table are the base under two names."""
    return run_micro(tmp_path_factory.mktemp("gallery"), PREPARED)


def gallery(project: Path, **changes):
    """Return the record and the tensors of ``pistole gallery``."""
    models = {"base": "artifacts/base", "natural": "artifacts/base", "gism": "artifacts/base"}
    with inside(project):
        write_micro(Path("params.yaml"), **{"models": models, **changes})
        assert status("gallery") == 0
        folder = Path("artifacts/gallery")
        return read_json(folder / "gallery.json"), load_tensors(folder / "images.safetensors")[0]


def pairs(rows: dict) -> list[tuple[dict, dict]]:
    """One model's answers, image by image."""
    return list(zip(rows["before"], rows["after"], strict=True))


def test_rows_say_what_the_model_answers_before_and_after(project):
    record, tensors = gallery(project, attack__eps="8/255")
    assert [list(task["models"]) for task in record["tasks"].values()] == [["base", "natural"]] * 2
    broken = 0
    for name, task in record["tasks"].items():
        with inside(project):
            images = read_slice(Path("artifacts/data") / name, "test", 2)
            base = Path("artifacts/base")
            clf = with_parameters(classifier(base, name, CPU), tower(base, base, CPU))
            logits = with_head(clf, text_head(base, name))(images.pixels()).detach()
            names = index_of(Path("artifacts/data") / name)["classnames"]
        assert task["ids"] == images.ids
        assert [names[i] for i in images.labels] == task["labels"]
        assert torch.equal(tensors[f"{name}/clean"], images.images)
        for i, row in enumerate(task["models"]["base"]["before"]):
            assert row["class"] == names[int(logits[i].argmax())]
            assert row["probability"] == pytest.approx(float(logits[i].softmax(-1).max()), abs=1e-6)
            assert row["true_class"] == pytest.approx(
                float(logits[i].softmax(-1)[images.labels[i]]), abs=1e-6
            )
        for before, after in pairs(task["models"]["base"]):
            assert after["true_class"] < before["true_class"]
            broken += before["class"] != after["class"]
    assert broken


def test_the_adversarial_image_is_in_the_ball_and_the_perturbation_is_amplified(project):
    record, tensors = gallery(project)
    assert record["attack"]["eps"] == 4 / 255
    assert record["factor"] == 31  # the largest that 4/255 stays inside of the half range with
    for name in record["tasks"]:
        clean = tensors[f"{name}/clean"].int()
        shown = tensors[f"{name}/base/adversarial"].int()
        assert 0 < (shown - clean).abs().max() <= 4
        grey = tensors[f"{name}/base/perturbation"].float() / 255 - 0.5
        delta = (shown - clean) / 255
        assert torch.allclose(grey, 31 * delta, atol=31 * 0.5 / 255 + 0.5 / 255)


def test_amplified_keeps_zero_grey_and_uses_the_range():
    delta = torch.tensor([[-4, -1, 0, 4]]) / 255
    pixels, factor = amplified(delta, 4 / 255)
    assert factor == 31
    assert pixels.tolist() == [[4, 97, 128, 252]]
    pixels, factor = amplified(torch.zeros(1, 2), 0.0)
    assert factor == 1
    assert pixels.tolist() == [[128, 128]]


def test_no_picture_wanted_and_nothing_to_attack_with(project):
    record, tensors = gallery(project, report__gallery=0)
    assert record["tasks"] == {}
    assert tensors == {}
    record, tensors = gallery(project, attack__eps=0, report__gallery=1)
    for name, task in record["tasks"].items():
        assert task["models"]["base"]["before"] == task["models"]["base"]["after"]
        assert torch.equal(tensors[f"{name}/clean"], tensors[f"{name}/base/adversarial"])


def test_the_plan_knows_its_passes(project):
    with counted() as passes:
        gallery(project, report__gallery=3)
    with inside(project):
        assert by_kind(planned(load_params(Path("params.yaml")))) == passes


def test_two_runs_write_the_same_bytes(project):
    found = []
    for _ in range(2):
        gallery(project)
        folder = project / "artifacts/gallery"
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
