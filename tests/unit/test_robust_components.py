"""torchattacks' components behind our adapter: parameters, starts, and what they leave alone."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torchattacks.attacks import apgd, apgdt

import pistole
from pistole.errors import UserError
from pistole.robust.components import apgd_ce, apgd_t
from tests.unit.robust_models import PerSample, TinyNet, pictures, trained_net

EPS = 0.06
EFFORT = {"eps": EPS, "steps": 12}
TARGETED = EFFORT | {"target": 1, "targets": 4}
ATTACKS = pytest.mark.parametrize(
    ("attack", "effort", "module"),
    [(apgd_ce, EFFORT, apgd), (apgd_t, TARGETED, apgdt)],
    ids=["apgd_ce", "apgd_t"],
)
KINDS = {"apgd": "APGD", "apgdt": "APGDT", "fab": "FAB", "square": "Square"}
UNUSED = {"AutoAttack", "MultiAttack", "APGDL2", "set_normalization_used"}


def draws_like(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))


def names_in(tree: ast.AST) -> set[str]:
    """Every identifier, dotted as written."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {".".join([*origin, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Name | ast.Attribute):
            found.add(ast.unparse(node))
    return found


def test_torchattacks_is_used_in_one_file_and_only_for_four_attacks():
    users, used = set(), set()
    root = Path(pistole.__file__).parent
    for path in root.rglob("*.py"):
        found = names_in(ast.parse(path.read_text(encoding="utf-8")))
        parts = {part for name in found for part in name.split(".")}
        assert not parts & UNUSED, path
        if "torchattacks" in parts:
            users.add(path.relative_to(root).as_posix())
            used |= {name for name in found if name.split(".")[0] in ("torchattacks", *KINDS)}
    assert users == {"robust/components.py"}
    modules = {f"torchattacks.attacks.{module}" for module in KINDS}
    classes = {f"{module}.{kind}" for module, kind in KINDS.items()}
    assert {name for name in used if name not in KINDS} == modules | classes


@ATTACKS
def test_returns_an_adversarial_image_where_one_was_found_else_the_clean_one(
    attack, effort, module
):
    net, (x, y) = trained_net(), pictures(40)
    result = attack(net, x, y, draws_like(x), **effort)
    broken = net(result).argmax(1) != y
    assert 5 <= broken.sum() <= 35
    assert torch.equal(result[~broken], x[~broken])
    assert ((result - x).abs().amax((1, 2, 3))[broken] > 0.9 * EPS).all()
    assert (result - x).abs().max() <= EPS + 1e-6
    assert result.min() >= 0
    assert result.max() <= 1
    assert not result.requires_grad  # no graph, which would hold all iterates in memory


@ATTACKS
def test_starts_where_the_callers_draws_say(attack, effort, module):
    net, (x, y) = trained_net(), pictures(3)
    inputs = []
    net.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    draws = draws_like(x)
    attack(net, x, y, draws, **effort)
    noise = 2 * draws - 1
    noise = EPS * noise / noise.abs().amax((1, 2, 3), keepdim=True)
    if attack is apgd_t:
        assert torch.equal(inputs.pop(0), x)  # the clean logits rank the targets
    assert torch.allclose(inputs[0], (x + noise).clamp(0, 1), atol=1e-7)
    assert len(inputs) == effort["steps"] + 1


@ATTACKS
def test_the_global_generator_is_neither_read_nor_set(attack, effort, module):
    net, (x, y) = trained_net(), pictures(40)
    with torch.random.fork_rng(devices=[]):
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            results.append(attack(net, x, y, draws_like(x), **effort))
            assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*results)
    other = attack(net, x, y, draws_like(x, seed=1), **effort)
    assert not torch.equal(other, results[0])


@ATTACKS
def test_torchattacks_gets_its_own_torch_back_even_after_an_error(attack, effort, module):
    net, (x, y) = trained_net(), pictures(4)
    attack(net, x, y, draws_like(x), **effort)
    assert module.torch is torch
    with pytest.raises(RuntimeError, match=r"drew \(4, 3, 6, 6\), not \(2, 3, 6, 6\)"):
        attack(net, x, y, draws_like(x)[:2], **effort)
    assert module.torch is torch


