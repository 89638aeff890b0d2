"""What the evaluation refuses, and how it sets the attacks up.

The known traps of torchattacks 3.5.1, and which test covers each. "components", "state" and
"outcomes" stand for test_robust_components, test_robust_ensemble_state and
test_robust_ensemble_outcomes, "parity" for tests/parity:

 1 AutoAttack has 10 steps: test_effort_is_the_references, components test_torchattacks_is_used_*
 2 Square's schedule: test_effort_of_the_standard_ensemble_*
 3 C - 1 targets: test_targets_follow_the_number_of_classes
 4 l2 APGD-T: no l2, test_effort_is_the_references (norm)
 5 DLR on few classes: test_targets_follow_the_number_of_classes
 6 silent inverse normalisation: test_normalised_images_are_refused,
   test_normalisation_is_the_models, components test_no_model_makes_torchattacks_normalise
 7 silent clamping: test_unfit_input_is_refused, test_an_attack_that_leaves_its_threat_model_*
 8 model.train() afterwards: state test_flags_and_buffers_come_back, components test_no_parameter_*
 9 global RNG set at every call: state test_global_generators_*, components test_the_global_*
10 seed from the clock: test_effort_is_the_references, outcomes test_starts_depend_on_*
11 gradients left on parameters: state test_flags_and_buffers_*, components test_no_parameter_*
12 overflow in half precision: state test_precision_inside_*, test_weights_of_another_precision_*
13 FAB with l1: no l1, test_effort_of_the_standard_ensemble_* (norm)
14 FAB on bool: no forward() of FAB, components test_fab_breaks_*
15 last iterate of PGD, no restarts: no PGD here (test_robust_pgd has its own), components
   test_returns_an_adversarial_image_*, test_restarts_are_attempts_of_their_own
16 device of the first parameter: components test_a_model_without_parameters_is_attacked_in_silence
17 no sanity checks: test_unfit_models_are_refused, components test_a_gradient_of_nan_*, outcomes
   for eps 0, eps 1, monotony and saturation; test_robust_guards for the others
18 requests ~= 2.25: of the environment (envs/overrides.txt), not of the evaluation
19 no maintenance: components test_torchattacks_is_used_in_one_file_*, parity
"""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchattacks.attacks.apgd import APGD
from torchattacks.attacks.apgdt import APGDT
from torchattacks.attacks.fab import FAB
from torchattacks.attacks.square import Square

from pistole.errors import UserError
from pistole.robust import cascade, ensemble
from pistole.robust.ensemble import EnsembleSpec
from tests.unit.robust_models import (
    Seen,
    attacked,
    linear_task,
    names,
    pictures,
    trained_net,
)


class Around(nn.Module):
    """Another model with something done to its images or logits."""

    def __init__(self, model: nn.Module, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.model(self.before(x)))


def test_effort_is_the_references(monkeypatch):
    runs, (x, y) = [], pictures(2, classes=12)

    def record(self, x, y):
        runs.append({"kind": type(self).__name__, **vars(self)})
        return x, torch.ones_like(y, dtype=torch.bool), None, x

    for kind in (APGD, APGDT):
        monkeypatch.setattr(kind, "attack_single_run", record)
    ensemble.evaluate(
        trained_net(classes=12), x, y, names(2), EnsembleSpec(1e-4), seed=0, dataset="toy"
    )
    assert [run["kind"] for run in runs] == ["APGD"] + 9 * ["APGDT"]
    assert [run["target_class"] for run in runs[1:]] == list(range(2, 11))
    assert {run["n_target_classes"] for run in runs[1:]} == {9}
    assert runs[0]["loss"] == "ce"
    expected = {"steps": 100, "n_restarts": 1, "eot_iter": 1, "thr_decr": 0.75}
    expected |= {"norm": "Linf", "eps": 1e-4}
    for run in runs:
        assert {key: run[key] for key in expected} == expected
        assert type(run["seed"]) is int


