"""Both ends of a spectrum from products alone (docs/method.md E.3)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pistole.errors import UserError
from pistole.theory.curvature import hessian_operator
from pistole.theory.spectrum import extreme_eigenvalues
from tests.unit.method_models import log_prob, mlp, samples

# torch.func.hessian imports a part of torch that still calls torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

Params = dict[str, torch.Tensor]


def quadratic(eigenvalues: list[float]) -> tuple[torch.Tensor, Params]:
    """A symmetric matrix with given eigenvalues, and the tensors that it acts on."""
    source = torch.Generator().manual_seed(0)
    n = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(n, n, generator=source, dtype=torch.float64))[0]
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return matrix, {"a": torch.zeros(n - 2, dtype=torch.float64), "b": torch.zeros(2, 1).double()}


def acting(matrix: torch.Tensor):
    def product(v: Params) -> Params:
        w = matrix @ torch.cat([v["a"], v["b"].flatten()])
        return {"b": w[-2:].view(2, 1), "a": w[:-2]}

    return product


def test_all_products_give_the_exact_ends():
    matrix, like = quadratic([5.0, 3.0, 1.0, -2.0, -7.0])
    found = extreme_eigenvalues(acting(matrix), like, iterations=5, seed=0)
    assert (found.top, found.bottom) == (pytest.approx(5), pytest.approx(-7))
    assert max(found.top_residual, found.bottom_residual) < 1e-6


def test_the_top_is_found_where_the_largest_magnitude_is_negative():
    matrix, like = quadratic([40.0, *(0.1 * k for k in range(20)), -96.0])
    found = extreme_eigenvalues(acting(matrix), like, iterations=8, seed=0)
    assert found.top == pytest.approx(40, rel=1e-3)
    assert found.bottom == pytest.approx(-96, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=4, max_size=12), st.integers(1, 12))
def test_the_ends_are_never_beyond_the_true_ones_and_residuals_bound_the_error(values, iterations):
    matrix, like = quadratic(values)
    found = extreme_eigenvalues(acting(matrix), like, iterations=iterations, seed=1)
    small = 1e-5 * (1 + max(map(abs, values)))
    assert min(values) - small <= found.bottom <= found.top <= max(values) + small
    for end, residual in (
        (found.top, found.top_residual),
        (found.bottom, found.bottom_residual),
    ):
        assert min(abs(end - value) for value in values) <= residual + small


def test_one_product_gives_the_rayleigh_quotient_and_its_residual():
    matrix, like = quadratic([4.0, 2.0, 1.0, 0.5])
    seen = []

    def product(v: Params) -> Params:
        seen.append(torch.cat([v["a"], v["b"].flatten()]))
        return acting(matrix)(v)

    found = extreme_eigenvalues(product, like, iterations=1, seed=0)
    (q,) = seen
    assert q.norm().item() == pytest.approx(1)
    assert found.top == found.bottom == pytest.approx((q @ matrix @ q).item())
    assert found.top_residual == pytest.approx((matrix @ q - found.top * q).norm().item())


def test_it_stops_where_nothing_is_left():
    matrix, like = quadratic([3.0] * 6)  # every vector is an eigenvector
    calls = []

    def product(v: Params) -> Params:
        calls.append(0)
        return acting(matrix)(v)

    found = extreme_eigenvalues(product, like, iterations=6, seed=0)
    assert (found.top, found.bottom) == (pytest.approx(3), pytest.approx(3))
    assert len(calls) < 3
    zero = extreme_eigenvalues(acting(matrix * 0), like, iterations=6, seed=0)
    assert (zero.top, zero.bottom, zero.top_residual) == (0, 0, 0)


def test_a_network_s_hessian():
    theta = mlp()

    of_samples = log_prob(*samples())

    def loss(point: Params) -> torch.Tensor:
        return -of_samples(point).mean()

    blocks = torch.func.hessian(loss)(theta)
    whole = torch.cat(
        [torch.cat([blocks[a][b].reshape(theta[a].numel(), -1) for b in theta], 1) for a in theta]
    )
    exact = torch.linalg.eigvalsh(whole)
    found = extreme_eigenvalues(hessian_operator(loss, theta), theta, iterations=20, seed=0)
    assert found.top == pytest.approx(exact[-1].item(), rel=1e-6)
    assert found.bottom == pytest.approx(exact[0].item(), rel=1e-3)
    assert found.top_residual < 1e-2 * found.top


def test_the_order_of_the_tensors_does_not_matter_and_the_seed_does():
    matrix, like = quadratic([5.0, 3.0, 1.0, -2.0, -7.0, 0.0])
    found = extreme_eigenvalues(acting(matrix), like, iterations=2, seed=0)
    turned = dict(reversed(like.items()))
    assert extreme_eigenvalues(acting(matrix), turned, iterations=2, seed=0) == found
    assert extreme_eigenvalues(acting(matrix), like, iterations=2, seed=1) != found


def test_no_product_is_refused():
    matrix, like = quadratic([1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="iterations is 0"):
        extreme_eigenvalues(acting(matrix), like, iterations=0, seed=0)
