"""A short training of a small net, which tests of training change."""

from torch import Tensor, nn

from pistole.robust.objectives import Objective, objective_named
from pistole.robust.optimisers import Settings
from pistole.robust.pgd import Budget
from pistole.robust.training import Batches, fit
from tests.unit.robust_models import names, pictures

BUDGET = Budget(eps=0.05, alpha=0.03, steps=2, init="uniform_eps")
SETTINGS = Settings(steps=9, batch_size=8, lr=1e-2, weight_decay=1e-2, warmup=0.25, save_every=2)


class KilledError(Exception):
    pass


def batches(step: int, rows: slice) -> tuple[list[str], Tensor, Tensor]:
    x, y = pictures(8, seed=step)
    return names(8)[rows], x[rows], y[rows]


def train(
    net: nn.Module,
    objective: str | Objective = "tecoa",
    settings: Settings = SETTINGS,
    batches: Batches = batches,
    **options,
) -> list[dict[str, float]]:
    options = {"budget": BUDGET, "seed": 4, "run_key": "k"} | options
    if isinstance(objective, str):
        objective = objective_named(objective)
    return fit(net, dict(net.named_parameters()), batches, objective, settings, **options)
