"""Charts and pictures for the report and TensorBoard, as arrays (height, width, 3), uint8."""

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from coinkit.cli import printable
from coinkit.metrics import calibration_bins, estimate_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_CAPTION_HEIGHT = 18  # pixels
GRID_WIDTH_IN_CAPTIONS = 26  # width of a photo grid in heights of a caption, which can be read when the grid is shrunk
GAP = 4
DPI = 150  # of charts
INK = "#1f4e79"
OPACITY = 0.6  # of a heatmap where it is 1; where it is 0, it is transparent
MAX_SIDE = 13.5  # of a confusion chart, in inches: with DPI, 2025 pixels; with 29 classes, it has nearly this size
MAX_COUNTED_CLASSES = 40  # with more, a cell of a confusion chart is too small for a number
MIN_FONT_SIZE = 5  # points, of names and numbers in a confusion chart
MAX_NAME = 24  # letters of a grade in a chart; what is longer is cut


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
    caption_height = max(MIN_CAPTION_HEIGHT, columns * width // GRID_WIDTH_IN_CAPTIONS)
    cell_width, cell_height = width + GAP, height + caption_height + GAP
    grid = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(grid)
    font_file, captions = choose_font(captions)
    font = ImageFont.truetype(font_file, 0.7 * caption_height)
    longest = max(map(font.getlength, captions), default=0)
    if longest > width:
        font = ImageFont.truetype(font_file, font.size * width / longest)
    for index, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        left, top = index % columns * cell_width, index // columns * cell_height
        draw.text((left + 2, top + caption_height / 2), caption, "black", font, anchor="lm")
        grid.paste(Image.fromarray(photo), (left, top + caption_height))
    return np.asarray(grid)


def overlay(photo: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lay a heatmap over its photo: red where it is 1, and only the photo where it is 0.

    Args:
        photo: (H, W, 3), uint8.
        heatmap: (H, W), 0 to 1.

    Returns:
        The picture, (H, W, 3), uint8.
    """
    from matplotlib import colormaps  # slow to import, and predict.py mostly does not need it

    opacity = OPACITY * heatmap[..., None]
    colours = 255 * colormaps["turbo"](heatmap)[..., :3]
    return np.round(opacity * colours + (1 - opacity) * photo).astype(np.uint8)


def confusion_chart(
    confusion: np.ndarray, classes: list[str], max_side: float = MAX_SIDE, min_font_size: float = MIN_FONT_SIZE
) -> np.ndarray:
    """Draw a confusion matrix: numbers of photos, shaded by their share of the true grade.

    Where all classes do not fit, the picture has no numbers, and names only some of the grades.

    Args:
        confusion: (classes, classes), as `coinkit.metrics.confusion_matrix` returns it.
        classes: the names of the grades, in the order of the scale.
        max_side: of the picture, in inches.
        min_font_size: of names and numbers, in points.

    Returns:
        The picture, (height, width, 3), uint8.
    """
    from matplotlib.figure import Figure  # slow to import, and predict.py mostly does not need it

    side = min(1.6 + 0.4 * len(classes), max_side)  # inches
    cell = (side - 1.6) / len(classes)
    font_size = min(10, 0.8 * 72 * cell)  # points, of which an inch has 72
    step = math.ceil(min_font_size / font_size)  # of very many classes, not all are named
    font_size = max(font_size, min_font_size)
    font_file, names = choose_font(classes)
    names = [name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in names]
    label = {"font": Path(font_file), "fontsize": font_size, "parse_math": False}

    figure = Figure((side, side), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlabel="predicted grade", ylabel="true grade")
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(0, len(classes), step), names[::step], rotation=90, **label)
    axes.set_yticks(range(0, len(classes), step), names[::step], **label)
    if len(classes) > MAX_COUNTED_CLASSES:
        figure.colorbar(image, label="share of the photos of the true grade", shrink=0.5)
    has_room = step == 1 and len(classes) <= MAX_COUNTED_CLASSES
    for row, column in np.argwhere(confusion) if has_room else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        number = str(confusion[row, column])
        axes.text(column, row, number, color=colour, fontsize=font_size, ha="center", va="center")
    return _render(figure)


def reliability_diagram(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Draw accuracy by confidence, which a well calibrated model has on the diagonal, and how many photos each bin has.

    Args:
        confidence: (N,), 0 to 1.
        correct: (N,), whether the predicted grade is the true one.

    Returns:
        The picture, (height, width, 3), uint8.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    counts, mean_confidence, accuracy = calibration_bins(confidence, correct)
    filled = np.flatnonzero(counts)
    estimates = [estimate_share(round(accuracy[bin] * counts[bin]), int(counts[bin])) for bin in filled]
    whiskers = [[share.value - share.low for share in estimates], [share.high - share.value for share in estimates]]

    figure = Figure((4, 5), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], linestyle="--", color="grey", label="perfectly calibrated")
    upper.errorbar(
        mean_confidence[filled], accuracy[filled], whiskers, fmt="o", color=INK, capsize=3, label="this model"
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    lower.bar((np.arange(len(counts)) + 0.5) / len(counts), counts, width=0.9 / len(counts), color=INK)
    lower.set(xlabel="confidence", ylabel="photos")
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return _render(figure)


def choose_font(texts: list[str]) -> tuple[str, list[str]]:
    r"""Return the font that has most of the characters of texts, and the texts with what it lacks escaped (\u4e2d).

    Others than Matplotlib's own are only looked at if it lacks a character. "Last Resort" has a box for each.
    """
    from matplotlib import font_manager

    texts = [printable(text) for text in texts]
    wanted = {ord(char) for char in "".join(texts)}
    font_file = font_manager.findfont("DejaVu Sans")
    if not wanted <= _characters(font_file):
        fonts = sorted({font.fname for font in font_manager.fontManager.ttflist if "Resort" not in font.name})
        font_file = max([font_file, *fonts], key=lambda name: len(wanted & _characters(name)))
    lacking = {code: ascii(chr(code))[1:-1] for code in wanted - _characters(font_file)}
    return font_file, [text.translate(lacking) for text in texts]


@cache
def _characters(font_file: str) -> frozenset[int]:
    """Return the Unicode numbers of the characters that a font has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(font_file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _render(figure: "Figure") -> np.ndarray:
    """Return a chart as an array (height, width, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a screen

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
