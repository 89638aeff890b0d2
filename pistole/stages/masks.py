"""Stage ``masks``: complementary masks of every score variant."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pistole.files import atomic_directory, load_tensors, save_tensors, write_csv
from pistole.method.controls import magnitude_scores, random_scores
from pistole.method.masks import MaskSettings, complementary_masks, mask_statistics
from pistole.method.trajectory import VARIANTS
from pistole.params import SOURCES, Params
from pistole.seeds import derive
from pistole.stages.runtime import use_threads

Tensors = dict[str, Tensor]
# Scores of the controls, from a source's task vector and a seed.
CONTROLS: dict[str, Callable[[Tensors, int], Tensors]] = {
    "magnitude": lambda tau, seed: magnitude_scores(tau),
    "random": lambda tau, seed: random_scores(tau, seed=seed),
}


def run(
    params: Params, natural: Path, robust: Path, tau_natural: Path, tau_robust: Path, out: Path
) -> dict[str, float]:
    """Turn scores into masks: the natural vector is masked where the robust loss is sensitive.

    Two controls get masks from other scores with the same settings: the magnitude of the other
    source's task vector, and noise (docs/method.md A.10).

    Args:
        params: ``stability.gamma``, ``kappa``, ``q``, ``cap_mode``, ``granularity`` and ``seed``
            are read.
        natural: scores of the natural source (folder of stage ``stability``).
        robust: scores of the robust source.
        tau_natural: natural task vector, for the retention statistics.
        tau_robust: robust task vector.
        out: folder for ``VARIANT.safetensors`` and ``statistics.csv``.

    Returns:
        Mean mask and l1 and l2 retention per variant and source.
    """
    use_threads(params)
    settings = mask_settings(params)
    taus = {"natural": load_tensors(tau_natural)[0], "robust": load_tensors(tau_robust)[0]}
    folders = {"natural": natural, "robust": robust}
    rows, metrics = [], {}

    def scores_of(variant: str, source: str) -> Tensors:
        if variant in CONTROLS:
            return CONTROLS[variant](taus[source], derive(params.seed, "masks", source))
        return load_tensors(folders[source] / f"{variant}.safetensors")[0]

    with atomic_directory(out) as folder:
        for variant in (*VARIANTS, *CONTROLS):
            scores = [scores_of(variant, s) for s in SOURCES]
            both = dict(zip(SOURCES, complementary_masks(*scores, settings), strict=True))
            packed = {f"{s}/{name}": m for s, part in both.items() for name, m in part.items()}
            save_tensors(folder / f"{variant}.safetensors", packed, {"variant": variant})
            for source, part in both.items():
                table = mask_statistics(part, taus[source])
                rows += [
                    {"variant": variant, "source": source, "layer": name, **row}
                    for name, row in table.items()
                ]
                metrics |= {
                    f"{variant}/{source}/{key}": value for key, value in table["all"].items()
                }
        write_csv(folder / "statistics.csv", list(rows[0]), rows)
    return metrics


def mask_settings(params: Params, **changes: float | str) -> MaskSettings:
    """Read how scores become masks.

    Args:
        params: ``stability`` is read.
        **changes: values to put in place of those of the parameters.

    Returns:
        The settings.
    """
    names = ("gamma", "kappa", "q", "cap_mode", "granularity")
    return MaskSettings(**({name: getattr(params.stability, name) for name in names} | changes))
