"""Merging a user's own checkpoints, outside any project: from files to one file or folder."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pistole import __version__
from pistole.baselines.rule import Rule
from pistole.errors import UserError
from pistole.files import atomic_directory, sha256_file, write_json
from pistole.models.families import Model, copy_companions, is_kept, open_model
from pistole.models.layouts import VISUAL
from pistole.models.stream_writer import Slot, require_room, write_stream
from pistole.stages.pairing import (
    DTYPES,
    MERGED,
    RECIPE,
    VECTOR,
    Request,
    matching,
    require_new_place,
)
from pistole.stages.streaming import Ingredient, Plan, difference_parts, merged_parts, one_thread

SUFFIX = ".safetensors"
WEIGHTS = {  # in a folder, where each library looks for them
    "open_clip": "open_clip_model.safetensors",
    "visual": "visual.safetensors",
    "transformers": "model.safetensors",
}


def merge(method: str, rule: Rule, request: Request) -> dict[str, Any]:
    """Merge checkpoints into a new one.

    Args:
        method: the rule's name, for the recipe.
        rule: the method with its options.
        request: the checkpoints and the output.

    Returns:
        The recipe, as ``recipe.json`` has it.

    Raises:
        UserError: the checkpoints do not belong together, or cannot be read; nothing is written.
    """
    require_new_place(request)
    places = [*request.models, *request.vectors]
    weights = list(request.weights) or [1.0] * len(places)
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        opened = [
            stack.enter_context(open_model(place, allow_pickle=request.allow_pickle))
            for place in (request.base, *places)
        ]
        base = opened[0]
        scope = "visual" if "visual" in (base.family, request.form) else request.scope
        plan = plan_of(base, scope, request)
        ingredients = [
            Ingredient(
                model.name,
                matching(base, model, scope, displaced=number >= len(request.models)),
                weight,
                displaced=number >= len(request.models),
            )
            for number, (model, weight) in enumerate(zip(opened[1:], weights, strict=True))
        ]
        about = {
            "kind": MERGED,
            "pistole": __version__,
            "method": method,
            "options": options_of(rule),
            "weights": weights,
            "scope": scope,
            "format": request.form or base.family,
            "dtype": request.dtype or "of the base",
        }
        parts = merged_parts(rule, plan, ingredients, "merge")
        return _write(request.out, base, opened, request, plan, parts, about)


def subtract(request: Request) -> dict[str, Any]:
    """Write the task vector of one checkpoint (docs/method.md A.2).

    Args:
        request: base, one model, and a file to write.

    Returns:
        The recipe, as the file beside the vector has it.

    Raises:
        UserError: the checkpoints do not belong together, or cannot be read; nothing is written.
    """
    if len(request.models) != 1 or request.vectors:
        raise UserError("a task vector is of one model: give --model once")
    require_new_place(request)
    with (
        one_thread(),
        open_model(request.base, allow_pickle=request.allow_pickle) as base,
        open_model(request.models[0], allow_pickle=request.allow_pickle) as model,
    ):
        scope = "visual" if base.family == "visual" else request.scope
        tensors = matching(base, model, scope, displaced=False)
        own = {name: tensor for name, tensor in base.part(scope).items() if name in tensors}
        slots = {name: Slot(torch.float32, tensor.shape) for name, tensor in own.items()}
        plan = Plan(slots, own, base.name, {name: name for name in own})
        about = {"kind": VECTOR, "pistole": __version__, "scope": scope}
        if request.out.suffix != SUFFIX:
            raise UserError(f"--out {request.out} is no name of a file: let it end in {SUFFIX}")
        parts = difference_parts(plan, Ingredient(model.name, tensors, 1.0), "vectors")
        return _write(request.out, base, [base, model], request, plan, parts, about)


def plan_of(base: Model, scope: str, request: Request) -> Plan:
    """Tell what the merged file will hold.

    Args:
        base: the base.
        scope: ``visual`` or ``all``.
        request: of it the format and the dtype of the output are read.

    Returns:
        The plan.

    Raises:
        UserError: the base cannot be written in that format.
    """
    form = request.form or base.family
    if form != base.family and (base.family, form) != ("open_clip", "visual"):
        raise UserError(
            f"--format {form} of the base {base.name}, which is of family {base.family}: "
            + _remedy(base.family, form)
        )
    part = base.part(scope)
    prefix = VISUAL if form == "open_clip" and scope == "visual" else ""
    tensors = dict(part) if form == "visual" else dict(base.state.tensors)
    merged = {prefix + name: name for name, tensor in part.items() if not is_kept(name, tensor)}
    wanted = DTYPES.get(request.dtype or "")
    slots = {
        name: Slot(wanted if wanted and t.dtype.is_floating_point else t.dtype, t.shape)
        for name, t in tensors.items()
    }
    return Plan(slots, tensors, base.name, merged)


def _remedy(family: str, form: str) -> str:
    if "transformers" in (family, form):
        return "convert it first (transformers has a script), or leave --format out"
    return "it has no text tower, so give the whole open_clip model as --base"


def options_of(rule: Rule) -> dict[str, Any]:
    """List a rule's options.

    Args:
        rule: a method with its options.

    Returns:
        Every option by name, the defaults too.
    """
    return {f.name: getattr(rule, f.name) for f in fields(rule) if f.name != "statistics"}


def _write(
    out: Path,
    base: Model,
    opened: Sequence[Model],
    request: Request,
    plan: Plan,
    parts: Iterable[torch.Tensor],
    about: dict[str, Any],
) -> dict[str, Any]:
    if out.suffix != SUFFIX and base.folder is None:
        raise UserError(
            f"--out {out} is no name of a file, and the base {base.name} is one: let --out end in "
            f"{SUFFIX}"
        )
    require_room(out, plan.slots)
    pool = ThreadPoolExecutor(1)  # hashes the inputs while they are merged
    try:
        files = sorted({file for model in opened for file in model.state.files})
        hashes = {file: pool.submit(sha256_file, file) for file in files if request.hashed}
        if out.suffix == SUFFIX:
            digest = write_stream(out, plan.slots, parts, about)
            recipe = _recipe(about, opened, request, hashes, out.name, digest)
            write_json(out.with_suffix("." + RECIPE), recipe)
            return recipe
        with atomic_directory(out) as folder:
            weights = folder / WEIGHTS[about["format"]]
            digest = write_stream(weights, plan.slots, parts, about)
            copy_companions(base.folder, folder, but=RECIPE)
            recipe = _recipe(about, opened, request, hashes, weights.name, digest)
            write_json(folder / RECIPE, recipe)
        return recipe
    finally:
        pool.shutdown(cancel_futures=True)  # a mistake is told before all files are hashed


def _recipe(
    about: dict[str, Any],
    opened: Sequence[Model],
    request: Request,
    hashes: Mapping[Path, Future],
    name: str,
    digest: str,
) -> dict[str, Any]:
    """The metadata of the file, and what it must not hold: which files, in how many shards."""
    weights = [None, *(about.get("weights") or [None] * len(request.models))]
    kinds = ["base", *["model"] * len(request.models), *["vector"] * len(request.vectors)]
    inputs = [
        {
            "kind": kind,
            "name": model.name,
            "files": {file.name: _result(hashes.get(file)) for file in model.state.files},
        }
        | ({} if weight is None else {"weight": weight})
        for kind, model, weight in zip(kinds, opened, weights, strict=True)
    ]
    return {**about, "inputs": inputs, "output": {"file": name, "sha256": digest}}


def _result(pending: Future | None) -> str | None:
    return None if pending is None else pending.result()
