"""What a user asks to merge, and whether the checkpoints belong together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pistole.errors import UserError, require_choice
from pistole.models.families import FAMILIES, SCOPES, STATISTICS, Model, is_kept
from pistole.models.streams import StoredTensor, size_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RECIPE = "recipe.json"
VECTOR = "task vector"
MERGED = "merged model"


@dataclass(frozen=True)
class Request:
    """What to merge, and into what.

    Attributes:
        base: the model that all others were fine-tuned from.
        out: file (``.safetensors``) or folder to write.
        models: fine-tuned models.
        vectors: task vectors of ``pistole vectors`` or stage ``vectors``.
        weights: one per model, then one per vector; empty for 1 each.
        scope: ``visual``: the rest is the base's; or ``all``.
        form: family of the output; None: the base's.
        dtype: of the output; None: the base's, tensor by tensor.
        allow_pickle: read ``.pt`` files too (weights only).
        hashed: whether the recipe tells the sha256 of the inputs.
    """

    base: Path
    out: Path
    models: Sequence[Path] = ()
    vectors: Sequence[Path] = ()
    weights: Sequence[float] = ()
    scope: str = "visual"
    form: str | None = None
    dtype: str | None = None
    allow_pickle: bool = False
    hashed: bool = True

    def __post_init__(self) -> None:
        """Refuse what no checkpoint could satisfy."""
        require_choice("--scope", self.scope, SCOPES)
        if self.form is not None:
            require_choice("--format", self.form, FAMILIES)
        if self.dtype is not None:
            require_choice("--dtype", self.dtype, DTYPES)
        count = len(self.models) + len(self.vectors)
        if not count:
            raise UserError("nothing to merge: give --model or --vector, once for each")
        if self.weights and len(self.weights) != count:
            raise UserError(
                f"{len(self.weights)} weights for {count} models and vectors: give --weight once "
                "for each, in their order, or not at all"
            )
        if not all(math.isfinite(weight) for weight in self.weights):
            raise UserError(f"weights {list(self.weights)}: give finite numbers")


def require_new_place(request: Request) -> None:
    """Refuse an output that would replace something else than an earlier result.

    Args:
        request: of it the paths are read.

    Raises:
        UserError: the output is one of the inputs, or a folder that this package did not write.
    """
    out = request.out
    for place in (request.base, *request.models, *request.vectors):
        if place.exists() and out.resolve() in (place.resolve(), *place.resolve().parents):
            raise UserError(f"--out {out} would replace the input {place}: give another place")
    if out.is_dir() and any(out.iterdir()) and not (out / RECIPE).is_file():
        raise UserError(f"--out {out} is a folder with other things in it: give a new one")


def matching(base: Model, model: Model, scope: str, *, displaced: bool) -> dict[str, StoredTensor]:
    """Find each tensor that is merged in another model.

    Args:
        base: the base.
        model: a fine-tuned model, or a task vector.
        scope: ``visual`` or ``all``.
        displaced: whether it is a task vector.

    Returns:
        The tensors by the base's names, the kept ones left out.

    Raises:
        UserError: it is of another family or architecture, or has other BatchNorm statistics.
    """
    _check_kind(model, displaced)
    if not displaced and (base.family == "transformers") != (model.family == "transformers"):
        raise UserError(
            f"{model.name} is of family {model.family}, but the base {base.name} of family "
            f"{base.family}, with other tensors: convert one of them first (transformers has a "
            "script)"
        )
    own, found = base.part(scope), model.part(scope)
    needed = {name: tensor for name, tensor in own.items() if not is_kept(name, tensor)}
    trained = {name: tensor for name, tensor in found.items() if not is_kept(name, tensor)}
    remedy = "give models of one architecture"
    for name in sorted(needed.keys() | trained.keys()):
        if name not in trained:
            more = ", or --scope visual" if scope == "all" else ""
            raise UserError(f"{model.name}: tensor {name!r} is missing: {remedy}{more}")
        if name not in needed:
            raise UserError(f"{model.name}: tensor {name!r} is not in {base.name}: {remedy}")
        theirs, ours = trained[name].shape, needed[name].shape
        if theirs != ours:
            raise UserError(
                f"{model.name}: tensor {name!r} has shape {theirs}, not {ours}: {remedy}"
            )
    if not needed:
        raise UserError(f"{base.name} holds no tensor of numbers to merge: give a checkpoint")
    _check_statistics(base.name, own, model.name, found)
    return trained


def _check_kind(model: Model, displaced: bool) -> None:
    about = model.state.metadata
    if not displaced and (about.get("kind") == VECTOR or {"source", "base_digest"} == about.keys()):
        raise UserError(f"{model.name} is a task vector, not a model: give it with --vector")
    if displaced and "method" in about:
        raise UserError(f"{model.name} is a merged model, no task vector: give it with --model")


def _check_statistics(
    base: str, own: Mapping[str, StoredTensor], model: str, found: Mapping[str, StoredTensor]
) -> None:
    for name in sorted(own.keys() & found.keys()):
        if not name.endswith(STATISTICS):
            continue
        ours, theirs = (t.read(0, size_of(t)).float() for t in (own[name], found[name]))
        if not torch.equal(ours, theirs):
            raise UserError(
                f"{model}: buffer {name!r} differs from that of {base}, and merging would ignore "
                "it: fine-tune with frozen BatchNorm statistics"
            )
