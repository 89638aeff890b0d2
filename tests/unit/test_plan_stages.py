"""Formulas whose stages are too dear to run in every variant."""

from typing import get_args

import pytest
from params_text import TEXT
from ruamel.yaml import YAML

from pistole.params import Params
from pistole.params.fields import Objective
from pistole.plan.stages import PASSES, finetune, stability
from pistole.plan.theory import of_interference, of_merge_path
from pistole.plan.work import FORWARD, GRAPH, IMAGE, PRODUCT, WEIGHT, by_kind
from pistole.stages.theory import interference


@pytest.fixture
def params() -> Params:
    return Params.model_validate(YAML(typ="safe", pure=True).load(TEXT))


def changed(params: Params, section: str, **values: object) -> Params:
    part = getattr(params, section).model_copy(update=values)
    return params.model_copy(update={section: part})


def test_every_objective_has_its_passes():
    assert set(PASSES) >= set(get_args(Objective))


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        ("erm", {WEIGHT: 40}),
        ("tecoa", {WEIGHT: 40, IMAGE: 120}),
        # Adversarial and clean images through the learner, adversarial ones through the frozen.
        ("pmg", {WEIGHT: 80, FORWARD: 40, IMAGE: 120}),
        ("fare", {WEIGHT: 40, FORWARD: 40, IMAGE: 120}),
        ("tga", {WEIGHT: 80, FORWARD: 41, IMAGE: 120}),  # and one image to see the tokens' shape
    ],
)
def test_training_passes(params: Params, objective: str, passes: dict[str, int]):
    robust = params.finetune.robust.model_copy(update={"objective": objective})
    params = changed(params, "finetune", robust=robust)  # 5 steps of 8 images, 3 of the attack
    assert by_kind(finetune(params, "robust")) == passes


def test_a_checkpoint_costs_no_training(params: Params):
    robust = params.finetune.robust.model_copy(update={"checkpoint": "own.safetensors"})
    assert by_kind(finetune(changed(params, "finetune", robust=robust), "robust")) == {}


def test_adversarial_images_may_be_made_once_for_the_whole_trajectory(params: Params):
    again, once = (
        by_kind(stability(changed(params, "stability", regen_adv=regen), "robust"))
        for regen in (True, False)
    )
    assert again[IMAGE] == params.stability.K * once[IMAGE]
    assert (again[FORWARD], again[WEIGHT]) == (once[FORWARD], once[WEIGHT])


def test_a_large_tower_sweeps_the_images_once_per_resample(params: Params):
    fits = interference.HELD // 4 // 10  # ten of its gradients are held at once
    knobs = params.theory.interference.model_copy(update={"resamples": 40})
    params = changed(params, "theory", interference=knobs)
    small, large = (by_kind(of_interference(params, size)) for size in (fits, 300_000_000))
    points, images, both = 3, params.slices.measure, 2
    assert small[WEIGHT] == both * points * images * (1 + 4)
    assert large[WEIGHT] == both * points * images * (1 + 40)


def test_lanczos_makes_its_graph_again_where_it_takes_several_batches(params: Params):
    one, many = (
        by_kind(of_merge_path(changed(params, "stability", batch_size=size))) for size in (8, 3)
    )
    knobs = params.theory.merge_path
    images = min(knobs.samples, params.slices.measure)
    points = 2 * len(knobs.methods) * len(knobs.lambdas)
    assert one[GRAPH] == points * 2 * images
    assert many[GRAPH] == points * (1 + knobs.iterations) * images
    assert one[PRODUCT] == many[PRODUCT] == points * images * (knobs.probes + knobs.iterations)