def test_effort_of_the_standard_ensemble_is_the_references(monkeypatch):
    runs, (x, y) = [], pictures(2, classes=12)

    def record(self, x, y, **options):
        runs.append({"kind": type(self).__name__, **vars(self), **options})
        return x if type(self) is FAB else (None, x)

    monkeypatch.setattr(FAB, "attack_single_run_targeted", record)
    monkeypatch.setattr(Square, "attack_single_run", record)
    model, standard = trained_net(classes=12), {"fab_t_steps": 100, "square_queries": 5000}
    attacked(model, x, y, 1e-4, steps=1, **standard)
    assert [run["kind"] for run in runs] == 9 * ["FAB"] + ["Square"]
    assert [run["target_class"] for run in runs[:-1]] == list(range(2, 11))
    fab = {"norm": "Linf", "eps": 1e-4, "steps": 100, "n_restarts": 1, "multi_targeted": True}
    fab |= {"alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "use_rand_start": False}
    fab |= {"n_target_classes": 9}
    for run in runs[:-1]:
        assert {key: run[key] for key in fab} == fab
    square = {"norm": "Linf", "eps": 1e-4, "n_queries": 5000, "n_restarts": 1, "p_init": 0.8}
    square |= {"loss": "margin", "rescale_schedule": False}
    assert {key: runs[-1][key] for key in square} == square
    assert {type(run["seed"]) for run in runs} == {int}


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (3, 2), (5, 4)])
def test_fab_and_square_need_no_more_than_two_classes(classes, targets):
    seen, (x, y) = Seen(), pictures(classes, classes=classes)
    effort = {"fab_t_steps": 2, "square_queries": 2, "steps": 1}
    attacked(trained_net(classes=classes), x, y, 1e-3, on_batch=seen, **effort)
    others = [name for name in seen.attempts() if not name.startswith("apgd")]
    assert others == [*(f"fab_t/{k + 1}" for k in range(targets)), "square/0"]


@pytest.mark.parametrize(
    ("classes", "targets", "note"),
    [
        (2, 0, "2 classes: APGD-T left out, its loss needs 4"),
        (3, 0, "3 classes: APGD-T left out, its loss needs 4"),
        (4, 3, "4 classes: APGD-T tries 3 targets instead of 9"),
        (10, 9, None),
        (12, 9, None),
    ],
)
def test_targets_follow_the_number_of_classes(classes, targets, note):
    seen, (x, y) = Seen(), pictures(classes, classes=classes)
    found = attacked(trained_net(classes=classes), x, y, 1e-3, steps=2, on_batch=seen)
    assert seen.attempts() == ["apgd_ce/0"] + [f"apgd_t/{k + 1}/0" for k in range(targets)]
    expected = () if note is None else (f"EV02: {note} (docs/errors.md#ev02)",)
    assert found.notes == expected


def test_targets_can_be_fewer_or_none():
    for targets in (0, 2):
        seen = Seen()
        found = attacked(trained_net(), *pictures(4), 1e-3, steps=2, targets=targets, on_batch=seen)
        assert len(seen.attempts()) == 1 + targets
        assert found.notes == ()


def test_restarts_are_attempts_of_their_own():
    seen = Seen()
    effort = {"apgd_ce_restarts": 2, "apgd_t_restarts": 2, "targets": 2}
    attacked(trained_net(), *pictures(4), 1e-3, steps=1, on_batch=seen, **effort)
    assert seen.attempts() == [
        *("apgd_ce/0", "apgd_ce/1"),
        *("apgd_t/1/0", "apgd_t/1/1", "apgd_t/2/0", "apgd_t/2/1"),
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": 2}, "eps is 2: give pixel units"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"targets": -1}, "targets is -1: give 0"),
        ({"apgd_ce_steps": 0}, "apgd_ce_steps is 0"),
        ({"apgd_ce_restarts": 0}, "apgd_ce_restarts is 0"),
        ({"apgd_t_steps": 0}, "apgd_t_steps is 0"),
        ({"apgd_t_restarts": 0}, "apgd_t_restarts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"fab_t_steps": -1}, "fab_t_steps is -1: give 0"),
        ({"square_queries": -1}, "square_queries is -1: give 0"),
        ({"radii": (0.2, 1.5)}, "eps is 1.5"),
        ({"radii": (0.2, 0.1)}, "give each radius once"),
        ({"radii": (0.2, 0.2)}, "give each radius once"),
    ],
)
def test_spec_is_checked(changed, message):
    with pytest.raises(UserError, match=message):
        EnsembleSpec(**{"eps": 0.1} | changed)


