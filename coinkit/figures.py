"""Pictures of what the model sees and what it makes of it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAPTION_HEIGHT = 18  # pixels
GAP = 4


def photo_grid(photos: np.ndarray, captions: list[str], columns: int = 2) -> np.ndarray:
    """Lay photos out in rows, each with a caption above it.

    Args:
        photos: (N, H, W, 3), uint8.
        captions: N lines.
        columns: photos in a row.

    Returns:
        One picture, (height, width, 3), uint8.
    """
    count, height, width, _ = photos.shape
    rows = -(-count // columns)
    cell_width, cell_height = width + GAP, height + CAPTION_HEIGHT + GAP
    grid = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(CAPTION_HEIGHT - 6)
    for index, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        left, top = index % columns * cell_width, index // columns * cell_height
        draw.text((left + 2, top + 1), caption, "black", font)
        grid.paste(Image.fromarray(photo), (left, top + CAPTION_HEIGHT))
    return np.asarray(grid)
