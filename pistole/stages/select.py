"""Stage ``select``: lambda and options of every method, chosen on held-out training images."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from pistole.baselines.registry import METHODS
from pistole.files import atomic_directory, write_csv, write_json
from pistole.models.zeroshot import ZeroShotClassifier
from pistole.params import Params
from pistole.progress import counting
from pistole.robust.pgd import pgd_by_id
from pistole.seeds import derive
from pistole.stages.composing import Ingredients, read_ingredients
from pistole.stages.runtime import attack_budget, classifier, device_of, with_parameters
from pistole.stages.slices import Slice, read_slice
from pistole.stages.tuning import Setting, trials, tune

COLUMNS = ("method", "lambda", "options", "clean", "robust")


def run(
    params: Params,
    base: Path,
    natural: Path,
    robust: Path,
    masks: Path,
    data: Path,
    out: Path,
    prepared: Path | None = None,
) -> dict[str, float]:
    """Take the setting with the largest clean + robust accuracy on the slice ``select``.

    Test images play no part. Ties go to the smaller lambda, the more robust model, and to the
    official options. The controls of docs/method.md A.10 take the lambda of ``pistole``, so that
    only the masks differ; a method's official point has nothing to choose.

    Args:
        params: ``select``, ``methods`` and ``attack.select`` are read.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        masks: folder of stage ``masks``.
        data: the fine-tuning dataset.
        out: folder for ``lambda.json``, ``options.json`` and ``grid.csv``.
        prepared: folder of stage ``prepare``, for methods that need it.

    Returns:
        The chosen lambda per method.
    """
    device = device_of(params)
    images = read_slice(data, "select")
    model = classifier(base, images.dataset, device)
    rows: list[dict] = []
    chosen: dict[str, Setting] = {}
    for name in params.methods:
        method = METHODS[name]
        count = trials(method, params.select.grid)
        if method.matched or not count:
            continue
        ingredients = read_ingredients(params, name, base, natural, robust, masks, prepared)
        with counting(f"select {name}", count) as advance:
            score = _scorer(params, model, images, name, ingredients, rows, advance)
            chosen[name] = tune(method, params.select.grid, score)
    lambdas = {name: s.lam for name, s in chosen.items() if s.lam is not None}
    lambdas |= {name: lambdas["pistole"] for name in params.methods if METHODS[name].matched}
    options = {name: s.options for name, s in chosen.items() if s.options}
    with atomic_directory(out) as folder:
        write_json(folder / "lambda.json", lambdas)
        write_json(folder / "options.json", options)
        write_csv(folder / "grid.csv", COLUMNS, rows)
    return {f"lambda/{method}": lam for method, lam in lambdas.items()}


def _scorer(
    params: Params,
    model: ZeroShotClassifier,
    images: Slice,
    name: str,
    ingredients: Ingredients,
    rows: list[dict],
    advance: Callable[[], None],
) -> Callable[[Setting], float]:
    def score(setting: Setting) -> float:
        with_parameters(model, ingredients.compose(name, setting.lam, setting.options))
        clean, attacked = accuracies(model, images, params)
        rows.append(_row(name, setting, clean, attacked))
        advance()
        return clean + attacked

    return score


def _row(name: str, setting: Setting, clean: float, attacked: float) -> dict:
    told = json.dumps(setting.options, sort_keys=True) if setting.options else ""
    lam = "" if setting.lam is None else setting.lam
    return dict(zip(COLUMNS, (name, lam, told, clean, attacked), strict=True))


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
