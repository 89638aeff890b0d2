"""Contact sheet: a grid of small pictures with the names of their classes."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS = 6, 6
SIDE, LINE, GAP = 112, 14, 8  # px
PAPER, INK = "white", "black"


def contact_sheet(pictures: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Draw pictures in a grid, each above its caption.

    Args:
        pictures: images of any size with their captions; those beyond the grid are left out.

    Returns:
        The sheet, 6 by 6 pictures or as many rows as are needed.
    """
    shown = list(pictures)[: COLUMNS * ROWS]
    rows = max(1, -(-len(shown) // COLUMNS))
    across, down = SIDE + GAP, SIDE + LINE + GAP
    sheet = Image.new("RGB", (COLUMNS * across + GAP, rows * down + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 3)
    for number, (picture, caption) in enumerate(shown):
        left, top = GAP + number % COLUMNS * across, GAP + number // COLUMNS * down
        thumbnail = _thumbnail(picture)
        place = (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2)
        sheet.paste(thumbnail, place)
        text = _shorten(caption, draw, font)
        draw.text((left + SIDE / 2, top + SIDE + LINE / 2), text, INK, font, anchor="mm")
    return sheet


def _thumbnail(picture: Image.Image) -> Image.Image:
    factor = SIDE / max(picture.size)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    # Pixels of small pictures stay visible as squares.
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return picture.resize(size, how)


def _shorten(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont) -> str:
    if draw.textlength(text, font) <= SIDE:
        return text
    while text and draw.textlength(text + "...", font) > SIDE:
        text = text[:-1]
    return text + "..."
