"""Stage ``masks``: complementary masks of every score variant."""

from pathlib import Path

from pistole.files import atomic_directory, load_tensors, save_tensors, write_csv
from pistole.method.masks import complementary_masks, mask_statistics
from pistole.method.trajectory import VARIANTS
from pistole.params import Params
from pistole.stages.runtime import use_threads


def run(
    params: Params, natural: Path, robust: Path, tau_natural: Path, tau_robust: Path, out: Path
) -> dict[str, float]:
    """Turn scores into masks: the natural vector is masked where the robust loss is sensitive.

    Args:
        params: ``stability.gamma``, ``kappa``, ``q`` and ``cap_mode`` are read.
        natural: scores of the natural source (folder of stage ``stability``).
        robust: scores of the robust source.
        tau_natural: natural task vector, for the retention statistics.
        tau_robust: robust task vector.
        out: folder for ``VARIANT.safetensors`` and ``statistics.csv``.

    Returns:
        Mean mask and l2 retention per variant and source.
    """
    use_threads(params)
    knobs = params.stability
    taus = {"natural": load_tensors(tau_natural)[0], "robust": load_tensors(tau_robust)[0]}
    rows, metrics = [], {}
    with atomic_directory(out) as folder:
        for variant in VARIANTS:
            masks = complementary_masks(
                load_tensors(natural / f"{variant}.safetensors")[0],
                load_tensors(robust / f"{variant}.safetensors")[0],
                gamma=knobs.gamma,
                kappa=knobs.kappa,
                q=knobs.q,
                cap_mode=knobs.cap_mode,
            )
            both = dict(zip(("natural", "robust"), masks, strict=True))
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
