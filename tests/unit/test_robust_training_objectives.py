"""Fine-tuning a zero-shot model: every objective is resumed, and accumulated, to the same end."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from pistole.files import load_tensors
from pistole.robust import training
from pistole.robust.objectives import objective_named
from pistole.robust.optimisers import Settings
from pistole.robust.pgd import Budget
from tests.unit import zeroshot_models
from tests.unit.robust_models import names
from tests.unit.training_runs import BUDGET, SETTINGS, KilledError, train


def zero_shot_batches(step: int, rows: slice) -> tuple[list[str], Tensor, Tensor]:
    x, y = zeroshot_models.pictures(8, seed=step)
    return names(8)[rows], x[rows], y[rows]


def zero_shot_budget(name: str) -> Budget:
    return dataclasses.replace(BUDGET, loss="l2" if name == "fare" else "ce")


def train_zero_shot(model, name: str = "pmg", optimiser: str = "sgd", **options):
    fields = {field.name for field in dataclasses.fields(Settings)}
    changed = {key: options.pop(key) for key in list(options) if key in fields}
    settings = dataclasses.replace(SETTINGS, **({"optimiser": optimiser, "lr": 0.02} | changed))
    given = {"budget": zero_shot_budget(name), "batches": zero_shot_batches} | options
    return train(model, name, settings, **given)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("name", ["fare", "pmg", "tga"])
def test_a_killed_run_of_every_objective_and_optimiser_ends_with_the_same_bytes(
    tmp_path, name, optimiser
):
    def kill(number: int, metrics: dict) -> None:
        if number == 4:
            raise KilledError

    path, whole, resumed = tmp_path / "state.safetensors", *map(zero_shot, (0, 0))
    options = {"name": name, "optimiser": optimiser, "accumulate": 2}
    expected = train_zero_shot(whole, **options)
    with pytest.raises(KilledError):
        train_zero_shot(zero_shot(), state_path=path, on_step=kill, **options)
    assert len(load_tensors(path)[1]["curve"]) == 4
    assert train_zero_shot(resumed, state_path=path, **options) == expected
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert expected[-1]["loss"] < expected[0]["loss"]


def zero_shot(seed: int = 0):
    return zeroshot_models.zero_shot(seed)


@pytest.mark.parametrize("name", ["erm", "tecoa", "fare", "pmg", "tga"])
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_gives_the_large_batch(name, parts):
    # 3 does not divide 8: parts of 2, 3 and 3 images are weighted by their rows.
    whole, split = zero_shot(), zero_shot()
    # An attention map is steep in the weights, and starts where it differs by round-off alone.
    lr, close, loss = (1e-4, 1e-3, 1e-4) if name == "tga" else (0.02, 1e-5, 1e-5)
    expected = train_zero_shot(whole, name, lr=lr)
    sizes = []

    def spied(step: int, rows: slice):
        sizes.append(rows.stop - rows.start)
        return zero_shot_batches(step, rows)

    curve = train_zero_shot(split, name, lr=lr, accumulate=parts, batches=spied)
    assert sizes[:parts] == ([4, 4] if parts == 2 else [2, 3, 3])
    for mine, theirs in zip(curve, expected, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=loss)
        assert mine == pytest.approx(theirs, rel=close, abs=1e-5)
    for mine, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_pmg_official_is_accumulated_as_the_sum_over_the_large_batch():
    released = objective_named("pmg", official=True)
    runs = []
    for parts in (1, 4):
        settings = dataclasses.replace(SETTINGS, lr=1e-4, accumulate=parts)
        runs.append(train(zero_shot(), released, settings, zero_shot_batches))
    assert runs[1][-1] == pytest.approx(runs[0][-1], rel=1e-4, abs=1e-6)


def test_objectives_compare_with_the_model_before_the_first_step():
    model = zero_shot()
    curve = train_zero_shot(model, "pmg", lr=0.5, steps=3)
    assert curve[0]["kl_frozen"] == pytest.approx(0, abs=1e-6)
    assert curve[2]["kl_frozen"] > 1e-3


class Spy(nn.Module):
    """A linear layer in another's place that notes the precision it computes in."""

    def __init__(self, layer: nn.Module, seen: list) -> None:
        super().__init__()
        self.layer, self.seen = layer, seen

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        self.seen.append((found.dtype, torch.is_autocast_enabled("cpu")))
        return found


def test_bf16_is_for_the_update_alone_and_never_on_the_cpu(monkeypatch):
    def run(precision: str):
        model, seen = zero_shot(), []
        mlp = model.visual.transformer.resblocks[0].mlp
        mlp.c_fc = Spy(mlp.c_fc, seen)
        curve = train_zero_shot(model, "pmg", precision=precision, steps=2)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        return curve, seen

    full, seen = run("fp32")
    assert run("bf16") == (full, seen)  # on the CPU nothing changes
    assert set(seen) == {(torch.float32, False)}
    monkeypatch.setattr(training, "AUTOCAST", ("cpu",))  # as if it were a CUDA device
    half, seen = run("bf16")
    attack = [(torch.float32, False)] * BUDGET.steps
    # The update: adversarial images, the frozen model (not spied on: a copy), clean images.
    copied = [(torch.bfloat16, True)] * (len(seen) // 2 - BUDGET.steps)
    assert seen == (attack + copied) * 2
    assert len(copied) >= 2
    assert half[0]["loss"] != full[0]["loss"]
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)
    assert half[0]["grad_norm"] == pytest.approx(full[0]["grad_norm"], rel=0.05)
