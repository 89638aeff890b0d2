"""Gradients of single samples and inputs of layers in real towers, with images to resize."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.baselines.activations import COLUMNS, LinearInputs
from pistole.baselines.gradients import per_sample_gradients
from pistole.models.zeroshot import ZeroShotClassifier, functional_logits, parameters_of
from tests.unit.zeroshot_models import pictures, zero_shot

RESNET = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 32}


@pytest.fixture(scope="module")
def vit() -> ZeroShotClassifier:
    return zero_shot()


@pytest.fixture(scope="module")
def resnet() -> ZeroShotClassifier:
    model = zero_shot(**RESNET)
    model.image_size = RESNET["image_size"]
    return model


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_gradients_in_turn_and_together_agree(name, request):
    model, (x, y) = request.getfixturevalue(name), pictures(3, side=20)  # resized inside
    theta = parameters_of(model)

    def loss(point: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_logits(model, point, image[None]), label[None])

    alone = list(per_sample_gradients(loss, theta, (x, y), 1))
    (together,) = per_sample_gradients(loss, theta, (x, y), 3)
    largest = max(float(value.abs().max()) for value in together.values())
    for key, value in together.items():
        apart = torch.cat([part[key] for part in alone])
        torch.testing.assert_close(value, apart, rtol=1e-3, atol=1e-5 * largest)


def test_an_attention_pool_has_four_linear_layers_and_its_logits_do_not_change(resnet):
    theta, (x, _), seen = parameters_of(resnet), pictures(3), {}
    with torch.no_grad():
        expected = functional_logits(resnet, theta, x)
        with LinearInputs(theta, lambda name, rows, axis: seen.update({name: (rows, axis)})):
            found = functional_logits(resnet, theta, x)
    torch.testing.assert_close(found, expected)
    pool = {f"attnpool.{part}_proj.weight" for part in "qkvc"}
    assert pool <= seen.keys()
    for name, (rows, axis) in seen.items():
        matrix = theta[name].flatten(1)
        assert (axis, rows.shape[1]) == (COLUMNS, matrix.shape[1])
        # Beside the pool there are convolutions of one pixel, whose patches are pixels.
        assert name in pool or theta[name].shape[2:] == (1, 1)
