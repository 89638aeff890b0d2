"""``import pistole``: the stages' numbers on models in memory, and nothing else touched."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zeroshot_models import CLASSES, SIDE, moved, pictures, zero_shot

import pistole
from pistole.files import load_tensors, read_json
from pistole.method.masks import complementary_masks
from pistole.params import load_params
from pistole.stages.runtime import classifier
from pistole.stages.slices import read_slice
from tests.e2e.micro import ROOT, SCORED, SOURCES, environment, run_micro

LAM = 0.3
QUICK = {"K": 2, "pairs": 1, "attack_steps": 2, "batch_size": 8}
TINY = {
    "datasets": ["clutter"],
    "slices": {"finetune": 16, "score": 8, "measure": 2, "select": 8, "test": 2},
    "finetune__natural__steps": 2,
    "finetune__robust__steps": 2,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro run up to the merged model."""
    commands = [["data", "index", "clutter"], ["base"]]
    commands += [[stage, s] for stage in ("finetune", "vectors") for s in SOURCES]
    merge = ["merge", "pistole", "--lambda", str(LAM)]
    folder = tmp_path_factory.mktemp("library")
    return run_micro(folder, [*commands, *SCORED, ["select"], merge], **TINY) / "artifacts"


def settings_of(project: Path) -> pistole.Settings:
    """The micro parameters as the library takes them."""
    params = load_params(project.parent / "params.yaml")
    knobs, attack = params.stability.model_dump(), params.attack
    names = pistole.Settings.__dataclass_fields__
    return pistole.Settings(
        **{key: value for key, value in {**knobs, **knobs["pci"]}.items() if key in names},
        eps=attack.eps,
        attack_steps=attack.calibration.steps,
        attack_alpha=attack.calibration.alpha,
        attack_init=attack.calibration.init,
        rescale=params.merge.rescale,
        seed=params.seed,
    )


def inputs(project: Path) -> tuple:
    base = classifier(project / "base", "clutter", torch.device("cpu"))
    towers = [load_tensors(project / f"checkpoints/{s}/visual.safetensors")[0] for s in SOURCES]
    return base, *towers


def loader(project: Path, split: str, size: int) -> list:
    images = read_slice(project / "data/clutter", split)
    return [
        (images.pixels(part), images.labels[part], [images.ids[i] for i in part])
        for part in torch.arange(len(images)).split(size)
    ]


def test_the_merged_model_is_the_pipelines(project):
    base, natural, robust = inputs(project)
    merged = pistole.merge(
        base, natural, robust, loader(project, "score", 3), lam=LAM, settings=settings_of(project)
    )
    expected, _ = load_tensors(project / "merged/pistole/visual.safetensors")
    found = merged.visual.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(found["proj"], base.visual.state_dict()["proj"])


