"""Fine-tuning: what is trained, how, and that a kill changes nothing."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.files import load_tensors
from pistole.robust import objectives
from pistole.robust.pgd import Budget
from pistole.robust.training import Batches, Settings, fit, forget_state, learning_rate
from tests.unit.robust_models import fresh_net, names, pictures

BUDGET = Budget(eps=0.05, alpha=0.03, steps=2, init="uniform_eps")
SETTINGS = Settings(steps=9, batch_size=8, lr=1e-2, weight_decay=1e-2, warmup=0.25, save_every=2)


class KilledError(Exception):
    pass


def batches(step: int) -> tuple[list[str], Tensor, Tensor]:
    return names(8), *pictures(8, seed=step)


def train(
    net: nn.Module,
    objective: str = "tecoa",
    settings: Settings = SETTINGS,
    batches: Batches = batches,
    **options,
) -> list[dict[str, float]]:
    options = {"budget": BUDGET, "seed": 4, "run_key": "k"} | options
    return fit(net, dict(net.named_parameters()), batches, objective, settings, **options)


def killed_at(step: int, path: Path, **options) -> None:
    def kill(number: int, metrics: dict) -> None:
        if number == step:
            raise KilledError

    with pytest.raises(KilledError):
        train(fresh_net(), state_path=path, on_step=kill, **options)


def test_learning_rate_rises_linearly_then_falls_to_zero_as_a_cosine():
    settings = Settings(steps=100, batch_size=1, lr=2.0, weight_decay=0, warmup=0.1)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert learning_rate(100, settings) == 0
    flat = Settings(steps=3, batch_size=1, lr=2.0, weight_decay=0, warmup=0)
    assert learning_rate(0, flat) == 2.0


def test_is_adamw_on_the_cross_entropy():
    net, reference = fresh_net(), fresh_net()
    curve = train(net, "erm")
    optimiser = torch.optim.AdamW(
        reference.parameters(), lr=1.0, betas=(0.9, 0.999), weight_decay=1e-2
    )
    for step in range(SETTINGS.steps):
        _, x, y = batches(step)
        optimiser.param_groups[0]["lr"] = learning_rate(step, SETTINGS)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(reference(x), y)
        loss.backward()
        optimiser.step()
        assert curve[step]["loss"] == loss.item()
    for mine, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [record["step"] for record in curve] == list(range(9))
    assert curve[-1].keys() == {"step", "loss", "lr", "grad_norm", "accuracy"}
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_only_the_named_parameters_move_and_all_flags_come_back():
    net = fresh_net()
    net.train()
    net.norm.eval()
    net.conv.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fit(net, {"head.weight": net.head.weight}, batches, "tecoa", SETTINGS,
        budget=BUDGET, seed=0, run_key="k")  # fmt: skip
    moved = [n for n, value in net.state_dict().items() if not torch.equal(value, before[n])]
    assert moved == ["head.weight"]
    assert [m.training for m in (net, net.norm, net.dropout)] == [True, False, True]
    assert not net.conv.bias.requires_grad
    assert net.conv.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_batchnorm_statistics_stay_the_bases():
    net = fresh_net().train()
    train(net)
    assert not net.norm.running_mean.any()
    assert torch.equal(net.norm.running_var, torch.ones(6))
    assert net.norm.num_batches_tracked == 0


def test_the_global_generator_is_left_alone_and_the_seed_counts():
    before = torch.random.get_rng_state()
    curve = train(fresh_net())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert train(fresh_net()) == curve
    assert train(fresh_net(), seed=5) != curve


@pytest.mark.parametrize("killed", [0, 1, 4, 8])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, killed):
    whole, resumed, path = fresh_net(), fresh_net(1), tmp_path / "new" / "state.safetensors"
    expected = train(whole)
    killed_at(killed, path)
    saved = killed + 1 if killed == 8 else (killed + 1) // 2 * 2
    asked = []

    def spied(step: int):
        asked.append(step)
        return batches(step)

    if saved == 0:
        assert not path.exists()
        resumed.load_state_dict(fresh_net().state_dict())
    curve = train(resumed, state_path=path, batches=spied)
    assert asked == list(range(saved, 9))
    assert curve == expected
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert mine.detach().numpy().tobytes() == theirs.detach().numpy().tobytes()


def test_a_finished_run_is_not_trained_again_until_its_state_is_forgotten(tmp_path):
    path = tmp_path / "state.safetensors"
    expected = train(fresh_net(), state_path=path)
    assert load_tensors(path)[1]["run_key"] == "k"

    def refuse(step: int):
        raise AssertionError

    assert train(fresh_net(1), state_path=path, batches=refuse) == expected
    forget_state(path)
    assert not path.exists()
    forget_state(path)


@pytest.mark.parametrize(
    "other",
    [
        {"run_key": "other"},
        {"seed": 5},
        {"objective": "erm"},
        {"budget": Budget(eps=0.04, alpha=0.03, steps=2, init="uniform_eps")},
        {"settings": Settings(steps=9, batch_size=8, lr=2e-2, weight_decay=1e-2, warmup=0.25)},
    ],
)
def test_the_state_of_another_run_is_not_used(tmp_path, other):
    path = tmp_path / "state.safetensors"
    killed_at(4, path)
    assert train(fresh_net(), state_path=path, **other) == train(fresh_net(), **other)


def test_a_parameter_that_the_loss_does_not_reach_stays_and_resumes(tmp_path):
    def net():
        made = fresh_net()
        made.unused = nn.Parameter(torch.ones(3))
        return made

    path, whole, resumed = tmp_path / "state.safetensors", net(), net()
    expected = train(whole)

    def kill(number: int, metrics: dict) -> None:
        if number == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(net(), state_path=path, on_step=kill)
    assert train(resumed, state_path=path) == expected
    assert torch.equal(resumed.unused, torch.ones(3))
    assert torch.equal(resumed.head.weight, whole.head.weight)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda net: net.head.bias.sum() / 0,
            "loss is (inf|-inf|nan) at step 0: use a lower lr than 0.01",
        ),
        (
            lambda net: (net.head.bias * 0).sqrt().sum(),
            "grad_norm is nan at step 0: use a lower lr",
        ),
    ],
)
def test_divergence_names_the_step_and_the_remedy(monkeypatch, loss, message):
    monkeypatch.setitem(objectives.OBJECTIVES, "odd", lambda net, *_: (loss(net), {}))
    net = fresh_net()
    before = net.head.bias.detach().clone()
    with pytest.raises(UserError, match=message):
        train(net, "odd")
    assert torch.equal(net.head.bias, before)


def test_unfit_batches_are_refused():
    with pytest.raises(UserError, match="step 0 has 8 images and 8 labels: give 4 each"):
        train(fresh_net(), settings=Settings(2, 4, 0.1, 0, 0))
    with pytest.raises(UserError, match="pixels span"):
        train(fresh_net(), batches=lambda step: (names(8), pictures(8)[0] * 2, pictures(8)[1]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 0.1, 0, 0), "steps is 0"),
        ((1, 0, 0.1, 0, 0), "batch_size is 0"),
        ((1, 1, 0.0, 0, 0), "lr is 0.0"),
        ((1, 1, float("nan"), 0, 0), "lr is nan"),
        ((1, 1, 0.1, -1, 0), "weight_decay is -1"),
        ((1, 1, 0.1, 0, 1.0), "warmup is 1.0"),
        ((1, 1, 0.1, 0, 0, 0), "save_every is 0"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(UserError, match=message):
        Settings(*values)
