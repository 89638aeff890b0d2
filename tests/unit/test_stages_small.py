"""The small parts of the stages: what is pruned, chosen, batched, refused and differentiated."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from pistole.errors import UserError
from pistole.files import load_tensors, read_json, save_tensors
from pistole.models.zeroshot import ZeroShotClassifier, functional_logits, parameters_of
from pistole.params import load_params
from pistole.robust.pgd import Budget
from pistole.stages import data as data_stage
from pistole.stages import select as select_stage
from pistole.stages.finetune import Batches
from pistole.stages.losses import Objective
from pistole.stages.prune import prune
from pistole.stages.scratch import copies_in_files, zeros_in_files
from pistole.stages.slices import Slice, read_slice
from tests.e2e.micro import write_micro

CLASSES, IMAGES = 5, 10


def test_prune_removes_unknown_entries_of_the_listed_folders_alone(tmp_path, capsys):
    known = ["data/clutter", "data/shape", "merged/pistole", "frontier/vanilla", "evaluation/base"]
    known += ["merged/gism", "theory/agreement"]
    unknown = ["data/letter", "merged/ties", "frontier/ties", "evaluation/mine"]
    unknown += ["frontier/gism", "theory/mine"]  # gism is merged, but has no curve
    elsewhere = ["checkpoints/mine", "stability/mine", "vectors/mine"]
    for place in known + unknown + elsewhere:
        (tmp_path / "artifacts" / place).mkdir(parents=True)
        (tmp_path / "artifacts" / place / "x").write_text("x")
    (tmp_path / "artifacts/merged/notes.txt").write_text("a file is no output")
    params = write_micro(tmp_path / "params.yaml")
    prune(params, tmp_path / "artifacts")
    left = {str(p.parent.relative_to(tmp_path / "artifacts")) for p in tmp_path.rglob("x")}
    assert left == {*known, *elsewhere}
    assert not [place for place in unknown if (tmp_path / "artifacts" / place).exists()]
    assert (tmp_path / "artifacts/merged/notes.txt").exists()
    assert capsys.readouterr().err.count("params.yaml no longer names it") == len(unknown)
    prune(params, tmp_path / "nowhere")  # nothing to remove is no error


# method -> lambda -> clean and robust accuracy
TABLE = {
    "wise_ft": {0: (0.1, 0.4), 0.5: (0.5, 0.3), 1: (0.6, 0.1)},
    "vanilla": {0: (0.2, 0.3), 0.5: (0.4, 0.2), 1: (0.5, 0.1)},  # 0.5 and 1 tie
    "pistole": {0: (0.3, 0.3), 0.5: (0.3, 0.3), 1: (0.3, 0.3)},  # all tie
}


@pytest.mark.parametrize("grid", [[0, 0.5, 1], [0.5, 1]])
def test_select_takes_the_largest_sum_and_the_smaller_lambda_of_a_tie(tmp_path, monkeypatch, grid):
    def ingredients(method: str, *_) -> SimpleNamespace:
        return SimpleNamespace(compose=lambda name, lam, options: (name, lam))

    replaced = {
        "read_slice": lambda folder, split: SimpleNamespace(dataset=split),
        "classifier": lambda *_: {},
        "read_ingredients": ingredients,
        "with_parameters": lambda model, theta: model.update(theta=theta),
        "accuracies": lambda model, *_: TABLE[model["theta"][0]][model["theta"][1]],
    }
    for name, fake in replaced.items():
        monkeypatch.setattr(select_stage, name, fake)
    methods = ["wise_ft", "vanilla", "pistole", "uniform_shrink"]
    names = {"methods": methods, "models": {"base": "artifacts/base"}}
    names |= {"frontier__methods": ["vanilla"], "theory__merge_path__methods": ["pistole"]}
    params = load_params(write_micro(tmp_path / "params.yaml", select__grid=grid, **names))
    found = select_stage.run(params, *[tmp_path] * 5, tmp_path / "out")
    chosen = {"wise_ft": 0.5, "vanilla": 0.5, "pistole": grid[0]}
    chosen["uniform_shrink"] = chosen["pistole"]  # a control: only its masks differ
    assert read_json(tmp_path / "out/lambda.json") == chosen
    assert found == {f"lambda/{method}": lam for method, lam in chosen.items()}
    with (tmp_path / "out/grid.csv").open(newline="") as stream:
        rows = [tuple(row.values()) for row in csv.DictReader(stream)]
    assert len(rows) == 3 * len(grid)
    assert ("vanilla", "0.5", "", "0.4", "0.2") in rows
    assert read_json(tmp_path / "out/options.json") == {}


@pytest.fixture
def images() -> Slice:
    source = torch.Generator().manual_seed(0)
    return Slice(
        "toy",
        [f"train/{i}" for i in range(IMAGES)],
        torch.randint(0, 256, (IMAGES, 3, 16, 16), generator=source, dtype=torch.uint8),
        torch.arange(IMAGES) % CLASSES,
        "d" * 64,
    )


def batches(images: Slice, size: int = 5, seed: int = 0, source: str = "natural") -> Batches:
    return Batches(images, size, seed, source, torch.device("cpu"))


def ids(made: Batches, *steps: int) -> list[str]:
    return [name for step in steps for name in made(step)[0]]


def test_every_epoch_is_a_permutation_and_every_other_one_another(images):
    made = batches(images)
    epochs = [ids(made, 2 * epoch, 2 * epoch + 1) for epoch in range(4)]
    assert all(sorted(epoch) == sorted(images.ids) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_are_a_function_of_step_seed_and_source(images):
    first = ids(batches(images), 0, 1, 2, 3)
    late = batches(images)
    assert ids(late, 3, 2, 1, 0) == [i for step in (3, 2, 1, 0) for i in first[5 * step :][:5]]
    torch.manual_seed(7)  # the global generator plays no part
    assert ids(batches(images), 0, 1, 2, 3) == first
    assert ids(batches(images, seed=1), 0, 1, 2, 3) != first
    assert ids(batches(images, source="robust"), 0, 1, 2, 3) != first


def test_a_batch_has_the_pixels_and_labels_of_its_ids(images):
    names, pixels, labels = batches(images, size=4)(5)
    chosen = [images.ids.index(name) for name in names]
    assert len(set(chosen)) == 4
    assert torch.equal(pixels, images.pixels()[chosen])
    assert torch.equal(labels, images.labels[chosen])


def test_what_does_not_fill_a_batch_waits_for_another_epoch(images):
    made = batches(images, size=4)
    epochs = [ids(made, 2 * epoch, 2 * epoch + 1) for epoch in range(6)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert set().union(*epochs) == set(images.ids)
    with pytest.raises(UserError, match=r"finetune\.natural\.batch_size is 11, .* has 10: lower"):
        batches(images, size=11)


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("listed")
    sizes = {"finetune": 6, "score": 4, "measure": 4, "select": 4, "test": 12}
    params = load_params(
        write_micro(
            folder / "params.yaml",
            slices=sizes,
            datasets=["shape"],
            data__finetune="shape",
            finetune__natural__batch_size=6,
            finetune__robust__batch_size=6,
        )
    )
    data_stage.run(params, "shape", folder / "shape")
    return folder / "shape"


def test_a_slice_is_what_was_listed_and_a_subset_keeps_its_order(listed):
    index = read_json(listed / "test/index.json")
    whole = read_slice(listed, "test")
    assert (whole.dataset, whole.ids) == ("shape", index["ids"])
    assert whole.labels.tolist() == index["labels"]
    assert whole.digest == index["digest"] != read_slice(listed, "score").digest
    pixels = whole.pixels()
    assert pixels.shape == (12, 3, 32, 32)
    assert torch.equal((pixels * 255).round().to(torch.uint8), whole.images)
    part = read_slice(listed, "test", 5)
    chosen = [whole.ids.index(name) for name in part.ids]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 5
    assert torch.equal(part.images, whole.images[chosen])
    assert torch.equal(part.labels, whole.labels[chosen])
    assert read_slice(listed, "test", 5).ids == part.ids
    assert read_slice(listed, "test", 12).ids == read_slice(listed, "test", 99).ids == whole.ids


def test_changed_images_and_unknown_splits_are_refused(listed, tmp_path):
    copy = tmp_path / "shape"
    shutil.copytree(listed, copy)
    images, about = load_tensors(copy / "test/images.safetensors")
    images["images"][3, 0, 0, 0] ^= 1  # one bit of one pixel
    save_tensors(copy / "test/images.safetensors", images, about)
    with pytest.raises(UserError, match=r"images\.safetensors is not what its index lists: run"):
        read_slice(copy, "test")
    assert len(read_slice(copy, "score")) == 4  # the other slices are whole
    with pytest.raises(UserError, match=r"no split 'train' \(has finetune, .*: set data\.finetune"):
        read_slice(copy, "train")


@pytest.fixture
def model(tiny_clip) -> ZeroShotClassifier:
    source = torch.Generator().manual_seed(1)
    features = normalize(torch.randn(CLASSES, 16, generator=source), dim=-1)
    return ZeroShotClassifier(tiny_clip.visual, features, [0.5] * 3, [0.25] * 3, 16, 20.0)


def gradient(model: ZeroShotClassifier, images: Slice, chosen: Tensor, weights: Tensor):
    """The gradient of the weighted mean cross-entropy in one pass."""
    theta = {name: p.detach().requires_grad_() for name, p in parameters_of(model).items()}
    logits = functional_logits(model, theta, images.pixels(chosen))
    losses = cross_entropy(logits, images.labels[chosen], reduction="none")
    parts = torch.autograd.grad((weights * losses).sum() / len(chosen), list(theta.values()))
    return dict(zip(theta, parts, strict=True))


@pytest.mark.parametrize("size", [1, 3, IMAGES, 100])
def test_the_mean_gradient_is_that_of_the_whole_set_for_any_batch_size(model, images, size):
    objective, theta = Objective(model, images, size), parameters_of(model)
    found = objective.mean_gradient(theta, objective.clean)
    everyone, ones = torch.arange(IMAGES), torch.ones(IMAGES)
    torch.testing.assert_close(found, gradient(model, images, everyone, ones))
    weighted_by_one = objective.mean_gradient(theta, objective.clean, ones)
    assert all(torch.equal(weighted_by_one[name], value) for name, value in found.items())


@pytest.mark.parametrize("size", [2, 100])
def test_weights_and_a_chosen_half(model, images, size):
    objective, theta = Objective(model, images, size), parameters_of(model)
    weights, half = torch.linspace(0, 2, IMAGES), torch.arange(1, IMAGES, 2)
    found = objective.mean_gradient(theta, objective.clean, weights, half)
    torch.testing.assert_close(found, gradient(model, images, half, weights[half]))
    # Both halves together are the whole.
    other = objective.mean_gradient(theta, objective.clean, weights, torch.arange(0, IMAGES, 2))
    whole = objective.mean_gradient(theta, objective.clean, weights)
    mean = {name: (value + other[name]) / 2 for name, value in found.items()}
    torch.testing.assert_close(mean, whole)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_micro_gradients_are_means_of_their_images(model, images, size):
    objective, theta = Objective(model, images, 4), parameters_of(model)
    weights, chosen = torch.linspace(0, 2, IMAGES), torch.arange(1, IMAGES, 2)
    parts = chosen.split(size)
    found = list(objective.micro_gradients(theta, objective.clean, weights, chosen, size))
    assert [count for count, _ in found] == [len(part) for part in parts]
    for (_, own), part in zip(found, parts, strict=True):
        torch.testing.assert_close(own, gradient(model, images, part, weights[part]))


def test_forward_equivalents_are_counted(model, images):
    """docs/method.md A.9: 1 per forward pass of an image, 3 with its gradient."""
    objective, theta = Objective(model, images, 4), parameters_of(model)
    objective.log_probs(theta, objective.clean)
    assert objective.spent == IMAGES
    objective.mean_gradient(theta, objective.clean, chosen=torch.arange(4))
    assert objective.spent == IMAGES + 3 * 4
    budget = Budget(eps=0.05, alpha=0.02, steps=5, init="zero")
    objective.attacked(theta, budget, seed=0)
    assert objective.spent == IMAGES + 3 * 4 + 5 * 3 * IMAGES


def test_sums_in_files_are_zeros_that_can_be_added_to(tmp_path):
    like = {"a": torch.ones(3, 2), "b": torch.ones(5, dtype=torch.float64), "c": torch.ones(1)}
    first, second = zeros_in_files(like, tmp_path), zeros_in_files(like, tmp_path)
    for name, value in like.items():
        assert first[name].shape == value.shape
        assert first[name].dtype == value.dtype
        assert (first[name] == 0).all()
        first[name] += 2
        assert (first[name] == 2).all()
        assert (second[name] == 0).all()
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 6


def test_copies_in_files_are_equal_and_apart(tmp_path):
    given = {"a": torch.arange(6.0).view(3, 2), "b": torch.ones((), dtype=torch.float64)}
    copies = copies_in_files(given, tmp_path)
    for name, value in given.items():
        assert torch.equal(copies[name], value)
        assert copies[name].dtype == value.dtype
    copies["a"] += 1
    assert torch.equal(given["a"], torch.arange(6.0).view(3, 2))


def test_log_probabilities_are_those_of_the_labels(model, images):
    objective, theta = Objective(model, images, 3), parameters_of(model)
    with torch.no_grad():
        expected = functional_logits(model, theta, images.pixels()).log_softmax(1)
    found = objective.log_probs(theta, objective.clean)
    torch.testing.assert_close(found, expected[torch.arange(IMAGES), images.labels])


@pytest.mark.parametrize("init", ["uniform_eps", "gaussian_0.001"])
def test_attacked_images_do_not_depend_on_the_batch_size(model, images, init):
    theta, budget = parameters_of(model), Budget(eps=0.05, alpha=0.02, steps=3, init=init)
    found = [Objective(model, images, n).attacked(theta, budget, seed=3) for n in (1, 4, IMAGES)]
    clean = images.pixels()
    for attacked in found:
        # A gradient of nearly 0 may take the other sign in another batch: hardly any does.
        assert ((attacked - found[0]).abs() > 1e-6).float().mean() < 1e-3
        assert (attacked - clean).abs().max() <= 0.05 + 1e-6
    objective = Objective(model, images, 4)
    before, after = (objective.log_probs(theta, x).mean() for x in (clean, found[1]))
    assert after < before - 0.1
    other = objective.attacked(theta, budget, seed=4)
    assert ((other - found[1]).abs() > 1e-6).float().mean() > 1e-3
