"""PCI: perturbations, the antithetic estimate and its weights (docs/method.md A.5)."""

import math

import pytest
import torch

from pistole.errors import UserError
from pistole.method.ball import group_norm
from pistole.method.criticality import (
    PciEstimate,
    antithetic_pci,
    layer_variances,
    pci_weights,
    perturbation,
)
from tests.unit.method_models import (
    exact_weighted_traces,
    log_prob,
    log_softmax,
    mlp,
    random_params,
    samples,
)

# torch.func.hessian imports parts of torch that still call torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

SETTINGS = {"eta": 0.01, "dist": "sphere", "ball": "layer", "perturb_1d": False}
KINDS = ("abs", "neg", "pos", "softplus", "rms", "one")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norm(params: dict, names: list[str]) -> float:
    return sum(params[k].double().square().sum().item() for k in names) ** 0.5


@pytest.mark.parametrize("ball", ["layer", "global"])
@pytest.mark.parametrize("dist", ["sphere", "ball", "gaussian"])
@pytest.mark.parametrize("perturb_1d", [False, True])
def test_sigma_squared_by_simulation(ball, dist, perturb_1d):
    theta = random_params(0, torch.float64)
    settings = {"dist": dist, "ball": ball, "perturb_1d": perturb_1d}
    expected = layer_variances(theta, eta=0.1, **settings)
    draws = 3000
    total, generator = dict.fromkeys(theta, 0.0), source()
    for _ in range(draws):
        delta = perturbation(theta, 0.1, generator=generator, **settings)
        for name in theta:
            total[name] += delta[name].square().mean().item() / draws
    assert total == pytest.approx(expected, rel=0.06)
    assert (expected["bias"] > 0) == perturb_1d


def test_sigma_squared_in_closed_form():
    theta = {"w": torch.full((2, 3), 2.0), "v": torch.full((1, 2), 1.0)}
    square = {"w": 24.0, "v": 2.0}
    for dist, extra in (("sphere", 0), ("gaussian", 0), ("ball", 2)):
        layer = layer_variances(theta, eta=0.5, dist=dist, ball="layer", perturb_1d=False)
        expected = {k: 0.25 * square[k] / (theta[k].numel() + extra) for k in square}
        assert layer == pytest.approx(expected)
        whole = layer_variances(theta, eta=0.5, dist=dist, ball="global", perturb_1d=False)
        assert whole == pytest.approx(dict.fromkeys(square, 0.25 * 26 / (8 + extra)))


@pytest.mark.parametrize("ball", ["layer", "global"])
def test_the_sphere_has_its_radius_and_the_ball_stays_inside(ball):
    theta = mlp()
    moved = [k for k in theta if theta[k].ndim > 1]
    for names in [[k] for k in moved] if ball == "layer" else [moved]:
        radius = 0.3 * norm(theta, names)
        inside = []
        for seed in range(20):
            settings = {"ball": ball, "perturb_1d": False, "generator": source(seed)}
            sphere = perturbation(theta, 0.3, dist="sphere", **settings)
            assert norm(sphere, names) == pytest.approx(radius)
            settings["generator"] = source(seed)
            inside.append(norm(perturbation(theta, 0.3, dist="ball", **settings), names) / radius)
        assert max(inside) <= 1
        assert min(inside) < 0.999


def test_one_dimensional_tensors_stay_unless_asked():
    delta = perturbation(mlp(), 0.1, **_drawing(perturb_1d=False))
    assert all((value == 0).all() == (value.ndim == 1) for value in delta.values())
    delta = perturbation(mlp(), 0.1, **_drawing(perturb_1d=True))
    assert all((value != 0).any() for value in delta.values())


def _drawing(**changes: object) -> dict:
    return {"dist": "sphere", "ball": "layer", "perturb_1d": True, "generator": source()} | changes


def test_draws_do_not_depend_on_the_order_of_the_tensors():
    theta = mlp()
    left = perturbation(theta, 0.1, **_drawing())
    right = perturbation(dict(reversed(theta.items())), 0.1, **_drawing())
    assert all(torch.equal(left[k], right[k]) for k in theta)


def test_a_zero_layer_is_not_perturbed():
    delta = perturbation({"w": torch.zeros(2, 2)}, 0.1, **_drawing())
    assert (delta["w"] == 0).all()


