"""Fine-tuning: what is trained, how, and that a kill changes nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from pistole.errors import UserError
from pistole.files import load_tensors
from pistole.robust.objectives import Objective, objective_named
from pistole.robust.optimisers import Settings, learning_rate
from pistole.robust.pgd import Budget
from pistole.robust.resume import forget_state
from pistole.robust.training import fit
from tests.unit.robust_models import fresh_net, names, pictures
from tests.unit.training_runs import BUDGET, SETTINGS, KilledError, batches, train


def killed_at(step: int, path: Path, **options) -> None:
    def kill(number: int, metrics: dict) -> None:
        if number == step:
            raise KilledError

    with pytest.raises(KilledError):
        train(fresh_net(), state_path=path, on_step=kill, **options)


def test_is_adamw_on_the_cross_entropy():
    net, reference = fresh_net(), fresh_net()
    curve = train(net, "erm")
    optimiser = torch.optim.AdamW(
        reference.parameters(), lr=1.0, betas=(0.9, 0.999), weight_decay=1e-2
    )
    for step in range(SETTINGS.steps):
        _, x, y = batches(step, slice(None))
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
    fit(net, {"head.weight": net.head.weight}, batches, objective_named("tecoa"), SETTINGS,
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

    def spied(step: int, rows: slice):
        asked.append(step)
        return batches(step, rows)

    if saved == 0:
        assert not path.exists()
        resumed.load_state_dict(fresh_net().state_dict())
    found = []
    curve = train(resumed, state_path=path, batches=spied, on_resume=found.append)
    assert asked == list(range(saved, 9))
    assert found == [saved] * (saved > 0)
    assert curve == expected
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert mine.detach().numpy().tobytes() == theirs.detach().numpy().tobytes()


def test_a_finished_run_is_not_trained_again_until_its_state_is_forgotten(tmp_path):
    path = tmp_path / "state.safetensors"
    expected = train(fresh_net(), state_path=path)
    assert load_tensors(path)[1]["run_key"] == "k"

    def refuse(step: int, rows: slice):
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
def test_divergence_names_the_step_and_the_remedy(loss, message):
    @dataclasses.dataclass(frozen=True)
    class Odd(Objective):
        def loss(self, model, original, batch, adversarial):
            return loss(model), {}

    net = fresh_net()
    before = net.head.bias.detach().clone()
    with pytest.raises(UserError, match=message):
        train(net, Odd())
    assert torch.equal(net.head.bias, before)


def test_unfit_batches_are_refused():
    with pytest.raises(UserError, match="step 0 has 8 images and 8 labels: give 16 each"):
        train(fresh_net(), settings=Settings(2, 16, 0.1, 0, 0))
    with pytest.raises(UserError, match="pixels span"):
        train(fresh_net(), batches=lambda *_: (names(8), pictures(8)[0] * 2, pictures(8)[1]))
    small = dataclasses.replace(SETTINGS, accumulate=9)
    with pytest.raises(UserError, match=r"batch_size is 8, .* make 9 parts of it: lower them"):
        train(fresh_net(), settings=small)


# Made with the code before objectives were objects and batches had parts, on this recipe.
GOLDEN = {
    "erm": (1.6222870349884033, 1.4634026288986206, 1.4142013788223267, 44.25977198878536),
    "tecoa": (1.713869571685791, 1.553758144378662, 1.5191051959991455, 39.623529740201775),
}


@pytest.mark.parametrize("objective", GOLDEN)
def test_curve_and_weights_are_those_of_the_first_release(objective):
    net = fresh_net()
    curve = train(net, objective)
    total = sum(parameter.double().abs().sum().item() for parameter in net.parameters())
    found = (*(curve[step]["loss"] for step in (0, 4, 8)), total)
    assert found == pytest.approx(GOLDEN[objective], rel=1e-5)


def test_sgd_is_momentum_on_the_cross_entropy():
    net, reference = fresh_net(), fresh_net()
    settings = dataclasses.replace(SETTINGS, optimiser="sgd", lr=0.1)
    train(net, "erm", settings)
    velocity = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for step in range(SETTINGS.steps):
        _, x, y = batches(step, slice(None))
        loss = nn.functional.cross_entropy(reference(x), y)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            triples = zip(reference.parameters(), velocity, gradients, strict=True)
            for parameter, speed, gradient in triples:
                speed.mul_(0.9).add_(gradient + 1e-2 * parameter)
                parameter.sub_(learning_rate(step, settings) * speed)
    for mine, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
