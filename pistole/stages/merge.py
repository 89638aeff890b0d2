"""Stage ``merge@METHOD``: one merged visual tower, with its recipe."""

from pathlib import Path

from pistole.baselines.registry import method_named
from pistole.errors import UserError
from pistole.files import atomic_directory, read_json, save_tensors, sha256_tensors, write_json
from pistole.method.vectors import vector_statistics
from pistole.params import Params
from pistole.stages.composing import read_ingredients
from pistole.stages.runtime import use_threads
from pistole.stages.towers import base_digest, base_state


def run(
    params: Params,
    method: str,
    base: Path,
    natural: Path,
    robust: Path,
    masks: Path | None,
    select: Path | None,
    out: Path,
    lam: float | None = None,
    prepared: Path | None = None,
) -> dict[str, float]:
    """Merge with the lambda of params.yaml, of stage ``select``, or the one given.

    Args:
        params: ``merge`` and ``stability.variant`` are read.
        method: a name of the merging methods.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        masks: folder of stage ``masks``, for methods that need it.
        select: folder of stage ``select``, for ``merge.lambda: selected``.
        out: folder for ``visual.safetensors`` and ``recipe.json``.
        lam: overrides ``merge.lambda``.
        prepared: folder with a folder per preparation, for methods that need one.

    Returns:
        Lambda, if the method has one, and the statistics of the two vectors.
    """
    use_threads(params)
    ingredients = read_ingredients(params, method, base, natural, robust, masks, prepared)
    chosen = lam
    if lam is None and method_named(method).has_axis:
        chosen = chosen_lambda(params, method, select)
    options = chosen_options(method, select)
    theta = ingredients.compose(method, chosen, options)
    statistics = vector_statistics(ingredients.tau_nat, ingredients.tau_rob)
    recipe = {
        "method": method,
        "lambda": chosen,
        "options": options,
        "rescale": ingredients.rescale,
        "variant": ingredients.variant,
        "base_digest": base_digest(base),
        "vectors": {
            "natural": sha256_tensors(ingredients.tau_nat),
            "robust": sha256_tensors(ingredients.tau_rob),
        },
        "statistics": statistics,
    }
    # BatchNorm statistics are no parameters and have no task vector: the base's are kept.
    _, buffers = base_state(base)
    with atomic_directory(out) as folder:
        save_tensors(folder / "visual.safetensors", theta | buffers, recipe)
        write_json(folder / "recipe.json", recipe)
    return ({} if chosen is None else {"lambda": chosen}) | statistics


def chosen_lambda(params: Params, method: str, select: Path | None) -> float:
    """Return the lambda that a method is merged with.

    Args:
        params: ``merge.lambda`` is read.
        method: a name of the merging methods.
        select: folder of stage ``select``, for ``merge.lambda: selected``.

    Returns:
        A number in [0, 1].

    Raises:
        UserError: ``selected`` without a choice for this method.
    """
    if params.merge.lambda_ != "selected":
        return float(params.merge.lambda_)
    if select is None:
        raise UserError("merge.lambda is 'selected': give --select, or set a number in [0, 1]")
    chosen = read_json(select / "lambda.json")
    if method not in chosen:
        raise UserError(
            f"{select}/lambda.json has no '{method}': add it to methods and run stage select"
        )
    return float(chosen[method])


def chosen_options(method: str, select: Path | None) -> dict[str, float]:
    """Return the tuned options that a method is merged with.

    Args:
        method: a name of the merging methods.
        select: folder of stage ``select``; None for the official options.

    Returns:
        Option -> value, where it was tuned.

    Raises:
        UserError: the options of a method that has nothing else to choose were never tuned.
    """
    known = method_named(method)
    if select is None or not (known.tuned or known.searched):
        return {}
    options = read_json(select / "options.json")
    if method not in options and not known.has_axis:
        raise UserError(
            f"{select}/options.json has no '{method}': add it to methods and run stage select"
        )
    return options.get(method, {})
