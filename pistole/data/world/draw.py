"""From a scene to pixels: masks, textures, backgrounds, and the two visual domains."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pistole.data.world.words import COLOURS, Scene

SIZE = 32
CANVAS = 2 * SIZE  # drawn at twice the size, then averaged: smooth edges
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneralBol.ttf",
    "cmss10.ttf",
)
_ROWS, _COLUMNS = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)


@dataclass(frozen=True)
class Domain:
    """How pictures of a domain look.

    Attributes:
        tilt: largest rotation, degrees.
        scales: smallest and largest diameter of the object, as a fraction of the image.
        strokes: fewest and most stray strokes over the picture.
        noise: standard deviation of pixel noise, as a fraction of the range.
        contrast: smallest factor by which contrast is reduced.
    """

    tilt: float
    scales: tuple[float, float]
    strokes: tuple[int, int]
    noise: float
    contrast: float


CLEAN = Domain(tilt=15, scales=(0.55, 0.85), strokes=(0, 0), noise=0.02, contrast=0.85)
CLUTTER = Domain(tilt=40, scales=(0.5, 0.85), strokes=(0, 1), noise=0.03, contrast=0.8)


@functools.cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / name), pixels)


@functools.cache
def digit_pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits.

    Returns:
        Pictures ``[1797, 8, 8]`` in [0, 1] and their labels ``[1797]``.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target.astype(np.int64)


def _polygon(name: str) -> list[tuple[float, float]]:
    """Vertices in the unit circle, y downwards."""

    def ray(turn: float, radius: float = 1.0) -> tuple[float, float]:
        return radius * math.sin(2 * math.pi * turn), -radius * math.cos(2 * math.pi * turn)

    if name == "square":
        return [ray(k / 4 + 1 / 8) for k in range(4)]
    if name == "triangle":
        return [ray(k / 3) for k in range(3)]
    if name == "star":
        return [ray(k / 10, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
    if name == "cross":
        a, b = 0.3, 0.92
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        return corners + [(-x, -y) for x, y in corners]
    if name == "arrow":
        return [
            (0, -1),
            (0.8, -0.1),
            (0.3, -0.1),
            (0.3, 0.95),
            (-0.3, 0.95),
            (-0.3, -0.1),
            (-0.8, -0.1),
        ]
    turns = [2 * math.pi * k / 40 for k in range(40)]  # heart
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


def _shape_mask(
    name: str, diameter: float, turn: float, centre: tuple[float, float]
) -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS))
    pen, radius, (cx, cy) = ImageDraw.Draw(mask), diameter / 2, centre
    if name in ("circle", "ring"):
        pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=255)
        if name == "ring":
            hole = 0.55 * radius
            pen.ellipse((cx - hole, cy - hole, cx + hole, cy + hole), fill=0)
        return mask
    c, s = math.cos(turn), math.sin(turn)
    points = [
        (cx + radius * (c * x - s * y), cy + radius * (s * x + c * y)) for x, y in _polygon(name)
    ]
    pen.polygon(points, fill=255)
    return mask


def _glyph_mask(glyph: Image.Image, degrees: float, centre: tuple[float, float]) -> Image.Image:
    turned = glyph.rotate(degrees, resample=Image.Resampling.BILINEAR, expand=True)
    mask = Image.new("L", (CANVAS, CANVAS))
    mask.paste(turned, (round(centre[0] - turned.width / 2), round(centre[1] - turned.height / 2)))
    return mask


def _letter(name: str, diameter: float, rng: np.random.Generator) -> Image.Image:
    font = _font(str(rng.choice(FONTS)), 48)
    left, top, right, bottom = font.getbbox(name)
    glyph = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(glyph).text((2 - left, 2 - top), name, fill=255, font=font)
    ratio = diameter / max(glyph.size)
    size = (max(1, round(glyph.width * ratio)), max(1, round(glyph.height * ratio)))
    return glyph.resize(size, Image.Resampling.BILINEAR)


def _digit(index: int, diameter: float) -> Image.Image:
    ink = Image.fromarray((digit_pictures()[0][index] * 255).astype(np.uint8))
    side = round(diameter * 1.1)
    return ink.resize((side, side), Image.Resampling.BICUBIC)


def _texture(name: str, rng: np.random.Generator) -> np.ndarray:
    """Brightness factor per canvas pixel, 1 = full colour."""
    period, phase = rng.uniform(10, 14), rng.uniform(0, 14)
    turn = rng.uniform(0, math.pi)
    u = _ROWS * math.cos(turn) + _COLUMNS * math.sin(turn) + phase
    v = -_ROWS * math.sin(turn) + _COLUMNS * math.cos(turn) + phase
    if name == "plain":
        return np.ones((CANVAS, CANVAS), np.float32)
    if name == "striped":
        dark = (u % period) < period / 2
    elif name == "checked":
        dark = ((u % period) < period / 2) ^ ((v % period) < period / 2)
    elif name == "dotted":
        dark = ((u % period - period / 2) ** 2 + (v % period - period / 2) ** 2) < (
            0.3 * period
        ) ** 2
    elif name == "speckled":
        grain = rng.random((CANVAS // 4, CANVAS // 4)) < 0.4
        dark = np.kron(grain, np.ones((4, 4), bool))
    else:  # shaded: from dark to full colour across the picture
        along = (u - u.min()) / (u.max() - u.min())
        return (0.15 + 0.95 * along).clip(0, 1).astype(np.float32)
    return np.where(dark, np.float32(0.4), np.float32(1.0))


def _background(colour: str, rng: np.random.Generator) -> np.ndarray:
    base = _jitter(colour, rng)
    kind = rng.integers(3)
    if kind == 0:
        return np.broadcast_to(base, (CANVAS, CANVAS, 3)).astype(np.float32)
    if kind == 1:
        turn = rng.uniform(0, 2 * math.pi)
        along = (_ROWS * math.cos(turn) + _COLUMNS * math.sin(turn)) / CANVAS
        return base * (1 - 0.3 * np.abs(along))[..., None]
    patches = rng.uniform(0.75, 1.1, (4, 4, 1)).astype(np.float32)
    return base * np.kron(patches, np.ones((CANVAS // 4, CANVAS // 4, 1), np.float32))


def _jitter(colour: str, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(COLOURS[colour], np.float32) / 255 + rng.uniform(-0.06, 0.06, 3).astype(
        np.float32
    )


def _strokes(picture: np.ndarray, domain: Domain, rng: np.random.Generator) -> np.ndarray:
    if domain.strokes[1] == 0:
        return picture
    canvas = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(domain.strokes[0], domain.strokes[1] + 1)):
        ends = rng.uniform(0, CANVAS, 4).tolist()
        ink = tuple(
            (_jitter(str(rng.choice(list(COLOURS))), rng).clip(0, 1) * 255).astype(int).tolist()
        )
        pen.line(ends, fill=ink, width=int(rng.integers(2, 4)))
    return np.asarray(canvas, np.float32) / 255


def draw(scene: Scene, digit: int, domain: Domain, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene.

    Args:
        scene: what to draw.
        digit: index into :func:`digit_pictures`, used only if ``scene.kind`` is ``digit``.
        domain: how the picture looks.
        rng: source of every random choice of the drawing.

    Returns:
        ``uint8 [3, 32, 32]``.
    """
    diameter = CANVAS * rng.uniform(*domain.scales)
    degrees = rng.uniform(-domain.tilt, domain.tilt)
    slack = (CANVAS - diameter) / 2
    centre = tuple((CANVAS / 2 + rng.uniform(-slack, slack, 2)).tolist())
    if scene.kind == "shape":
        mask = _shape_mask(scene.name, diameter, math.radians(degrees), centre)
    else:
        ink = (
            _letter(scene.name, diameter, rng)
            if scene.kind == "letter"
            else _digit(digit, diameter)
        )
        mask = _glyph_mask(ink, degrees, centre)
    cover = np.asarray(mask, np.float32)[..., None] / 255
    object_ = _jitter(scene.colour, rng) * _texture(scene.texture, rng)[..., None]
    picture = _background(scene.background, rng) * (1 - cover) + object_ * cover
    picture = _strokes(picture, domain, rng)
    small = picture.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    contrast = rng.uniform(domain.contrast, 1)
    small = 0.5 + contrast * (small - 0.5) + rng.normal(0, domain.noise, small.shape)
    return (small.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1)