@pytest.mark.parametrize("variant", ["gism_pci", "pistole"])
def test_scores_are_the_pipelines(project, variant):
    base, *towers = inputs(project)
    values = {**settings_of(project).__dict__, "variant": variant}
    for tower, source in zip(towers, SOURCES, strict=True):
        images = loader(project, "score", 8)
        found = pistole.stability_scores(base, tower, images, source, pistole.Settings(**values))
        expected, _ = load_tensors(project / f"stability/{source}/{variant}.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_lambda_is_chosen_as_the_pipeline_chooses_it(project):
    base, natural, robust = inputs(project)
    settings = settings_of(project)
    both = [load_tensors(project / f"stability/{s}/pistole.safetensors")[0] for s in SOURCES]
    found = pistole.select_lambda(
        base,
        *pistole.task_vectors(base, natural, robust),
        complementary_masks(*both, settings.masks()),
        loader(project, "select", 8),
        grid=(0, 0.5, 1),
        settings=settings,
    )
    assert found == read_json(project / "select/lambda.json")["pistole"]


def batches(n: int = 8) -> list[tuple[Tensor, Tensor]]:
    x, y = pictures(n)
    return [(x[: n // 2], y[: n // 2]), (x[n // 2 :], y[n // 2 :])]


@pytest.fixture
def merged() -> Callable[..., pistole.ZeroShotClassifier]:
    """A function that merges a small ViT; keywords replace its arguments."""

    def run(**changes: object) -> pistole.ZeroShotClassifier:
        given = {
            "base": zero_shot(),
            "natural": moved(zero_shot(), seed=1).visual,
            "robust": moved(zero_shot(), seed=2).visual,
            "loader": batches(),
            "lam": LAM,
            "settings": pistole.Settings(**QUICK),
        }
        return pistole.merge(**{**given, **changes})

    return run


def test_inputs_and_global_state_are_left_alone(merged):
    base, tower = zero_shot(), moved(zero_shot(), seed=1).visual
    base.visual.train()
    base.visual.requires_grad_(False)
    images = batches()
    kept = [{n: v.clone() for n, v in m.state_dict().items()} for m in (base, tower)]
    pixels = [x.clone() for x, _ in images]
    flags = state()
    merged(base=base, natural=tower, loader=images)
    assert state() == flags
    assert base.visual.training
    assert not any(p.requires_grad or p.grad is not None for p in base.visual.parameters())
    for module, before in zip((base, tower), kept, strict=True):
        assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    assert all(torch.equal(x, before) for (x, _), before in zip(images, pixels, strict=True))


def state() -> tuple:
    backends = torch.backends
    return (
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        *(backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32),
        *(backends.cuda.matmul.allow_tf32, backends.mha.get_fastpath_enabled()),
        torch.is_grad_enabled(),
    )


def test_the_same_call_gives_the_same_bits_whatever_the_global_generator(merged):
    first = merged().visual.state_dict()
    torch.manual_seed(5)
    second = merged().visual.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_any_module_with_features_is_a_tower(merged):
    def tower(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 12)]
            return nn.Sequential(*layers)

    base = zero_shot()
    own = pistole.ZeroShotClassifier(
        tower(0), base.text_features, [0.5] * 3, [0.25] * 3, SIDE, 10.0
    )
    found = merged(base=own, natural=tower(1), robust=tower(2).state_dict())
    assert found(batches()[0][0]).shape == (4, CLASSES)
    assert not torch.equal(found.visual[0].weight, own.visual[0].weight)


def test_lambda_1_without_masks_is_the_natural_model(merged):
    natural = moved(zero_shot(), seed=1)
    settings = pistole.Settings(**QUICK, kappa=0.0)
    found = merged(natural=natural, lam=1.0, settings=settings).visual.state_dict()
    for name, value in natural.visual.state_dict().items():
        torch.testing.assert_close(found[name], value)


def test_held_out_images_choose_lambda(merged):
    robust = moved(zero_shot(), by=5.0, seed=2)  # of no use at all
    base = zero_shot()
    found = merged(base=base, natural=base, robust=robust, lam=None, held_out=batches())
    assert isinstance(found, pistole.ZeroShotClassifier)


PIXELS, LABELS = pictures(8)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lam": None}, "give lam"),
        ({"held_out": [(PIXELS, LABELS)]}, "give lam"),
        ({"lam": 1.5}, "lambda is 1.5"),
        ({"loader": []}, "gives no images"),
        ({"loader": [(PIXELS[:3], LABELS[:3])]}, "3 images: split halves need an even number"),
        ({"loader": [(PIXELS * 255, LABELS)]}, "give pixels in [0, 1]"),
        ({"loader": [(PIXELS * torch.nan, LABELS)]}, "give pixels in [0, 1]"),
        ({"loader": [(PIXELS.double(), LABELS)]}, "images are torch.float64"),
        ({"loader": [(PIXELS, LABELS.float())]}, "labels are torch.float32"),
        ({"loader": [(PIXELS, LABELS + 9)]}, "of 4 classes"),
        ({"loader": [(PIXELS, LABELS, ["same"] * 8)]}, "1 different ids for 8 images"),
        ({"natural": nn.Linear(2, 2)}, "natural: tensor"),
        ({"robust": {}}, "robust: tensor"),
        ({"base": zero_shot().half()}, "give a tower in fp32"),
    ],
)
def test_what_cannot_be_merged_is_refused(merged, changes, told):
    with pytest.raises(pistole.UserError, match=told.replace("[", "\\[")):
        merged(**changes)


def test_other_batchnorm_statistics_than_the_bases_are_refused(merged):
    def tower(mean: float) -> nn.Module:
        made = nn.Sequential(nn.Conv2d(3, 12, SIDE), nn.BatchNorm2d(12), nn.Flatten())
        made[1].running_mean += mean
        return made

    base = zero_shot()
    own = pistole.ZeroShotClassifier(
        tower(0), base.text_features, [0.5] * 3, [0.25] * 3, SIDE, 10.0
    )
    with pytest.raises(pistole.UserError, match="running_mean' differs from the base's"):
        merged(base=own, natural=tower(1), robust=tower(0))


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"kappa": -1.0}, "kappa is -1"), ({"ball": "cube"}, "ball is 'cube'"), ({"K": 0}, "K is 0")],
)
def test_settings_out_of_bounds_are_refused(changes, told):
    with pytest.raises(pistole.UserError, match=told):
        pistole.Settings(**changes)


def test_the_defaults_are_those_of_the_papers_profile():
    params = load_params(ROOT / "profiles/imagenet-vitl14.yaml")
    ours, theirs = pistole.Settings().knobs(), params.stability
    memory = {"batch_size", "microbatch"}
    assert ours.stability.model_dump(exclude=memory) == theirs.model_dump(exclude=memory)
    assert ours.attack.calibration == params.attack.calibration
    assert ours.attack.eps == params.attack.eps


def test_import_pistole_imports_no_torch_and_names_everything():
    code = (
        "import sys, pistole; print('torch' in sys.modules);"
        "print(set(pistole.LIBRARY) <= set(dir(pistole)), hasattr(pistole, 'nonsense'))"
    )
    env = environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "True", "False"]


def test_the_package_names_what_the_library_has():
    import pistole.library

    assert set(pistole.LIBRARY) == set(pistole.library.__all__)
    stub = (ROOT / "pistole/__init__.pyi").read_text()
    assert all(f"import {name} as {name}\n" in stub for name in pistole.LIBRARY)
