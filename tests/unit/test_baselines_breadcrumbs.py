"""Model Breadcrumbs against its definition, written out (docs/method.md C)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pistole.baselines.breadcrumbs import VARIANTS, Breadcrumbs
from pistole.errors import UserError
from tests.unit.baselines_models import (
    check_rule,
    close,
    few,
    flat,
    same,
    sources,
    unflat,
    vector_lists,
    zeros,
)
from tests.unit.method_models import random_params


def masked_row(row, gamma, keep, density=False):
    """One row of numbers; of equal magnitudes the earlier is the larger."""
    size = len(row)
    left, top = int(size * keep), int(size * gamma)
    if density:
        top = min(top, size - left)
    order = sorted(range(size), key=lambda i: (-abs(row[i]), i))
    stays = set(order[top : top + left])
    return [x if i in stays else 0.0 for i, x in enumerate(row)]


def literal(tensor, gamma, keep, variant):
    """The masked tensor in float64."""
    values = tensor.double()
    if variant == "row":
        if not values.dim():
            return values
        rows = values.reshape(-1, values.shape[-1])
        found = [masked_row(row.tolist(), gamma, keep) for row in rows]
    else:
        found = masked_row(values.flatten().tolist(), gamma, keep, variant == "density")
    return torch.tensor(found, dtype=torch.float64).reshape(values.shape)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("gamma", "keep"), [(0.2, 0.4), (0, 1), (0.5, 0.9), (0.006, 0.15)])
def test_the_masked_vectors_are_added(variant, gamma, keep):
    base, vectors = sources()
    rule = Breadcrumbs(gamma=gamma, keep=keep, variant=variant, scaling=0.3)
    masked = [{k: literal(v, gamma, keep, variant) for k, v in p.items()} for p in vectors]
    delta = 0.4 * flat(masked[0]) + 0.6 * flat(masked[1])
    assert close(rule(base, vectors, (0.4, 0.6)), unflat(flat(base) + 0.3 * delta, base))


@few
@given(vector_lists(count=3, size=20), st.floats(0, 0.99), st.floats(0.01, 1))
def test_equal_magnitudes_and_zeros_follow_the_definition(rows, gamma, keep):
    tensor = torch.stack(rows)
    for variant in VARIANTS:
        mask = Breadcrumbs(gamma=gamma, keep=keep, variant=variant).mask(tensor)
        assert torch.equal(tensor * mask, literal(tensor, gamma, keep, variant).float())


@few
@given(st.integers(1, 40), st.floats(0, 0.99), st.floats(0.01, 1))
def test_exactly_the_asked_number_stays_even_among_equal_values(size, gamma, keep):
    tensor = torch.ones(3, size)
    top, left = int(size * gamma), int(size * keep)
    rule = Breadcrumbs(gamma=gamma, keep=keep)
    assert rule.mask(tensor).sum(-1).tolist() == [min(left, size - top)] * 3
    rule = Breadcrumbs(gamma=gamma, keep=keep, variant="density")
    assert int(rule.mask(tensor).sum()) == int(3 * size * keep)


def test_the_variants_differ_on_a_matrix_and_agree_on_a_vector():
    tensor = random_params(0, a=(10, 30))["a"] * torch.arange(1, 11)[:, None]
    masks = [Breadcrumbs(gamma=0.1, keep=0.3, variant=v).mask(tensor) for v in VARIANTS]
    assert masks[0].sum(-1).tolist() == [9] * 10
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[1], masks[2])
    line = [Breadcrumbs(gamma=0.1, keep=0.3, variant=v).mask(tensor[0]) for v in VARIANTS]
    assert torch.equal(line[0], line[1])


def test_density_gives_up_outliers_before_density():
    tensor = torch.arange(10.0)
    assert Breadcrumbs(gamma=0.3, keep=0.9).mask(tensor).sum() == 7
    kept = Breadcrumbs(gamma=0.3, keep=0.9, variant="density").mask(tensor)
    assert kept.tolist() == [True] * 9 + [False]


def test_a_single_number_stays_and_a_short_row_is_lost():
    assert Breadcrumbs().mask(torch.tensor(3.0)).item() is True
    assert not Breadcrumbs().mask(torch.ones(4, 6)).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_breadcrumbs_keeps_what_holds_for_every_rule(variant):
    for count in (1, 2, 3):
        check_rule(lambda: Breadcrumbs(gamma=0.2, keep=0.4, variant=variant), count)
    base, vectors = sources()
    rule = Breadcrumbs(gamma=0.2, keep=0.4, variant=variant)
    found = rule(zeros(base), vectors, (1, 1))
    assert same(found, rule(zeros(base), vectors[::-1], (1, 1)))
    longer = [{k: 4 * x for k, x in v.items()} for v in vectors]
    assert same(rule(zeros(base), longer, (1, 1)), {k: 4 * x for k, x in found.items()})


def test_the_defaults_are_the_official_ones():
    assert Breadcrumbs() == Breadcrumbs(gamma=0.006, keep=0.15, scaling=0.2, variant="row")


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match=r"gamma is 1: give a share in \[0, 1\)"):
        Breadcrumbs(gamma=1)
    with pytest.raises(UserError, match=r"keep is 0: give a share in \(0, 1\]"):
        Breadcrumbs(keep=0)
    with pytest.raises(UserError, match="variant is 'block'"):
        Breadcrumbs(variant="block")
