"""Names of the merging methods, and what each needs to have been prepared on held-out images.

:mod:`pistole.baselines.registry` says what they do; a test compares the two.
"""

OWN = (
    "wise_ft",
    "vanilla",
    "gism",
    "gism_pci",
    "gism_apt",
    "pistole",
    "wise_ft_matched",
    "uniform_shrink",
    "permuted_mask_1",
    "permuted_mask_2",
    "permuted_mask_3",
    "self_mask",
    "magnitude_mask",
    "random_score",
    "zero_nat",
)
DATA_FREE = (
    "task_arithmetic",
    "ties",
    "dare",
    "dare_ties",
    "breadcrumbs",
    "pcb",
    "consensus",
    "slerp",
)
FROM_IMAGES = (  # each reads the preparation of its own name
    "fisher",
    "regmean",
    "led",
    "obm",
    "ada_task",
    "ada_layer",
    "ada_task_mix",
    "ada_layer_mix",
    "atlas",
    "concrete",
    "concrete_am",
)
CONDITIONED = ("distac_vanilla", "distac_task_arithmetic", "distac_ties", "distac_pistole")
SOUPS = ("uniform_soup", "greedy_soup", "robustness_soup")
OFFICIAL = "_official"  # the method as its authors' code runs it, nothing tuned
POINTS = (*(f"{name}{OFFICIAL}" for name in (*DATA_FREE, *FROM_IMAGES)), *SOUPS)
BASELINES = (
    *(f"{name}{end}" for name in (*DATA_FREE, *FROM_IMAGES) for end in ("", OFFICIAL)),
    *CONDITIONED,
    "pistole_scaled",
    *SOUPS,
)
METHODS = (*OWN, *BASELINES)
PREPARATIONS = (*FROM_IMAGES, "distac")


def need_of(method: str) -> str | None:
    """Return what must have been prepared for a method.

    Args:
        method: a name of :data:`METHODS`.

    Returns:
        A name of :data:`PREPARATIONS`; None for a method that reads vectors and masks alone.
    """
    name = method.removesuffix(OFFICIAL)
    if name in CONDITIONED:
        return "distac"
    return name if name in FROM_IMAGES else None
