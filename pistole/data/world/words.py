"""What the world is made of, and how it is put into words."""

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = tuple("0123456789")
TEXTURES = ("plain", "striped", "checked", "dotted", "speckled", "shaded")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (236, 220, 50),
    "green": (46, 150, 60),
    "cyan": (70, 205, 215),
    "blue": (40, 70, 205),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "white": (242, 242, 242),
    "black": (26, 26, 26),
}


@dataclass(frozen=True)
class Scene:
    """One picture in words: what is drawn, how, and on what.

    Attributes:
        kind: ``shape``, ``letter`` or ``digit``.
        name: the shape, capital letter or digit.
        colour: colour of the object.
        texture: texture of the object.
        background: colour of the background, never that of the object.
    """

    kind: str
    name: str
    colour: str
    texture: str
    background: str

    @property
    def noun(self) -> str:
        """The object as a caption names it."""
        return self.name if self.kind == "shape" else f"{self.kind} {self.name.lower()}"


NAMES = {"shape": SHAPES, "letter": LETTERS, "digit": DIGITS}
KIND_SHARES = {"shape": 0.3, "letter": 0.42, "digit": 0.28}


def draw_scene(rng: np.random.Generator, **fixed: str) -> Scene:
    """Draw a scene at random.

    Args:
        rng: source of randomness.
        **fixed: attributes of :class:`Scene` to keep.

    Returns:
        The scene; its background differs from its colour.
    """
    kind = fixed.get("kind") or str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
    name = fixed.get("name") or str(rng.choice(NAMES[kind]))
    colour = fixed.get("colour") or str(rng.choice(list(COLOURS)))
    texture = fixed.get("texture") or str(rng.choice(TEXTURES))
    others = [c for c in COLOURS if c != colour]
    return Scene(kind, name, colour, texture, str(rng.choice(others)))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene with a random choice of its attributes, as people do.

    Args:
        scene: what is to be seen.
        rng: source of randomness.

    Returns:
        A caption such as ``a photo of a striped red letter k on a blue background``.
    """
    form = rng.choice(5, p=(0.34, 0.2, 0.12, 0.1, 0.24))
    if form == 1:
        phrase = f"a {scene.noun}"
    elif form == 2:
        phrase = f"something {scene.colour}"
    elif form == 3:
        phrase = f"something {scene.texture}"
    else:
        words = [scene.noun]
        if form == 0 or rng.random() < 0.5:
            words.insert(0, scene.colour)
        if form == 0 or rng.random() < 0.5:
            words.insert(0, scene.texture)
        phrase = "a " + " ".join(words)
        if rng.random() < 0.25:
            phrase += f" on a {scene.background} background"
    return f"a photo of {phrase}" if rng.random() < 0.5 else phrase


def all_words() -> list[str]:
    """Return every word that a caption or a class name can hold, once each."""
    nouns = [*SHAPES, "letter", "digit", *(c.lower() for c in LETTERS), *DIGITS]
    frame = ["a", "photo", "of", "on", "background", "something", "picture", "the"]
    return sorted({*nouns, *TEXTURES, *COLOURS, *frame})