def test_antithetic_pci_against_the_exact_trace():
    """Theorem 2 on a 3-layer MLP: PCI = sum_l sigma_l^2 Tr(H_ll) / (2p) + O(r^4)."""
    theta, (x, y) = mlp(), samples()
    settings = SETTINGS | {"eta": 1e-3, "perturb_1d": True}
    found = antithetic_pci(log_prob(x, y), theta, pairs=2000, seed=0, **settings)
    traces = exact_weighted_traces(
        lambda point: log_prob(x, y)(point).exp(), theta, layer_variances(theta, **settings)
    )
    predicted = traces / 2 / log_prob(x, y)(theta).exp()
    error = (found.first_half - found.second_half).abs().mean() / 2
    assert (found.pci - predicted).abs().mean() < 3 * error
    assert (found.pci - predicted).norm() < 0.1 * predicted.norm()
    assert (predicted < 0).any()
    assert (predicted > 0).any()


def test_the_error_is_of_fourth_order_in_the_radius():
    """Same directions at two radii: PCI/eta^2 differs by O(eta^2), so a tenth gives 1/100."""
    theta, (x, y) = mlp(), samples()
    by_eta = {
        eta: antithetic_pci(
            log_prob(x, y), theta, pairs=3, seed=0, **(SETTINGS | {"eta": eta})
        ).pci / eta**2
        for eta in (1e-2, 1e-3, 1e-4)
    }  # fmt: skip
    coarse = (by_eta[1e-2] - by_eta[1e-4]).norm()
    fine = (by_eta[1e-3] - by_eta[1e-4]).norm()
    assert fine / coarse == pytest.approx(0.01, rel=0.2)


def test_pci_is_zero_sum_over_the_classes():
    theta, (x, _) = mlp(), samples()
    p = log_softmax(theta, x).exp()
    pci = torch.stack(
        [
            antithetic_pci(
                log_prob(x, torch.full((len(x),), c)), theta, pairs=3, seed=5, **SETTINGS
            ).pci
            for c in range(p.shape[1])
        ],
        dim=1,
    )
    assert (p * pci).sum(1).abs().max() < 1e-14
    assert (p * pci).abs().max() > 1e-6


def test_pairs_cancel_the_first_order():
    """A linear log-odds change moves p by first order; its pair average is of second order."""
    theta, (x, y) = mlp(), samples()
    found = antithetic_pci(log_prob(x, y), theta, pairs=4, seed=0, **(SETTINGS | {"eta": 1e-4}))
    assert (found.rms / found.pci.abs()).min() > 100


def test_rms_is_the_root_mean_square_of_all_relative_changes():
    theta, (x, y) = mlp(), samples()
    found = antithetic_pci(log_prob(x, y), theta, pairs=1, seed=0, **SETTINGS)
    changes = []

    def spy(point: dict) -> torch.Tensor:
        changes.append(log_prob(x, y)(point).exp())
        return log_prob(x, y)(point)

    again = antithetic_pci(spy, theta, pairs=1, seed=0, **SETTINGS)
    relative = [p / changes[0] - 1 for p in changes[1:]]
    assert torch.allclose(again.pci, (relative[0] + relative[1]) / 2)
    assert torch.allclose(again.rms, ((relative[0] ** 2 + relative[1] ** 2) / 2).sqrt())
    assert torch.equal(found.pci, again.pci)
    assert (found.second_half == 0).all()


@pytest.mark.parametrize("pairs", [2, 5])
def test_halves_are_disjoint_pairs_whose_mean_is_the_estimate(pairs):
    theta, (x, y) = mlp(), samples()
    found = antithetic_pci(log_prob(x, y), theta, pairs=pairs, seed=0, **SETTINGS)
    first = (pairs + 1) // 2
    mean = (first * found.first_half + (pairs - first) * found.second_half) / pairs
    assert torch.allclose(found.pci, mean)
    alone = antithetic_pci(log_prob(x, y), theta, pairs=first, seed=0, **SETTINGS)
    assert torch.allclose(found.first_half, alone.pci)
    assert not torch.allclose(found.first_half, found.second_half)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state():
    theta, (x, y) = mlp(dtype=torch.float32), samples(dtype=torch.float32)
    state = torch.get_rng_state()
    left = antithetic_pci(log_prob(x, y), theta, pairs=2, seed=1, **SETTINGS)
    right = antithetic_pci(log_prob(x, y), theta, pairs=2, seed=1, **SETTINGS)
    other = antithetic_pci(log_prob(x, y), theta, pairs=2, seed=2, **SETTINGS)
    assert torch.equal(left.pci, right.pci)
    assert not torch.equal(left.pci, other.pci)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"eta": 0}, "eta is 0"),
        ({"dist": "cube"}, "dist is 'cube'"),
        ({"ball": "box"}, "ball is 'box'"),
    ],
)
def test_bad_settings_are_refused(bad, words):
    settings = SETTINGS | {"pairs": 2, "seed": 0} | bad
    with pytest.raises(UserError, match=words):
        antithetic_pci(log_prob(*samples()), mlp(), **settings)


