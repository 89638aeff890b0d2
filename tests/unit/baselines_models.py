"""Small task vectors and slow, literal helpers for the tests of the merging rules."""

from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from pistole.baselines.rule import Rule
from tests.unit.method_models import Params, random_params

few = settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = {"weight": (6, 5), "bias": (6,), "conv": (3, 2, 2), "scale": (1,)}


def sources(count: int = 2, seed: int = 0) -> tuple[Params, list[Params]]:
    """A base and ``count`` task vectors of different lengths."""
    base, *vectors = (random_params(seed + i, **SHAPES) for i in range(count + 1))
    return base, [{k: v * 0.1 * (i + 1) for k, v in p.items()} for i, p in enumerate(vectors)]


def flat(params: Params) -> Tensor:
    """All coordinates in float64, tensors sorted by name."""
    return torch.cat([params[name].double().flatten() for name in sorted(params)])


def unflat(vector: Tensor, like: Params) -> Params:
    """The inverse of :func:`flat`."""
    names = sorted(like)
    parts = vector.split([like[name].numel() for name in names])
    return {n: part.reshape(like[n].shape) for n, part in zip(names, parts, strict=True)}


def same(left: Params, right: Params) -> bool:
    """The same bytes under the same names."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def close(left: Params, right: Params, atol: float = 1e-6) -> bool:
    """Equal up to single precision."""
    return left.keys() == right.keys() and all(
        torch.allclose(left[k].double(), right[k].double(), rtol=1e-5, atol=atol) for k in left
    )


def zeros(like: Params) -> Params:
    """The same layout, all 0."""
    return {name: torch.zeros_like(value) for name, value in like.items()}


def streamed(rule: Rule, base: Params, vectors: list[Params], weights: tuple) -> Params:
    """Merge one tensor at a time, in another order, from walks that give fresh tensors."""

    def walk():
        for name in sorted(base):
            yield name, [v[name].clone() for v in vectors]

    survey = rule.survey(walk, weights)
    merged = {
        name: rule.tensor(name, base[name].clone(), deltas, weights, survey)
        for name, deltas in reversed(list(walk()))
    }
    return {name: merged[name] for name in base}


def check_rule(make: Callable[[], Rule], count: int = 2) -> None:
    """What holds for every rule: see the assertions."""
    base, vectors = sources(count)
    weights = (0.25, 0.75, 0.5)[:count]
    kept = [{k: v.clone() for k, v in p.items()} for p in (base, *vectors)]
    found = make()(base, vectors, weights)
    assert list(found) == list(base)
    assert all(v.dtype == torch.float32 and v.shape == base[k].shape for k, v in found.items())
    assert all(torch.isfinite(v).all() for v in found.values())
    assert all(same(p, old) for p, old in zip((base, *vectors), kept, strict=True))
    assert same(found, streamed(make(), base, vectors, weights))
    backwards = {k: base[k] for k in reversed(base)}
    assert same(found, {k: make()(backwards, vectors, weights)[k] for k in base})
    assert close(make()(base, [zeros(v) for v in vectors], weights), base)
    for dtype in (torch.bfloat16, torch.float16):
        half = [{k: v.to(dtype) for k, v in p.items()} for p in (base, *vectors)]
        full = [{k: v.float() for k, v in p.items()} for p in half]
        assert same(make()(half[0], half[1:], weights), make()(full[0], full[1:], weights))


def vector_lists(count: int = 2, size: int = 8) -> st.SearchStrategy[list[Tensor]]:
    """Vectors of one length, with many ties and zeros among their entries."""
    few_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0])
    values = few_values | st.floats(-4, 4, width=32, allow_subnormal=False)

    def of(length: int) -> st.SearchStrategy:
        rows = arrays.arrays(np.float32, (count, length), elements=values)
        return rows.map(lambda row: list(torch.from_numpy(row.copy())))

    return st.integers(1, size).flatmap(of)


def as_params(vector: Tensor) -> Params:
    """Cut a vector into a tensor of one coordinate and the rest."""
    return {"a": vector[:1], "b": vector[1:]} if len(vector) > 1 else {"a": vector}
