"""Stage ``select``: lambda of every method, chosen on held-out training images."""

from pathlib import Path

import torch

from pistole.baselines.registry import METHODS
from pistole.files import atomic_directory, write_csv, write_json
from pistole.models.zeroshot import ZeroShotClassifier
from pistole.params import Params
from pistole.progress import track
from pistole.robust.pgd import pgd_by_id
from pistole.seeds import derive
from pistole.stages.composing import read_ingredients
from pistole.stages.runtime import attack_budget, classifier, device_of, with_parameters
from pistole.stages.slices import Slice, read_slice


def run(
    params: Params, base: Path, natural: Path, robust: Path, masks: Path, data: Path, out: Path
) -> dict[str, float]:
    """Take the lambda with the largest clean + robust accuracy on the slice ``select``.

    Test images play no part. Ties go to the smaller lambda, the more robust model. The controls
    of docs/method.md A.10 take the lambda of ``pistole``, so that only the masks differ.

    Args:
        params: ``select``, ``methods`` and ``attack.select`` are read.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        masks: folder of stage ``masks``.
        data: the fine-tuning dataset.
        out: folder for ``lambda.json`` and ``grid.csv``.

    Returns:
        The chosen lambda per method.
    """
    device = device_of(params)
    images = read_slice(data, "select")
    model = classifier(base, images.dataset, device)
    rows, chosen = [], {}
    for method in params.methods:
        if METHODS[method].matched:
            continue
        ingredients = read_ingredients(params, method, base, natural, robust, masks)
        for lam in track(params.select.grid, f"select {method}"):
            with_parameters(model, ingredients.compose(method, lam))
            clean, attacked = accuracies(model, images, params)
            rows.append({"method": method, "lambda": lam, "clean": clean, "robust": attacked})
        ours = [row for row in rows if row["method"] == method]
        chosen[method] = max(ours, key=lambda row: (row["clean"] + row["robust"], -row["lambda"]))[
            "lambda"
        ]
    chosen |= {name: chosen["pistole"] for name in params.methods if METHODS[name].matched}
    with atomic_directory(out) as folder:
        write_json(folder / "lambda.json", chosen)
        write_csv(folder / "grid.csv", ("method", "lambda", "clean", "robust"), rows)
    return {f"lambda/{method}": lam for method, lam in chosen.items()}


def accuracies(model: ZeroShotClassifier, images: Slice, params: Params) -> tuple[float, float]:
    """Return clean and PGD accuracy on a slice.

    Args:
        model: the classifier.
        images: the slice.
        params: ``attack.select`` and the batch size are read.

    Returns:
        Two fractions; an image that is wrong when clean counts as broken.
    """
    budget = attack_budget(params, "select")
    device = next(model.parameters()).device
    clean = attacked = 0
    for batch in torch.arange(len(images)).split(params.attack.evaluate.batch_size):
        x, y = images.pixels(batch).to(device), images.labels[batch].to(device)
        with torch.no_grad():
            right = model(x).argmax(1) == y
        clean += int(right.sum())
        ids = [images.ids[i] for i in batch[right.cpu()]]
        if not ids:
            continue
        seed = derive(params.seed, "select")
        adversarial = pgd_by_id(model, x[right], y[right], ids, budget, seed)
        with torch.no_grad():
            attacked += int((model(adversarial).argmax(1) == y[right]).sum())
    return clean / len(images), attacked / len(images)
