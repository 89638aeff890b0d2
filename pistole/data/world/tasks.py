"""Zero-shot tasks of the embedded world: one CLIP answers all of them by its prompts."""

import functools
from dataclasses import dataclass

import numpy as np

from pistole.data.world.draw import CLEAN, CLUTTER, Domain, digit_pictures, draw
from pistole.data.world.words import (
    COLOURS,
    DIGITS,
    LETTERS,
    NAMES,
    SHAPES,
    TEXTURES,
    Scene,
    caption,
    draw_scene,
)
from pistole.errors import UserError
from pistole.seeds import derive

TEMPLATES = ("a photo of a {c}", "a {c}")
ATTRIBUTE_TEMPLATES = ("a photo of something {c}", "something {c}")
CLEAR_TEXTURES = ("plain", "striped", "dotted", "shaded")
CLUTTER_LOOKS, NAMES_PER_LOOK = 20, 5
DIGIT_TRAIN_SHARE = 2 / 3
CAPTIONS_PER_PICTURE = 4


@dataclass(frozen=True)
class WorldTask:
    """A zero-shot task of the world.

    Attributes:
        name: the task.
        classnames: one per label.
        templates: prompts with ``{c}`` for the class name.
        domain: how its pictures look.
        fixed: per label, the attributes of the scene that the label fixes.
    """

    name: str
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    domain: Domain
    fixed: tuple[dict[str, str], ...]


@functools.cache
def digit_pool(split: str) -> dict[str, np.ndarray]:
    """Return the handwritten pictures of a split, by digit: no picture is in both splits.

    Args:
        split: ``train`` or ``test``.

    Returns:
        Digit name -> indices into :func:`digit_pictures`.
    """
    labels = digit_pictures()[1]
    order = np.random.default_rng(derive("world", "digit split")).permutation(len(labels))
    cut = round(DIGIT_TRAIN_SHARE * len(labels))
    chosen = np.sort(order[:cut] if split == "train" else order[cut:])
    return {name: chosen[labels[chosen] == int(name)] for name in DIGITS}


def _phrases() -> tuple[dict[str, str], ...]:
    """The clutter task's classes: 20 looks (colour and texture) of 5 objects each."""
    # Five objects share a look, so that a model cannot pass by colour and texture alone and forget
    # shapes; they are dealt from a shuffled deck, so that every object turns up.
    rng = np.random.default_rng(derive("world", "clutter classes"))
    looks = [(colour, texture) for colour in COLOURS for texture in TEXTURES]
    objects = [(kind, name) for kind, names in NAMES.items() for name in names]
    deck: list[tuple[str, str]] = []
    phrases = []
    for look in rng.permutation(len(looks))[:CLUTTER_LOOKS]:
        if len(deck) < NAMES_PER_LOOK:
            left = [pair for pair in objects if pair not in deck]
            deck += [left[i] for i in rng.permutation(len(left))]
        dealt, deck = deck[:NAMES_PER_LOOK], deck[NAMES_PER_LOOK:]
        colour, texture = looks[look]
        phrases += [{"kind": k, "name": n, "colour": colour, "texture": texture} for k, n in dealt]
    return tuple(phrases)


def _nouns(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return names if kind == "shape" else tuple(f"{kind} {n.lower()}" for n in names)


def _object_task(kind: str, names: tuple[str, ...]) -> WorldTask:
    fixed = tuple({"kind": kind, "name": n} for n in names)
    return WorldTask(kind, _nouns(kind, names), TEMPLATES, CLEAN, fixed)


def _attribute_task(key: str, values: tuple[str, ...], **fixed: str) -> WorldTask:
    rows = tuple({key: value, **fixed} for value in values)
    return WorldTask(key, values, ATTRIBUTE_TEMPLATES, CLEAN, rows)


@functools.cache
def tasks() -> dict[str, WorldTask]:
    """Return the tasks by name; ``clutter`` is the domain that pre-training never saw."""
    phrases = _phrases()
    names = tuple(
        f"{p['texture']} {p['colour']} {_nouns(p['kind'], (p['name'],))[0]}" for p in phrases
    )
    return {
        "shape": _object_task("shape", SHAPES),
        "letter": _object_task("letter", LETTERS),
        "digit": _object_task("digit", DIGITS),
        "colour": _attribute_task("colour", tuple(COLOURS)),
        # On shapes alone, and only what 32 pixels can tell: a stroke is too thin to show checks.
        "texture": _attribute_task("texture", CLEAR_TEXTURES, kind="shape"),
        "clutter": WorldTask("clutter", names, TEMPLATES, CLUTTER, phrases),
    }


def task(name: str) -> WorldTask:
    """Return a task by name.

    Args:
        name: one of :func:`tasks`.

    Returns:
        The task.

    Raises:
        UserError: there is no such task.
    """
    if name not in tasks():
        raise UserError(f"embedded dataset '{name}' is unknown: use one of {', '.join(tasks())}")
    return tasks()[name]


def _picture(scene: Scene, split: str, domain: Domain, rng: np.random.Generator) -> np.ndarray:
    pool = digit_pool(split).get(scene.name) if scene.kind == "digit" else None
    index = int(rng.choice(pool)) if pool is not None else 0
    return draw(scene, index, domain, rng)


def sample(name: str, split: str, number: int) -> tuple[np.ndarray, int]:
    """Draw sample ``number`` of a task's split; labels go round robin, so classes are balanced.

    Args:
        name: task.
        split: ``train`` or ``test``.
        number: 0, 1, 2, ...

    Returns:
        Picture ``uint8 [3, 32, 32]`` and label.
    """
    world = task(name)
    label = number % len(world.classnames)
    rng = np.random.default_rng(derive("world", name, split, number))
    scene = draw_scene(rng, **world.fixed[label])
    return _picture(scene, split, world.domain, rng), label


def captioned(seed: int, number: int) -> tuple[np.ndarray, list[str]]:
    """Draw picture ``number`` of the pre-training stream with several captions of it.

    Args:
        seed: seed of the stream.
        number: 0, 1, 2, ...

    Returns:
        Picture ``uint8 [3, 32, 32]`` and :data:`CAPTIONS_PER_PICTURE` captions.
    """
    rng = np.random.default_rng(derive("world", "captions", seed, number))
    scene = draw_scene(rng)
    captions = [caption(scene, rng) for _ in range(CAPTIONS_PER_PICTURE)]
    return _picture(scene, "train", CLEAN, rng), captions
