"""What AdaMerging, aTLAS, Concrete and DisTaC learn on held-out images (docs/method.md C)."""

import dataclasses
import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from pistole.baselines.adamerging import LayerWiseAdaMerging, TaskWiseAdaMerging
from pistole.baselines.atlas import Atlas
from pistole.baselines.concrete import ConcreteAdaMerging, ConcreteTaskArithmetic
from pistole.baselines.distac import norm_of
from pistole.baselines.learning import Descent, mean_entropy
from pistole.baselines.registry import compose
from pistole.errors import UserError
from pistole.models.zeroshot import functional_logits, parameters_of
from pistole.robust.pgd import Budget
from pistole.stages.preparing import adamerging, atlas, concrete, distac
from pistole.stages.preparing.images import Batches, entropy_loss, judged
from pistole.stages.preparing.job import Job
from pistole.stages.slices import Slice
from tests.unit.zeroshot_models import moved, pictures, zero_shot

BUDGET = Budget(8 / 255, 4 / 255, 2, "uniform_eps")
FAST = Descent(steps=3, lr=0.05)


@functools.cache
def _models() -> tuple:
    """A classifier, its parameters, and those of two classifiers displaced from it."""
    displaced = (moved(zero_shot(), by, seed) for by, seed in ((0.04, 3), (0.02, 4)))
    model = zero_shot()
    return model, parameters_of(model), *(parameters_of(other) for other in displaced)


def a_job(images: int = 12, batch_size: int = 5, **changes) -> Job:
    model, base, *ends = _models()
    x, y = pictures(images)
    held = Slice("world", [f"s{i}" for i in range(images)], (255 * x).byte(), y, "digest")
    theta_0 = {k: v.clone() for k, v in base.items()}
    taus = ({k: theta[k] - base[k] for k in base} for theta in ends)
    job = Job(model, held, theta_0, *taus, BUDGET, 0, batch_size, 7, None)
    return dataclasses.replace(job, **changes)


def logits_at(job: Job, theta: dict, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return functional_logits(job.model, theta, images)


PREPARED: dict[str, tuple[Callable, type]] = {
    "ada_task": (adamerging.prepare_task, TaskWiseAdaMerging),
    "ada_layer": (adamerging.prepare_layer, LayerWiseAdaMerging),
    "ada_task_mix": (adamerging.prepare_task_mix, TaskWiseAdaMerging),
    "ada_layer_mix": (adamerging.prepare_layer_mix, LayerWiseAdaMerging),
    "atlas": (atlas.prepare, Atlas),
    "concrete": (concrete.prepare, ConcreteTaskArithmetic),
    "concrete_am": (concrete.prepare_am, ConcreteAdaMerging),
}


def test_an_epoch_is_a_permutation_that_seed_and_purpose_decide():
    job = a_job(images=10)
    batches = Batches(job, "one")
    (x, y), (x2, _), (x3, _) = (batches(step) for step in range(3))
    both = torch.cat([x, x2])
    whole = job.images.pixels()
    assert sorted(map(float, both.sum((1, 2, 3)))) == sorted(map(float, whole.sum((1, 2, 3))))
    assert not torch.equal(x, x3)
    assert torch.equal(x, Batches(job, "one")(0)[0])
    assert not torch.equal(x, Batches(job, "other")(0)[0])
    assert not torch.equal(x, Batches(dataclasses.replace(job, seed=1), "one")(0)[0])
    where = [next(i for i in range(10) if torch.equal(whole[i], image)) for image in x]
    assert torch.equal(y, job.images.labels[where])


def test_fewer_images_than_a_batch_are_one_batch():
    batches = Batches(a_job(images=4, batch_size=16), "one")
    assert len(batches(0)[0]) == len(batches(7)[0]) == 4


def test_the_entropy_is_that_of_the_steps_images():
    job = a_job()
    x, _ = Batches(job, "p")(1)
    wanted = mean_entropy(logits_at(job, job.theta_0, x)).item()
    assert entropy_loss(job, "p", mixed=False)(job.theta_0, 1).item() == pytest.approx(wanted)


def test_the_mixed_entropy_is_half_adversarial_and_reads_no_label():
    job = a_job()
    batches = Batches(job, "p")
    x, _ = batches(1)
    clean = logits_at(job, job.theta_0, x)
    attacked = batches.attacked(job.theta_0, x, clean.argmax(1), 1)
    assert 0 < (attacked - x).abs().max() <= BUDGET.eps + 1e-6
    assert cross_entropy(logits_at(job, job.theta_0, attacked), clean.argmax(1)) > cross_entropy(
        clean, clean.argmax(1)
    )
    halves = (mean_entropy(clean) + mean_entropy(logits_at(job, job.theta_0, attacked))) / 2
    found = entropy_loss(job, "p", mixed=True)(job.theta_0, 1)
    assert found.item() == pytest.approx(halves.item())
    blind = dataclasses.replace(job.images, labels=(job.images.labels + 1) % 4)
    other = entropy_loss(dataclasses.replace(job, images=blind), "p", mixed=True)
    assert other(job.theta_0, 1) == found


def test_judged_numbers_do_not_depend_on_the_passes():
    job = a_job()
    numbers = judged(job, job.theta_0, "before")
    z = logits_at(job, job.theta_0, job.images.pixels())
    assert numbers["before/entropy_clean"] == pytest.approx(mean_entropy(z).item(), rel=1e-5)
    right = (z.argmax(1) == job.images.labels).float().mean().item()
    assert numbers["before/accuracy_clean"] == pytest.approx(right)
    assert numbers["before/accuracy_adversarial"] <= right
    at_once = judged(dataclasses.replace(job, pass_size=100), job.theta_0, "before")
    assert at_once == pytest.approx(numbers, rel=1e-4)
    assert set(judged(job, job.theta_0, "after", attack=False)) == {
        "after/entropy_clean", "after/accuracy_clean"
    }  # fmt: skip


@pytest.mark.parametrize("name", PREPARED)
def test_the_statistics_make_the_model_that_was_judged(name):
    prepare, rule = PREPARED[name]
    job = a_job(steps=3)
    found, numbers = prepare(job)
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())
    merged = rule(statistics=found)(job.theta_0, (job.tau_nat, job.tau_rob), (1, 1))
    again = judged(job, merged, "after", attack=False)
    assert again == pytest.approx({key: numbers[key] for key in again}, rel=1e-4)
    assert numbers["steps"] == 3
    assert all(math.isfinite(number) for number in numbers.values())
    for moment in ("before", "after"):
        for kind in ("clean", "adversarial"):
            assert numbers[f"{moment}/entropy_{kind}"] >= 0
            assert 0 <= numbers[f"{moment}/accuracy_{kind}"] <= 1