def test_variances_refuse_bad_settings():
    with pytest.raises(UserError, match="eta is 0"):
        layer_variances(mlp(), **(SETTINGS | {"eta": 0}))
    with pytest.raises(UserError, match="dist is 'cube'"):
        layer_variances(mlp(), **(SETTINGS | {"dist": "cube"}))


def test_bad_parameters_and_changes_are_refused():
    theta, (x, y) = mlp(), samples()
    nan = theta | {"0.bias": torch.full((6,), math.nan, dtype=torch.float64)}
    with pytest.raises(UserError, match=r"parameters: tensor '0\.bias' is not finite"):
        antithetic_pci(log_prob(x, y), nan, pairs=1, seed=0, **SETTINGS)

    def exploding(point: dict) -> torch.Tensor:
        moved = point["0.weight"] is not theta["0.weight"]
        return torch.tensor([-1.0, 1e6 if moved else -1.0], dtype=torch.float64)

    with pytest.raises(UserError, match="not finite for 1 samples: lower eta"):
        antithetic_pci(exploding, theta, pairs=1, seed=0, **SETTINGS)


def _drawn(dist: str, seed: int, **shapes) -> dict[str, torch.Tensor]:
    return perturbation(
        random_params(0, **shapes), 0.1, dist=dist, ball="layer", perturb_1d=True,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


@pytest.mark.parametrize("dist", ["sphere", "ball", "gaussian"])
def test_a_perturbation_is_a_function_of_its_generator(dist):
    assert torch.equal(_drawn(dist, 1, w=(30, 20))["w"], _drawn(dist, 1, w=(30, 20))["w"])
    assert not torch.equal(_drawn(dist, 1, w=(30, 20))["w"], _drawn(dist, 2, w=(30, 20))["w"])


def test_lengths_of_the_three_laws():
    """On the sphere exactly r; in the ball below it; a Gaussian's length scatters around r."""
    radius = 0.1 * group_norm(random_params(0, w=(3, 2)), ["w"])
    lengths = {
        dist: torch.tensor([group_norm(_drawn(dist, i, w=(3, 2)), ["w"]) for i in range(200)])
        for dist in ("sphere", "ball", "gaussian")
    }
    assert (lengths["sphere"] - radius).abs().max() < 1e-6
    assert lengths["ball"].max() <= radius
    assert lengths["ball"].mean().item() == pytest.approx(radius * 6 / 7, rel=0.03)
    assert lengths["gaussian"].max() > 1.1 * radius
    assert lengths["gaussian"].square().mean().item() == pytest.approx(radius**2, rel=0.15)


def test_a_single_coordinate_has_the_variance_of_its_ball():
    theta = {"w": torch.tensor([2.0])}
    for dist, below in (("sphere", 1), ("gaussian", 1), ("ball", 3)):
        found = layer_variances(theta, eta=0.1, dist=dist, ball="layer", perturb_1d=True)
        assert found["w"] == pytest.approx(0.2**2 / below)
        random = torch.Generator().manual_seed(0)
        how = {"dist": dist, "ball": "layer", "perturb_1d": True, "generator": random}
        draws = torch.cat([perturbation(theta, 0.1, **how)["w"] for _ in range(2000)])
        assert draws.square().mean().item() == pytest.approx(found["w"], rel=0.1)


def test_messages_list_what_there_is():
    theta = {"w": torch.ones(2, 2)}
    how = {"eta": 0.1, "dist": "sphere", "ball": "layer", "perturb_1d": True}
    for change, words in (
        ({"ball": "x"}, "choose one of layer, global$"),
        ({"dist": "x"}, "choose one of sphere, ball, gaussian$"),
        ({"eta": float("inf")}, "eta is inf"),
    ):
        with pytest.raises(UserError, match=words):
            layer_variances(theta, **(how | change))
    estimate = PciEstimate(*[torch.ones(3)] * 4)
    with pytest.raises(UserError, match=r"choose one of abs, neg, pos, softplus, rms, one$"):
        pci_weights(estimate, "x", clip_pct=95, floor=0.1)
    assert pci_weights(estimate, "abs", clip_pct=0.5, floor=0).tolist() == [1, 1, 1]
