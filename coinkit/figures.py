"""Pictures of what the model sees and what it makes of it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAPTION_HEIGHT = 18  # pixels
GAP = 4
OPACITY = 0.6  # of a heatmap where it is hottest; it fades with the heat


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


def overlay(photo: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lay a heatmap over its photo: red where it is hottest, and the bare photo where it is cold.

    Args:
        photo: (H, W, 3), uint8.
        heatmap: (H, W), 0 to 1.

    Returns:
        The picture, (H, W, 3), uint8.
    """
    from matplotlib import colormaps  # takes a second that predict.py can save

    opacity = OPACITY * heatmap[..., None]
    colours = 255 * colormaps["turbo"](heatmap)[..., :3]
    return np.round(opacity * colours + (1 - opacity) * photo).astype(np.uint8)
