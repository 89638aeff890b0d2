"""What the evaluation ensemble is: threat model, effort, and how it is recorded."""

from dataclasses import dataclass

from pistole.errors import UserError

DLR_CLASSES = 4  # the targeted DLR loss divides by z1 - (z3 + z4) / 2
COUNTS = (
    "apgd_ce_steps",
    "apgd_ce_restarts",
    "apgd_t_steps",
    "apgd_t_restarts",
    "batch_size",
)


def radius_name(eps: float) -> str:
    """Write a radius as papers do.

    Args:
        eps: radius, pixel range.

    Returns:
        Such as ``4/255``; the bare number if it is no whole multiple of 1/255.
    """
    levels = 255 * eps
    if abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:g}"


@dataclass(frozen=True)
class EnsembleSpec:
    """The threat model and the effort of the evaluation, l-infinity only (docs/method.md D.2).

    The default is the first two attacks of the reference AutoAttack; ``standard``, all four of
    them, has ``fab_t_steps=100`` and ``square_queries=5000`` too.

    Attributes:
        eps: radius of the ball that the headline is about, pixel range.
        radii: further radii that are reported.
        apgd_ce_steps: iterations of APGD-CE.
        apgd_ce_restarts: random starts of APGD-CE; RobustVLM's evaluation had 5.
        apgd_t_steps: iterations of APGD-T per target.
        apgd_t_restarts: random starts of APGD-T per target.
        targets: target classes of APGD-T and FAB-T at most; 0 leaves both out.
        fab_t_steps: iterations of FAB-T per target; 0 leaves it out.
        square_queries: queries of Square; 0 leaves it out.
        batch_size: images per batch, for memory only.
    """

    eps: float
    radii: tuple[float, ...] = ()
    apgd_ce_steps: int = 100
    apgd_ce_restarts: int = 1
    apgd_t_steps: int = 100
    apgd_t_restarts: int = 1
    targets: int = 9
    fab_t_steps: int = 0
    square_queries: int = 0
    batch_size: int = 50

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range, or a radius is there twice.
        """
        for eps in (self.eps, *self.radii):
            if not 0 <= eps <= 1:
                raise UserError(f"eps is {eps}: give pixel units in [0, 1], such as 2/255")
        if len({self.eps, *self.radii}) <= len(self.radii):
            raise UserError(f"radii {self.radii} and eps {self.eps}: give each radius once")
        for name, remedy in (
            ("targets", "0 (no targeted attack)"),
            ("fab_t_steps", "0 (no FAB-T)"),
            ("square_queries", "0 (no Square)"),
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}: give {remedy} or more")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1")

    def targets_of(self, classes: int | None, least: int = DLR_CLASSES) -> int:
        """Say how many targets a targeted attack tries.

        Args:
            classes: of the task; None if unknown, which counts as many.
            least: classes that the attack's loss needs.

        Returns:
            0 where there are too few classes.
        """
        if classes is None:
            return self.targets
        return min(self.targets, classes - 1) if classes >= least else 0

    def describe(self) -> dict:
        """Return what the outcome depends on, as JSON-able values."""
        return {
            "norm": "linf",
            "eps": self.eps,
            "radii": sorted({self.eps, *self.radii}),
            "apgd_ce": {"steps": self.apgd_ce_steps, "restarts": self.apgd_ce_restarts},
            "apgd_t": {
                "steps": self.apgd_t_steps,
                "restarts": self.apgd_t_restarts,
                "targets": self.targets,
            },
            "fab_t": {"steps": self.fab_t_steps},
            "square": {"queries": self.square_queries},
        }