def test_spec_describes_what_the_outcome_depends_on():
    one = EnsembleSpec(2 / 255, batch_size=3).describe()
    assert json.loads(json.dumps(one)) == {
        "norm": "linf",
        "eps": 2 / 255,
        "apgd_ce": {"steps": 100, "restarts": 1},
        "radii": [2 / 255],
        "apgd_t": {"steps": 100, "restarts": 1, "targets": 9},
        "fab_t": {"steps": 0},
        "square": {"queries": 0},
    }
    assert EnsembleSpec(2 / 255, radii=(1 / 255,)).describe()["radii"] == [1 / 255, 2 / 255]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x * 255, y), "pixels span"),
        (lambda x, y: (x.half(), y), "float16"),
        (lambda x, y: (x, y + 1), "labels span 1 to 5: the model has classes 0 to 4"),
        (lambda x, y: (x, y - 1), "labels span -1 to 3"),
        (lambda x, y: (x, y.int()), "labels are torch.int32"),
        (lambda x, y: (x, y[:, None]), r"labels are torch.int64 \(10, 1\): give int64 .* \[n\]"),
        (lambda x, y: (x, y[:9]), "10 images, 9 labels, 10 ids"),
        (lambda x, y: (x[:9], y), "9 images, 10 labels, 9 ids"),
    ],
)
@pytest.mark.parametrize("eps", [0, 0.06])
def test_unfit_input_is_refused(change, message, eps):
    with pytest.raises(UserError, match=message):
        attacked(trained_net(), *change(*pictures(10)), eps)


def test_each_image_needs_an_id():
    with pytest.raises(UserError, match="10 images, 10 labels, 3 ids"):
        attacked(trained_net(), *pictures(10), ids=names(3))


def test_normalised_images_are_refused():
    x, y = pictures(10)
    with pytest.raises(UserError, match="normalise inside the model"):
        attacked(trained_net(), (x - 0.5) / 0.25, y)


def test_normalisation_is_the_models():
    # eps counts pixels, not what the model makes of them.
    model, x, y, robust = linear_task(classes=4)
    normalising = Around(model, before=lambda x: (x - 0.5) / 0.25 + 0.5)
    assert attacked(normalising, x, y, 0.01).columns["robust_correct"] == robust.tolist()
    assert 0.2 < robust.float().mean() < 0.8


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda z: functional.softmax(z, dim=1), "probabilities: give logits"),
        (lambda z: z + torch.rand_like(z), "two forward passes differ"),
        (lambda z: z / (z[:, :1] * 0), "NaN or infinity"),
        (lambda z: z.log(), "NaN or infinity"),
        (lambda z: z.bfloat16(), "the model returns torch.bfloat16"),
        (lambda z: z.double(), "the model returns torch.float64"),
    ],
)
def test_unfit_models_are_refused(after, message):
    with pytest.raises(UserError, match=message):
        attacked(Around(trained_net(), after=after), *pictures(10))


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half])
def test_weights_of_another_precision_are_refused(change):
    with pytest.raises(UserError, match=r"parameter conv.weight is .*: attacks run in fp32"):
        attacked(change(trained_net()), *pictures(10))


@pytest.mark.parametrize("component", ["apgd_ce", "apgd_t"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x + 0.2).clamp(max=1), "moved a pixel by 0.2"),
        (lambda x: x - 0.05, r"outside \[0, 1\]"),
        (lambda x: x * torch.nan, "NaN"),
        (lambda x: x.double(), "float64"),
        (lambda x: x[:1], r"\(1, 3, 6, 6\)"),
    ],
)
def test_an_attack_that_leaves_its_threat_model_stops_the_run(
    component, change, message, monkeypatch
):
    monkeypatch.setattr(ensemble, component, lambda model, x, y, draws, **_: change(x))
    with pytest.raises(RuntimeError, match=message):
        attacked(trained_net(), *pictures(10), 0.055)


def test_what_counts_is_the_prediction_not_the_attacks_claim(monkeypatch):
    x, y = pictures(10)
    monkeypatch.setattr(cascade, "fgsm", lambda x, gradient, eps: x)
    monkeypatch.setattr(ensemble, "apgd_ce", lambda model, x, y, draws, **_: x.roll(1, 0))
    found = attacked(trained_net(), x, y, 1.0, targets=0)
    assert found.columns["broken_by"] == ["apgd_ce"] * 10
    monkeypatch.setattr(ensemble, "apgd_ce", lambda model, x, y, draws, **_: x.roll(5, 0))
    found = attacked(trained_net(), x, y, 1.0, targets=0)
    assert found.columns["broken_by"] == [""] * 10