@pytest.mark.parametrize("name", [*PREPARED, "distac"])
def test_preparations_repeat_to_the_byte_and_leave_the_inputs(name):
    prepare = PREPARED[name][0] if name in PREPARED else distac.prepare
    job = a_job(images=8, steps=2)
    kept = parameters_of(job.model)
    (one, numbers), (two, same) = prepare(job), prepare(a_job(images=8, steps=2))
    assert numbers == same
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert all(torch.equal(value, kept[k]) for k, value in parameters_of(job.model).items())
    fresh = a_job()
    for ours, theirs in ((job.theta_0, fresh.theta_0), (job.tau_nat, fresh.tau_nat)):
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    other, _ = prepare(a_job(images=8, steps=2, seed=1))
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_adamerging_starts_at_its_first_coefficients():
    job = a_job(steps=0)
    found, numbers = adamerging.prepare_layer(job)
    assert all(value.item() == pytest.approx(0.3) for value in found.values())
    assert numbers["before/entropy_clean"] == numbers["after/entropy_clean"]
    assert "loss/last" not in numbers


def test_adamerging_lowers_the_entropy_that_it_was_asked_to():
    job = a_job()
    found, numbers = adamerging.prepare_layer(job, descent=Descent(12, 0.05))
    assert numbers["after/entropy_clean"] < numbers["before/entropy_clean"]
    assert len({value.item() for value in found.values()}) > 10
    assert all(0 <= value <= 1 for value in found.values())
    assert numbers["coefficient_min/robust"] <= numbers["coefficient_mean/robust"]
    _, free = adamerging.prepare_layer(job, descent=Descent(12, 0.5), clamp=False)
    assert free["coefficient_max/natural"] > 1 or free["coefficient_min/natural"] < 0


def test_task_wise_coefficients_are_the_same_for_every_tensor():
    found, _ = adamerging.prepare_task(a_job(), descent=FAST)
    for source in ("natural", "robust"):
        assert len({v.item() for k, v in found.items() if k.startswith(source)}) == 1
    assert found["natural/proj"] != found["robust/proj"]


def test_the_jobs_steps_come_first():
    assert adamerging.prepare_task(a_job(steps=1), descent=FAST)[1]["steps"] == 1
    assert adamerging.prepare_task(a_job(), descent=FAST)[1]["steps"] == 3