@ATTACKS
def test_no_parameter_collects_a_gradient_and_no_mode_changes(attack, effort, module):
    net, (x, y) = trained_net(), pictures(4)
    net.norm.train()  # torchattacks' own call would end it with train() or eval() for all
    before = [part.training for part in net.modules()]
    net.head.weight.grad = torch.ones_like(net.head.weight)
    attack(net, x, y, draws_like(x), **effort)
    assert [part.training for part in net.modules()] == before
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert net.conv.weight.grad is None


class RobModel(TinyNet):
    """torchattacks reads mean and std from a model of this name."""

    mean = torch.full((3,), 0.5)
    std = torch.full((3,), 0.25)


@ATTACKS
def test_no_model_makes_torchattacks_normalise(attack, effort, module, monkeypatch):
    net, (x, y) = trained_net(), pictures(10)
    namesake = RobModel().eval()
    namesake.load_state_dict(net.state_dict())
    used = []
    kind = getattr(module, module.__name__.rpartition(".")[2].upper())
    genuine = kind.attack_single_run

    def spied(self, *inputs):
        used.append(self.normalization_used)
        return genuine(self, *inputs)

    monkeypatch.setattr(kind, "attack_single_run", spied)
    results = [attack(model, x, y, draws_like(x), **effort) for model in (net, namesake)]
    assert torch.equal(*results)
    assert used == [None, None]


@ATTACKS
def test_a_model_without_parameters_is_attacked_in_silence(attack, effort, module, capsys):
    class Sums(nn.Module):
        def forward(self, x):
            return x.flatten(2).sum(2) @ torch.eye(3, 5) * 3

    model, (x, _) = Sums(), pictures(10)
    y = model(x).argmax(1)
    result = attack(model, x, y, draws_like(x), **effort)
    assert (model(result).argmax(1) != y).any()
    assert capsys.readouterr() == ("", "")


@ATTACKS
def test_an_image_alone_is_attacked_as_in_a_batch(attack, effort, module):
    net, (x, y) = PerSample(trained_net()), pictures(10)
    draws = draws_like(x)
    whole = attack(net, x, y, draws, **effort)
    alone = [attack(net, *(part[i : i + 1] for part in (x, y, draws)), **effort) for i in range(10)]
    assert torch.equal(torch.cat(alone), whole)
    assert 0 < (whole != x).flatten(1).any(1).sum() < 10


@pytest.mark.parametrize("target", [1, 2, 4])
def test_the_target_is_the_class_of_that_rank_by_clean_logit(target, monkeypatch):
    net, (x, y) = trained_net(), pictures(20)
    aimed = []
    genuine = apgdt.APGDT.dlr_loss_targeted

    def spied(self, logits, labels, goals):
        aimed.append(goals)
        return genuine(self, logits, labels, goals)

    monkeypatch.setattr(apgdt.APGDT, "dlr_loss_targeted", spied)
    apgd_t(net, x, y, draws_like(x), **EFFORT, target=target, targets=4)
    wrong = net(x).scatter(1, y[:, None], -torch.inf)
    assert all(torch.equal(goals, wrong.argsort(1)[:, -target]) for goals in aimed)
    assert len(aimed) == EFFORT["steps"]  # of the last iterate only the logits count


def test_the_scale_of_the_logits_does_not_change_the_targeted_attack():
    net, (x, y) = trained_net(), pictures(40)
    plain = apgd_t(net, x, y, draws_like(x), **TARGETED)
    broken = (plain != x).flatten(1).any(1)
    assert 5 <= broken.sum() <= 35
    net.scale = 16.0  # a power of two rounds nothing
    assert torch.equal(apgd_t(net, x, y, draws_like(x), **TARGETED), plain)
    net.scale = 10.0
    scaled = apgd_t(net, x, y, draws_like(x), **TARGETED)
    assert ((scaled != x).flatten(1).any(1) != broken).sum() <= 1
    net.scale = 100.0  # the cross-entropy, in contrast, saturates
    assert torch.equal(apgd_ce(net, x, y, draws_like(x), **EFFORT), x)


class Kinked(nn.Module):
    """Right logits, NaN gradients: 0 times the square root's slope at 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) + 0 * (0 * x).square().sum((1, 2, 3)).sqrt()[:, None]


@ATTACKS
def test_a_gradient_of_nan_is_no_robustness(attack, effort, module):
    net, (x, y) = trained_net(), pictures(4)
    assert torch.equal(Kinked(net)(x), net(x))
    with pytest.raises(UserError, match="NaN or infinite gradient"):
        attack(Kinked(net), x, y, draws_like(x), **effort)
