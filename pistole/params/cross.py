"""Values of params.yaml that contradict each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from pistole.params.methods import METHODS, POINTS, need_of

WORLD = "pistole/data/world"
OPTIONS = {  # keys of finetune.SOURCE that one objective has and another has not
    "alpha": ("pmg", "tga"),
    "beta": ("pmg", "tga"),
    "detach_clean": ("pmg",),
    "official": ("pmg", "tga"),
}


def cross_problems(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find the values that contradict each other.

    It reads plain values, not the model, so that these problems are told together with those of
    single keys; whatever is absent or of a wrong type is left to the check of that key.

    Args:
        raw: the content of params.yaml.

    Returns:
        Pairs of key and problem.
    """
    base, data, models = (_mapping(raw.get(name)) for name in ("base", "data", "models"))
    found = _base_problems(base) + _data_problems(data, raw.get("datasets"))
    found += _slice_problems(raw) + _finetune_problems(raw)
    names, chosen = raw.get("datasets"), data.get("finetune")
    if isinstance(names, list | tuple) and isinstance(chosen, str) and chosen not in names:
        listed = ", ".join(map(str, names))
        found.append(("data.finetune", f"{chosen!r} is not in datasets ({listed}): add it there"))
    methods = raw.get("methods")
    if isinstance(methods, list | tuple):
        found += _method_problems(raw, methods, models)
    curves = _mapping(raw.get("frontier")).get("methods")
    if isinstance(curves, list | tuple) and "vanilla" not in curves:
        found.append(
            (
                "frontier.methods",
                "vanilla is missing: theory check linear_frontier is about it, add it",
            )
        )
    return found


def _method_problems(
    raw: Mapping[str, Any], methods: Sequence[Any], models: Mapping[str, Any]
) -> list[tuple[str, str]]:
    found = []
    if "pistole" not in methods:
        found.append(("methods", "pistole is missing: the theory checks measure it, add it"))
    without = [name for name in models if name in METHODS and name not in methods]
    remedy = "is not in methods: add it there or drop the row"
    found += [(f"models.{name}", f"{name} {remedy}") for name in without]
    prepared = _mapping(raw.get("prepare")).get("run")
    if isinstance(prepared, list | tuple):
        readers: dict[str, list[str]] = {}
        for name in methods:
            need = need_of(name) if name in METHODS else None
            if need is not None and need not in prepared:
                readers.setdefault(need, []).append(name)
        missing = [f"{need}, for {', '.join(names)}" for need, names in readers.items()]
        if missing:
            found.append(("prepare.run", f"methods need more prepared: add {'; '.join(missing)}"))
    path = _mapping(_mapping(raw.get("theory")).get("merge_path"))
    for place, section in (
        ("frontier", _mapping(raw.get("frontier"))),
        ("theory.merge_path", path),
    ):
        listed = section.get("methods")
        for name in listed if isinstance(listed, list | tuple) else ():
            if name in METHODS and name not in (*methods, "pistole"):
                found.append((f"{place}.methods", f"{name} is not in methods: add it there"))
            if name in POINTS:
                found.append((f"{place}.methods", f"{name} has no lambda to vary: drop it"))
            if section is path and name in METHODS and need_of(name) is not None:
                found.append((f"{place}.methods", f"{name} reads a preparation: drop it"))
    return found


def _base_problems(base: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for name in ("model", "pretrained"):
        value = base.get(name)
        if base.get("kind") == "embedded" and value is not None:
            found.append((f"base.{name}", f"{value!r} with base.kind embedded: write null"))
        if base.get("kind") == "open_clip" and name in base and value is None:
            found.append((f"base.{name}", "null with base.kind open_clip: give a name or a path"))
    return found


def _data_problems(data: Mapping[str, Any], datasets: object) -> list[tuple[str, str]]:
    found = _place_problems("data", data)
    is_embedded = data.get("layout") == "embedded"
    if is_embedded and data.get("templates") == "single":
        found.append(("data.templates", "'single' with data.layout embedded: write ensemble"))
    for name, source in _mapping(data.get("sources")).items():
        place = f"data.sources.{name}"
        found += _place_problems(place, _mapping(source))
        if isinstance(datasets, list | tuple) and name not in datasets:
            found.append((place, f"{name} is not in datasets: add it there or drop the source"))
    return found


def _place_problems(place: str, data: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    layout, root, size = data.get("layout"), data.get("root"), data.get("resolution")
    is_world = isinstance(root, str) and root.rstrip("/") == WORLD
    if layout == "embedded" and isinstance(root, str) and not is_world:
        found.append((f"{place}.root", f"{root!r} with {place}.layout embedded: write {WORLD}"))
    if layout != "embedded" and is_world:
        remedy = "give the folder of the datasets"
        found.append((f"{place}.root", f"{root!r} with {place}.layout {layout}: {remedy}"))
    if layout == "embedded" and size is not None:
        found.append((f"{place}.resolution", f"{size!r} with {place}.layout embedded: write null"))
    if layout in ("folder", "torchvision") and isinstance(root, str) and "://" in root:
        found.append((f"{place}.root", f"{root!r} with {place}.layout {layout}: give a folder"))
    return found


def _slice_problems(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    slices, sources = _mapping(raw.get("slices")), _mapping(raw.get("finetune"))
    found, score, images = [], slices.get("score"), slices.get("finetune")
    if isinstance(score, int) and score % 2:
        found.append(("slices.score", f"{score} has no two halves to compare: give an even number"))
    for name, knobs in sources.items():
        size = _mapping(knobs).get("batch_size")
        trained = _mapping(knobs).get("checkpoint") is None
        if trained and isinstance(size, int) and isinstance(images, int) and size > images:
            found.append(
                (f"finetune.{name}.batch_size", f"{size} is above slices.finetune {images}")
            )
    return found


def _finetune_problems(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    attack, found = _mapping(_mapping(raw.get("attack")).get("train")), []
    for name, source in _mapping(raw.get("finetune")).items():
        knobs, place = _mapping(source), f"finetune.{name}"
        if knobs.get("checkpoint") is not None:
            continue
        objective, steps, warmup = (knobs.get(n) for n in ("objective", "steps", "warmup"))
        if isinstance(objective, str):
            found += _foreign_options(place, objective, knobs)
        if isinstance(warmup, int) and isinstance(steps, int) and warmup >= steps:
            found.append((f"{place}.warmup", f"{warmup} is not below {place}.steps {steps}"))
        batch, parts = knobs.get("batch_size"), knobs.get("accumulate")
        if isinstance(batch, int) and isinstance(parts, int) and parts > batch:
            found.append((f"{place}.accumulate", f"{parts} is above {place}.batch_size {batch}"))
        if objective == "fare" and attack.get("loss") == "ce":
            problem = f"'ce', but {place}.objective fare uses no labels: write l2"
            found.append(("attack.train.loss", problem))
    if attack.get("loss") == "l2" and attack.get("init") == "zero":
        problem = "'zero' with loss l2, which has no gradient there: write uniform_eps"
        found.append(("attack.train.init", problem))
    return found


def _foreign_options(place: str, objective: str, knobs: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for option in (name for name, owners in OPTIONS.items() if objective not in owners):
        value = knobs.get(option)
        if value is not None and value is not False:
            nothing = "null" if option in ("alpha", "beta") else "false"
            problem = f"{value!r}, but objective {objective} has none: write {nothing}"
            found.append((f"{place}.{option}", problem))
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
