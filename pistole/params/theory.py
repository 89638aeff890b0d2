"""Section ``theory`` of params.yaml: the checks of the paper's theorems and claims."""

from pistole.params.fields import (
    MANY,
    CapModes,
    Epsilons,
    Gammas,
    Grid,
    Kappas,
    Methods,
    Quantiles,
    Radii,
    Section,
    key,
)


class Interference(Section):
    """The contraction check (docs/method.md A.6, E.1)."""

    kappas: Kappas = key("values of kappa", "1")
    gammas: Gammas = key("values of gamma", "1")
    qs: Quantiles = key("quantile levels of the cap", "fraction")
    cap_modes: CapModes = key("readings of the cap")
    lambdas: Grid = key("values of lambda", "1")
    resamples: int = key("bootstrap resamples of the images", "resamples", ge=2, le=10_000)


class PciTrace(Section):
    """PCI against the Hutchinson trace (docs/method.md A.5.3, E.2)."""

    samples: int = key("images", "images", ge=3, le=MANY)
    etas: Radii = key("relative radii of the perturbation", "fraction of ||theta||")
    pairs: int = key("antithetic pairs per image", "pairs", ge=1, le=4096)
    probes: int = key("Hutchinson probes", "probes", ge=1, le=4096)


class MergePath(Section):
    """Curvature of both losses along the merge path (docs/method.md E.3)."""

    methods: Methods = key("methods whose path is followed; part of methods")
    samples: int = key("images", "images", ge=1, le=MANY)
    lambdas: Grid = key("values of lambda on the path", "1")
    probes: int = key("Hutchinson probes", "probes", ge=1, le=4096)
    iterations: int = key("power iterations", "iterations", ge=1, le=10_000)
    pairs: int = key("antithetic pairs of the average-case sharpness", "pairs", ge=1, le=4096)


class Agreement(Section):
    """Agreement of the two gradients over the attack radius (docs/method.md E.4)."""

    radii: Epsilons = key("attack radii", "pixel range")


class LinearFrontier(Section):
    """How far each frontier bends from a straight line (docs/method.md E.5)."""

    resamples: int = key("bootstrap resamples of the images", "resamples", ge=2, le=1_000_000)


class ConflictMap(Section):
    """Which heads and layers the two losses pull apart (docs/method.md E.6)."""

    samples: int = key("images", "images", ge=2, le=MANY)
    repeats: int = key("disjoint parts of the images whose maps are compared", "parts", ge=2, le=64)
    top: float = key("share of heads that counts as the top", "fraction", gt=0, le=1)


class Theory(Section):
    """The checks of the paper's theorems and claims."""

    interference: Interference = key("interference contraction")
    pci_trace: PciTrace = key("PCI as a curvature estimate")
    merge_path: MergePath = key("curvature along the merge path")
    agreement: Agreement = key("gradient agreement over the attack radius")
    linear_frontier: LinearFrontier = key("the claim that vanilla frontiers are straight")
    conflict_map: ConflictMap = key("conflict of heads and layers")
