"""Coins on a page to look at: each photo large enough to judge wear, its likeliest grades, and a heatmap on demand."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from coinkit.classes import Bands
from coinkit.cli import printable, usable_cores
from coinkit.dataset import to_tensor
from coinkit.faces import Faces, first_file, open_coin
from coinkit.figures import OPACITY
from coinkit.files import atomic_write
from coinkit.heatmaps import heatmaps
from coinkit.pages import data_uri, encode_picture, write_page
from coinkit.photos import PhotoError, prefetch

MAX_COINS = 500  # on a page; their photos take about 20 MB
PICTURE_SIZE = (640, 320)  # of a coin's two faces, in pixels
PICTURE_QUALITY = 80  # of JPEG
HEATMAP_SIZE = (64, 32)  # the browser enlarges it to the photo
SHADES = 64  # of a heatmap; with so few it takes about 1 kB
TOP_K = 3
BATCH_SIZE = 2  # heatmaps at once; at the default size, each takes 0.4 GB


class ShownCoin(NamedTuple):
    """A coin to show."""

    path: Path | Faces  # what the model has graded
    probabilities: np.ndarray  # (classes,), 0 to 1
    true: str = ""  # its grade, if that is known
    kinds: tuple[str, ...] = ()  # by which the page filters
    notes: tuple[str, ...] = ()  # lines of text
    source: Path | None = None  # the full photo, if `path` is a prepared copy


def draw_coins(
    coins: list[ShownCoin],
    classes: list[str],
    bands: Bands,
    model: nn.Module,
    store: Callable[[bytes], str],
) -> Iterator[dict]:
    """Yield what templates/coins.html needs of each coin. Photos that can no longer be read are left out.

    Args:
        coins: in the order of the page.
        classes: the names of the grades.
        bands: that they are in.
        model: for the heatmaps, which show what spoke for the likeliest grade.
        store: takes a picture, a JPEG file, and returns its address on the page.
    """
    read = partial(read_pictures, size=(model.image_width, model.image_height))
    with ThreadPoolExecutor(usable_cores()) as pool:
        pictures = zip(coins, prefetch(pool, read, coins, ahead=2 * BATCH_SIZE), strict=True)
        readable = ((coin, *pair) for coin, pair in pictures if pair)
        drawn = with_heatmaps(readable, model)
        for coin, picture, heatmap in tqdm(drawn, "Drawing", len(coins), unit="coin", leave=False, disable=None):
            likeliest = coin.probabilities.argsort()[::-1][:TOP_K]
            top = [(classes[label], float(coin.probabilities[label])) for label in likeliest]
            band = bands.likeliest(coin.probabilities)
            band_note = ["Band {}: {:.0%}".format(*band)] if band else []
            full = coin.source or coin.path
            yield {
                "picture": store(picture),
                "heatmap": data_uri(heatmap, "png"),
                "link": first_file(full).resolve().as_uri(),
                "path": printable(full),
                "true": coin.true,
                "title": describe(coin.true, *top[0]),
                "top": top,
                "kinds": coin.kinds,
                "notes": [*band_note, *coin.notes],
            }


def describe(true: str, predicted: str, confidence: float) -> str:
    """Return the true grade of a coin ("" if it is not known), the predicted one and the confidence as text."""
    if not true:
        grades = predicted
    elif true == predicted:
        grades = f"{true} (right)"
    else:
        grades = f"{true} taken for {predicted}"
    return f"{grades}, confidence {confidence:.0%}"


def read_pictures(coin: ShownCoin, size: tuple[int, int]) -> tuple[bytes, torch.Tensor] | None:
    """Return the picture of a coin as a JPEG file, and the photo as the model takes it; None if it cannot be read."""
    try:
        picture = open_coin(coin.path, *PICTURE_SIZE).photo
        photo = to_tensor(open_coin(coin.path, *size).photo)
    except PhotoError:
        return None
    return encode_picture(picture, "jpeg", quality=PICTURE_QUALITY), photo


def with_heatmaps(
    pictures: Iterator[tuple[ShownCoin, bytes, torch.Tensor]], model: nn.Module
) -> Iterator[tuple[ShownCoin, bytes, bytes]]:
    """Replace the photo in each tuple by its heatmap, a PNG file."""
    while batch := list(islice(pictures, BATCH_SIZE)):
        photos = torch.stack([photo for *_, photo in batch])
        maps = heatmaps(model, photos, [int(coin.probabilities.argmax()) for coin, *_ in batch]).numpy()
        for (coin, picture, _), heatmap in zip(batch, maps, strict=True):
            yield coin, picture, draw_heatmap(heatmap)


def draw_heatmap(heatmap: np.ndarray) -> bytes:
    """Return a heatmap, (H, W), 0 to 1, as a small PNG file to lay over its photo: transparent where it is 0."""
    small = np.asarray(Image.fromarray(heatmap.astype(np.float32)).resize(HEATMAP_SIZE, Image.Resampling.BILINEAR))
    layer = Image.fromarray(np.round(small * (SHADES - 1)).clip(0, SHADES - 1).astype(np.uint8), "P")
    colours = shades(SHADES)
    layer.putpalette(colours[:, :3].tobytes())
    return encode_picture(layer, "png", transparency=colours[:, 3].tobytes())


def shades(count: int) -> np.ndarray:
    """Return the colours of a heatmap from 0 to 1, as `coinkit.figures.overlay` has them: RGBA, (count, 4), uint8."""
    from matplotlib import colormaps  # slow to import

    values = np.linspace(0, 1, count)
    colours = colormaps["turbo"](values)
    colours[:, 3] = OPACITY * values
    return np.round(255 * colours).astype(np.uint8)


def write_coins_page(template: str, target: Path, **values: object) -> None:
    """Write a page with coins as `draw_coins` yields them, and the legend of their heatmaps."""
    stops = ", ".join(f"rgb({red} {green} {blue} / {alpha / 255:.2f})" for red, green, blue, alpha in shades(9))
    legend = f"linear-gradient(to right, {stops})"
    write_page(template, target, picture_size=PICTURE_SIZE, legend=legend, **values)


def write_grades(
    graded: list[tuple[Path | Faces, np.ndarray, str]],
    ungraded: dict[Path | Faces, str | PhotoError],
    classes: list[str],
    bands: Bands,
    model: nn.Module,
    checkpoints: list[Path],
    target: Path,
) -> None:
    """Write a page of graded coins without labels, the least sure first. It needs no other file, so it can be mailed.

    Args:
        graded: for each photo its path, the probabilities of its grades, (classes,), and a note, which may be "".
        ungraded: photos without a grade, with the reason.
        classes: the names of the grades.
        bands: that they are in.
        model: for the heatmaps.
        checkpoints: that have graded the photos.
        target: the HTML file.
    """
    coins = [ShownCoin(path, shares, notes=(f"Note: {note}",) if note else ()) for path, shares, note in graded]
    shown = sorted(coins, key=lambda coin: coin.probabilities.max())[:MAX_COINS]
    text = "The least sure come first: check them by eye."
    if len(shown) < len(coins):
        text = f"These are the {len(shown)} of which the model is least sure, the least sure first: check them by eye."
    text = f"{text} {bands.explained}".strip()
    with atomic_write(target) as part:
        write_coins_page(
            "grades.html",
            part,
            title=f"The grades of {len(coins)} coin{'s' if len(coins) != 1 else ''}",
            coins_text=text,
            about={"checkpoint": ", ".join(map(str, checkpoints))},
            coins=list(draw_coins(shown, classes, bands, model, partial(data_uri, kind="jpeg"))),
            ungraded={printable(path): reason for path, reason in ungraded.items()},
            classes=classes,
            kinds={},
            orders={"confidence": "least sure first", "predicted": "grade"},
        )