def test_atlas_takes_ten_epochs_from_zero_and_reads_labels():
    job = a_job(images=6)
    found, numbers = atlas.prepare(job)
    assert numbers["steps"] == 20
    at_base = judged(job, job.theta_0, "before")
    assert at_base == pytest.approx({k: numbers[k] for k in at_base})
    assert all(0 < abs(value.item()) <= 0.021 for value in found.values())
    x, y = Batches(job, "atlas")(0)
    attacked = Batches(job, "atlas").attacked(job.theta_0, x, y, 0)
    both = [cross_entropy(logits_at(job, job.theta_0, z), y) for z in (x, attacked)]
    assert numbers["loss/first"] == pytest.approx(sum(both).item() / 2)
    blind = dataclasses.replace(job.images, labels=(job.images.labels + 1) % 4)
    other, _ = atlas.prepare(dataclasses.replace(job, images=blind), descent=FAST)
    same, _ = atlas.prepare(job, descent=FAST)
    assert not all(torch.equal(same[k], other[k]) for k in same)


def test_atlas_with_parts_is_merged_by_the_same_parts():
    job = a_job()
    found, numbers = atlas.prepare(job, descent=FAST, parts=3)
    assert all(value.shape == (3,) for value in found.values())
    merged = Atlas(statistics=found)(job.theta_0, (job.tau_nat, job.tau_rob), (1, 1))
    again = judged(job, merged, "after", attack=False)
    assert again == pytest.approx({key: numbers[key] for key in again}, rel=1e-4)


def test_concrete_masks_have_mean_one_and_the_vectors_shapes():
    job = a_job(steps=2)
    found, numbers = concrete.prepare(job)
    assert set(found) == {f"mask/{name}" for name in job.theta_0}
    for name, base in job.theta_0.items():
        assert found[f"mask/{name}"].shape == base.shape
        assert found[f"mask/{name}"].mean().item() == pytest.approx(1, rel=1e-4)
    assert 0.3 < numbers["mask/below_mean"] < 0.7
    hard, _ = concrete.prepare(job, kind="hard", mixed=True)
    assert len(hard["mask/proj"].unique()) == 2


def test_concrete_adamerging_halves_its_steps():
    job = a_job(steps=5)
    found, numbers = concrete.prepare_am(job)
    assert numbers["steps"] == 5
    moved_by = {abs(value.item() - 0.3) for key, value in found.items() if "mask" not in key}
    assert 0 < max(moved_by) <= 2 * 1e-3 + 1e-6  # two steps of Adam with rate 1e-3


def test_distac_without_steps_shrinks_the_longer_vector():
    job = a_job(steps=0)
    found, numbers = distac.prepare(job)
    kappa = norm_of(job.tau_rob) / norm_of(job.tau_nat)
    assert kappa < 0.6
    assert numbers["natural/kappa"] == kappa
    assert numbers["robust/kappa"] == 1
    for name in job.theta_0:
        assert torch.equal(found[f"natural/{name}"], kappa * job.tau_nat[name])
        assert torch.equal(found[f"robust/{name}"], job.tau_rob[name])
    assert numbers["natural/norm_after"] == pytest.approx(numbers["robust/norm_after"], rel=1e-5)
    as_it_was, _ = distac.prepare(job, match_norms=False)
    assert torch.equal(as_it_was["natural/proj"], job.tau_nat["proj"])


def test_distac_teaches_what_the_scaled_model_lost():
    job = a_job()
    options = {"descent": Descent(15, 1e-3, clip=1.0), "beta": 0.0}
    found, numbers = distac.prepare(job, **options)
    assert numbers["natural/loss/last"] < numbers["natural/loss/first"]
    assert numbers["robust/loss/last"] < numbers["robust/loss/first"]
    # T = (1, 10) asks for sharper predictions than the teacher's.
    assert numbers["robust/after/entropy_clean"] < numbers["robust/before/entropy_clean"]
    merged = compose(
        "distac_vanilla", job.theta_0, job.tau_nat, job.tau_rob, lam=0, statistics=found
    )
    again = judged(job, merged, "robust/after")
    assert again == pytest.approx({key: numbers[key] for key in again}, rel=1e-4)
    assert "natural/after/entropy_adversarial" not in numbers


def test_distac_leaves_a_vector_that_is_its_own_student():
    job = a_job()
    found, numbers = distac.prepare(dataclasses.replace(job, tau_rob=job.tau_nat), descent=FAST)
    assert numbers["natural/kappa"] == numbers["robust/kappa"] == 1
    assert "natural/loss/first" not in numbers
    assert "robust/loss/first" in numbers
    assert all(torch.equal(found[f"natural/{k}"], v) for k, v in job.tau_nat.items())
    assert any(not torch.equal(found[f"robust/{k}"], v) for k, v in job.tau_nat.items())


@pytest.mark.parametrize("name", [*PREPARED, "distac"])
def test_vectors_that_are_not_finite_are_refused(name):
    prepare = PREPARED[name][0] if name in PREPARED else distac.prepare
    job = a_job(steps=1)
    job.tau_rob["proj"][0, 0] = math.nan
    with pytest.raises(UserError, match=r"diverged|not finite"):
        prepare(job)
