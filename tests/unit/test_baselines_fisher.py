"""Fisher merging: the diagonal in closed form, and the rule against its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pistole.baselines.fisher import Fisher, draw_labels, fisher_diagonal, norm_of
from pistole.baselines.gradients import per_sample_gradients
from pistole.errors import UserError
from tests.unit.method_models import log_softmax, mlp, random_params, samples

BASE, NAT, ROB = (random_params(seed) for seed in range(3))
SOURCES = ("natural", "robust")


def statistics(*diagonals: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for source, diagonal in zip(SOURCES, diagonals, strict=False):
        found |= {f"{source}/{name}": value for name, value in diagonal.items()}
        found[f"norm/{source}"] = norm_of(diagonal)
    return found


DIAGONALS = tuple(
    {name: value.square() * 1e-3 for name, value in random_params(seed).items()} for seed in (3, 4)
)
STATISTICS = statistics(*DIAGONALS)


def softmax_linear(theta: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x @ theta["w"].T).log_softmax(-1)


def linear_model() -> tuple[dict[str, Tensor], Tensor]:
    source = torch.Generator().manual_seed(2)
    theta = {"w": torch.randn(3, 4, generator=source, dtype=torch.float64)}
    return theta, torch.randn(6, 4, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("together", [1, 4])
def test_the_exact_fisher_of_a_softmax_linear_model(together):
    """d log p_y / d w_cj = (1[y=c] - p_c) x_j, so that F_cj = mean p_c (1 - p_c) x_j^2."""
    theta, x = linear_model()
    p = softmax_linear(theta, x).exp()
    expected = ((p * (1 - p))[:, :, None] * x.square()[:, None, :]).mean(0)
    found = fisher_diagonal(softmax_linear, theta, x, labels="all", together=together)
    torch.testing.assert_close(found["w"], expected)


@pytest.mark.parametrize("together", [1, 4])
def test_the_empirical_and_the_sampled_fisher_square_single_samples(together):
    theta, x = linear_model()
    p = softmax_linear(theta, x).exp()
    truth, uniforms = torch.arange(6) % 3, torch.linspace(0, 0.99, 6)
    drawn = draw_labels(p.log(), uniforms)
    for labels, y in (("true", truth), ("sampled", drawn)):
        residual = torch.eye(3, dtype=torch.float64)[y] - p
        expected = (residual[:, :, None] * x[:, None, :]).square().mean(0)
        given = {"labels": labels, "truth": truth, "uniforms": uniforms, "together": together}
        found = fisher_diagonal(softmax_linear, theta, x, **given)
        torch.testing.assert_close(found["w"], expected)


def test_sampled_labels_tend_to_the_exact_sum():
    theta, x = linear_model()
    many, draws = x.repeat(400, 1), torch.rand(2400, generator=torch.Generator().manual_seed(0))
    exact = fisher_diagonal(softmax_linear, theta, x, labels="all")["w"]
    drawn = fisher_diagonal(softmax_linear, theta, many, uniforms=draws, together=600)["w"]
    torch.testing.assert_close(drawn, exact, rtol=0.2, atol=0.02)


def test_labels_follow_the_probabilities():
    log_probs = torch.tensor([[0.25, 0.5, 0.25]]).log().expand(5, 3)
    uniforms = torch.tensor([0.0, 0.24, 0.26, 0.74, 1 - 1e-9], dtype=torch.float64)
    assert draw_labels(log_probs, uniforms).tolist() == [0, 0, 1, 1, 2]
    certain = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(5, 3)
    assert draw_labels(certain, uniforms).tolist() == [1] * 5


@pytest.mark.parametrize("together", [2, 7, 50])
def test_vectorised_gradients_are_those_of_single_passes(together):
    x, y = samples()
    theta = mlp()

    def loss(point: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        return -log_softmax(point, sample[None])[0].gather(0, label[None])[0]

    single, several = (
        list(per_sample_gradients(loss, theta, (x, y), size)) for size in (1, together)
    )
    for name in theta:
        apart = torch.cat([part[name] for part in several])
        assert len(apart) == len(x)
        torch.testing.assert_close(apart, torch.cat([part[name] for part in single]))


@pytest.mark.parametrize("together", [1, 2])
def test_a_gradient_that_is_not_finite_is_refused(together):
    theta, x = {"w": torch.zeros(2)}, torch.ones(2, 2)

    def loss(point: dict[str, Tensor], sample: Tensor) -> Tensor:
        return (point["w"] * sample).sum().sqrt()

    with pytest.raises(UserError, match="gradient of a sample's loss on 'w' is not finite"):
        list(per_sample_gradients(loss, theta, (x,), together))


def literal(rule: Fisher, weights, vectors, diagonals) -> dict[str, Tensor]:
    """The formula, coordinate by coordinate in fp64."""
    norms = [
        math.sqrt(sum(float(f) ** 2 for d in one.values() for f in d.flatten()))
        for one in diagonals
    ]
    merged = {}
    for name, base in BASE.items():
        values = []
        for j, start in enumerate(base.flatten().tolist()):
            above = below = 0.0
            for weight, vector, diagonal, norm in zip(
                weights, vectors, diagonals, norms, strict=True
            ):
                own = weight / norm if rule.normalize else weight
                own *= max(float(diagonal[name].flatten()[j]), rule.floor)
                above, below = above + own * float(vector[name].flatten()[j]), below + own
            values.append(start + rule.scaling * above / below)
        merged[name] = torch.tensor(values).reshape(base.shape)
    return merged


@pytest.mark.parametrize("weights", [(1, 1), (0.2, 0.8), (0, 1), (3, 1)])
@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"floor": 1e-3, "scaling": 0.7}])
def test_the_rule_is_its_formula(weights, options):
    rule = Fisher(statistics=STATISTICS, **options)
    found = rule(BASE, (NAT, ROB), weights)
    expected = literal(rule, weights, (NAT, ROB), DIAGONALS)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_equal_fishers_give_the_weighted_mean_and_one_vector_the_model():
    flat = {name: torch.full_like(value, 0.3) for name, value in BASE.items()}
    rule = Fisher(statistics=statistics(flat, flat))
    for name, value in rule(BASE, (NAT, ROB), (1, 3)).items():
        torch.testing.assert_close(value, BASE[name] + 0.25 * NAT[name] + 0.75 * ROB[name])
    for name, value in Fisher(statistics=STATISTICS)(BASE, (NAT,), (1,)).items():
        torch.testing.assert_close(value, BASE[name] + NAT[name])


def test_where_nothing_is_above_the_floor_the_models_are_averaged():
    none = {name: torch.zeros_like(value) for name, value in BASE.items()}
    rule = Fisher(statistics=statistics(none, none), normalize=False)
    for name, value in rule(BASE, (NAT, ROB), (1, 1)).items():
        torch.testing.assert_close(value, BASE[name] + (NAT[name] + ROB[name]) / 2)
    with pytest.raises(UserError, match="norm/natural is 0: give normalize=False"):
        Fisher(statistics=statistics(none, none))(BASE, (NAT, ROB), (1, 1))


@given(st.floats(0, 1), st.integers(0, 99), st.floats(0.01, 100))
def test_identical_models_give_the_model_back_and_scale_does_not_matter(share, seed, factor):
    own = random_params(seed)
    weights = (share, 1 - share)
    for name, value in Fisher(statistics=STATISTICS)(BASE, (own, own), weights).items():
        torch.testing.assert_close(value, BASE[name] + own[name])
    larger = {name: factor * value for name, value in DIAGONALS[1].items()}
    rules = [
        Fisher(statistics=statistics(DIAGONALS[0], other), floor=1e-30)
        for other in (DIAGONALS[1], larger)
    ]
    first, second = (rule(BASE, (NAT, own), weights) for rule in rules)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_merged_is_refused():
    rest = {key: value for key, value in STATISTICS.items() if key != "natural/bias"}
    with pytest.raises(UserError, match="lack 'natural/bias': run 'pistole prepare fisher'"):
        Fisher(statistics=rest)(BASE, (NAT, ROB), (1, 1))
    with pytest.raises(UserError, match="lack 'norm/vector 3'"):
        Fisher(statistics=STATISTICS)(BASE, (NAT, ROB, NAT), (1, 1, 1))
    for weights in ((0, 0), (-1, 2)):
        with pytest.raises(UserError, match=f"weights are {weights[0]}, {weights[1]}: a weighted"):
            Fisher(statistics=STATISTICS)(BASE, (NAT, ROB), weights)
    for floor in (0, -1, math.nan):
        with pytest.raises(UserError, match="fisher floor is"):
            Fisher(floor=floor)
    theta, x = linear_model()
    with pytest.raises(UserError, match="fisher labels is 'drawn': choose one of sampled"):
        fisher_diagonal(softmax_linear, theta, x, labels="drawn")
    with pytest.raises(UserError, match="'sampled' without uniforms"):
        fisher_diagonal(softmax_linear, theta, x)
    with pytest.raises(UserError, match="'true' without truth"):
        fisher_diagonal(softmax_linear, theta, x, labels="true")
