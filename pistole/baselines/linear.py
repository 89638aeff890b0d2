"""Straight lines in parameter space (docs/method.md C.1)."""

from pistole.method.merge import require_ingredients
from pistole.method.vectors import Params, Real


def vanilla(theta_0: Params, tau_nat: Params, tau_rob: Params, *, lam: Real) -> Params:
    """theta_0 + lambda tau_nat + (1 - lambda) tau_rob (docs/method.md A.7, C.1).

    Args:
        theta_0: the base.
        tau_nat: natural task vector, same names and shapes.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the natural vector, in [0, 1].

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    return {
        name: base + (lam * tau_nat[name] + (1 - lam) * tau_rob[name])
        for name, base in theta_0.items()
    }


def wise_ft(theta_0: Params, tau_nat: Params, tau_rob: Params, *, lam: Real) -> Params:
    """theta_0 + (1 - lambda) tau_rob: the robust model drawn back to the base (docs/method.md C.1).

    Args:
        theta_0: the base, which takes the natural model's place.
        tau_nat: not used beyond its layout.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the base, in [0, 1].

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    return {name: base + (1 - lam) * tau_rob[name] for name, base in theta_0.items()}
