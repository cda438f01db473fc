"""Where the coin is in a photo of one of its faces, and a picture of the coin alone.

A coin has more than one ring: the rim's outer and inner edge, denticles and legend within, and often the ring of a
holder around it. Three marks tell the rim from the others. All around it the photo changes; there the texture ends,
since a coin is engraved and the plastic or paper around it is smooth; and there the colour changes, since metal has a
tint of its own, however the light falls. All are read from the photo unwrapped around the coin, where its rings are
straight lines.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

FINDER_VERSION = 2  # of what `find_coin` returns; after a change, prepare_dataset.py cuts all coins out anew
MARGIN = 0.02  # of the radius, kept outside the rim: about as far as the rim is found wrong
GROUND = (128, 128, 128)  # what is put around every coin: near the mean, so that a network has nothing to see in it
GROUND_ERROR = 6  # grey levels that JPEG and resizing may change it by

SMALLEST_SIDE = 32  # pixels of a photo; below this nothing is told apart
RADII = (0.08, 0.6)  # of the shorter side of the photo: the coins that are looked for
SURE = 0.75  # certainty from which on a coin can be used unseen; benchmarks/coin_finding.py says how often it is right
LEAST_CERTAIN = 0.4  # below this there is no coin
APART = 0.9  # another coin is as far from the coin as this share of the sum of their radii, or further
LEAST_SEEN = 0.6  # share of the rim within the photo; below this the coin is cut off
MOSTLY_SEEN = 0.8  # the same, of another coin; a ring of which less is seen is part of a holder

# Longest side, in pixels, of the copies that are worked on, each made of the one before; and the radius at the end.
COPY, OVERVIEW, THUMBNAIL = 1000, 480, 200  # the first is at least as long and less than twice as long
FINE_RADIUS = 250
CENTRES = 2  # points that are looked around

DIRECTIONS = 256  # in which the photo is unwrapped
POOLED = 4  # so many directions are then taken together
NOISE = 2  # grey levels that mean nothing

# Shares of the radius.
EDGE_WINDOW = 0.18  # an edge has to stand out of so much around it
OUTSIDE = 0.02, 0.08  # what lies around a ring; closer to a coin, holders have lines and glints
INSIDE, JUST_INSIDE = 0.2, 0.06  # what lies within a ring: for the first outlines, and for the rim
NEIGHBOURS = 0.12  # where other rings are

# How the first outlines are compared.
PLAIN = 0.3  # what an edge counts where no texture ends, for worn coins and for coins on rough ground
REACH = 4  # steps by which an outline is moved, at most
MOVES = np.array(
    [(a, b) for a in range(-REACH, REACH + 1) for b in range(-REACH, REACH + 1) if a * a + b * b <= REACH * REACH + 1]
)

# How the rim is told from the rings beside it; lengths are shares of the radius.
FITS = 2  # each starts from the rim that the one before found
STEP = 0.004  # between radii
SEARCHED = 0.2  # rings are looked for so much further in and out
GATES = (0.02, 0.01, 0.007)  # how far away edges still draw a ring, each time that it is fitted
# What a ring counts for its edges, the texture that ends and the colour that changes there: by logistic regression on
# photos marked by hand, and rounded. A third more or less of any of them hardly matters.
EDGE, TEXTURE, COLOUR = 9, 3, 3
NEAR = 0.03  # rings that are so close to the best one are averaged with it

ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
WAVES = np.stack([np.ones(DIRECTIONS)] + [wave(n * ANGLES) for n in (1, 2) for wave in (np.cos, np.sin)], 1)
POOLED_WAVES = WAVES.reshape(DIRECTIONS // POOLED, POOLED, -1).mean(1)
SHIFT, TILT = slice(1, 3), slice(3, 5)  # columns of the waves: a circle beside the centre, and an ellipse


class CoinNotFound(ValueError):
    """There is no coin to be seen. The message is the reason, short enough for a table."""


class Circle(NamedTuple):
    """Where a coin is in a photo.

    `x`, `y` and `radius` are in pixels of the photo, from its upper left corner. `certainty`, 0 to 1, is how far the
    rings that may be the rim agree: what those near it count, as a share of what all count. A second coin in the photo
    lowers it. `SURE` is where to be content.
    """

    x: float
    y: float
    radius: float
    certainty: float


class Outline(NamedTuple):
    """A circle, maybe seen at an angle: in direction t, its radius is radius * (1 + p cos 2t + q sin 2t)."""

    x: float
    y: float
    radius: float
    tilt: tuple[float, float] = (0.0, 0.0)

    def changed(self, change: np.ndarray) -> "Outline":
        """Return the outline after a change: (5,), logarithm of the growth, shift in shares of the radius, and tilt."""
        radius = self.radius * math.exp(change[0])
        x, y = np.add((self.x, self.y), radius * change[SHIFT])
        return Outline(x, y, radius, tuple(self.tilt + change[TILT]))

    def scaled(self, scale: float) -> "Outline":
        """Return the outline in a copy of the photo that is `scale` times as large."""
        return Outline(self.x * scale, self.y * scale, self.radius * scale, self.tilt)


class Look(NamedTuple):
    """How to look for a better outline near one that is known; all but `moved` are relative to its radius."""

    moved: slice  # SHIFT or TILT: what is tried
    unit: float  # of the moves
    step: float  # between radii
    smaller: float  # natural logarithms of the least and greatest radius to try
    larger: float


FIRST_LOOK = Look(SHIFT, 0.03, 0.01, math.log(RADII[0]), math.log(RADII[1]))
CLOSER_LOOKS = (
    Look(SHIFT, 0.012, 0.004, -0.15, 0.15),
    Look(TILT, 0.006, 0.003, -0.1, 0.1),
    Look(SHIFT, 0.006, 0.003, -0.1, 0.1),
)


class Found(NamedTuple):
    """The best outline of a look."""

    outline: Outline
    score: float
    seen: float  # share of the outline that is within the photo


def find_coin(photo: Image.Image) -> Circle:
    """Return where the coin is in a photo of one of its faces.

    The centre is where most edges point at (Kimme, Ballard and Sklansky 1975, "Finding circles by an array of
    accumulators"). Around it the photo is unwrapped, and all circles near are compared, coarsely and then closely: by
    their edge, by the texture that ends at them, and by how straight the other rings of the coin come out. That shows
    where the coin is, to a few percent of its radius. Then every ring near is fitted by itself, and those that may be
    the rim are averaged, each by how much speaks for it.

    Args:
        photo: RGB and upright, as coinkit.photos opens it, of any size; with one coin, its radius `RADII` of the
            photo's shorter side.

    Raises:
        CoinNotFound: the photo is too small, or shows nothing like a coin, or little more than half of one.
    """
    if min(photo.size) < SMALLEST_SIDE:
        raise CoinNotFound(f"too small: {photo.width}x{photo.height} pixels")
    shrunk = max(1, max(photo.size) // COPY)
    copy = np.asarray(photo.reduce(shrunk))
    overview, overview_scale = _shrink(copy, OVERVIEW / max(copy.shape))
    thumbnail, thumbnail_scale = _shrink(overview, THUMBNAIL / max(overview.shape))
    centres = _centres(thumbnail) / thumbnail_scale
    if not len(centres):
        raise CoinNotFound("nothing but plain ground")
    around = [Outline(x, y, min(overview.shape[:2])) for x, y in centres]
    candidates = [_look(overview, outline, FIRST_LOOK) for outline in around]
    found = max(candidates, key=lambda candidate: candidate.score)
    another_coin = max((other.score for other in candidates if _lies_apart(other, found)), default=0)
    share = found.score / (found.score + another_coin)
    outline = found.outline.scaled(1 / overview_scale)
    fine, fine_scale = _shrink(copy, FINE_RADIUS / outline.radius)
    outline = outline.scaled(fine_scale)
    for look in CLOSER_LOOKS:
        found = _look(fine, outline, look)
        outline = found.outline
    for _ in range(FITS):
        outline, certainty = _rim(fine, outline)
    if certainty < LEAST_CERTAIN:
        raise CoinNotFound("nothing round that looks like a coin")
    if _unwrap(fine, outline, np.zeros(1))[1].mean() < LEAST_SEEN:
        raise CoinNotFound("the coin is cut off")
    x, y, radius, _ = outline.scaled(shrunk / fine_scale)
    return Circle(float(x), float(y), float(radius), certainty * float(share))


def cut_out(photo: Image.Image, coin: Circle, size: int) -> Image.Image:
    """Return the coin alone, RGB, `size` x `size` pixels, as large as fits.

    Whatever is further outside the rim than `MARGIN`, or outside the photo, becomes `GROUND`: holders and labels tell a
    network things that are not on the coin, and a label even its grade.
    """
    reach = coin.radius * (1 + MARGIN)
    left, top = math.floor(coin.x - reach), math.floor(coin.y - reach)
    canvas = Image.new("RGB", (math.ceil(coin.x + reach) - left, math.ceil(coin.y + reach) - top), GROUND)
    canvas.paste(photo, (-left, -top))
    box = (coin.x - reach - left, coin.y - reach - top, coin.x + reach - left, coin.y + reach - top)
    square = canvas.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3)
    across = np.arange(size) + 0.5 - size / 2
    share_within = np.clip(size / 2 + 0.5 - np.hypot(across, across[:, None]), 0, 1)
    mask = Image.fromarray(np.rint(255 * share_within).astype(np.uint8))
    return Image.composite(square, Image.new("RGB", square.size, GROUND), mask)


def join_faces(obverse: Image.Image, reverse: Image.Image, height: int) -> Image.Image:
    """Return the two square pictures side by side, the obverse left, RGB, twice as wide as `height` pixels."""
    coin = Image.new("RGB", (2 * height, height), GROUND)
    for left, face in ((0, obverse), (height, reverse)):
        coin.paste(face.resize((height, height), Image.Resampling.BICUBIC, reducing_gap=3), (left, 0))
    return coin


def is_cut_out(photo: Image.Image) -> bool:
    """Return whether a photo of both faces, RGB, shows nothing but the coin, as those of `join_faces`: grey corners."""
    right, bottom, middle = photo.width - 1, photo.height - 1, photo.width // 2
    corners = [photo.getpixel((x, y)) for x in (0, middle - 1, middle, right) for y in (0, bottom)]
    return bool(np.abs(np.subtract(corners, GROUND)).max() <= GROUND_ERROR)


def _shrink(pixels: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """Return the pixels and their scale, which is never above 1."""
    if scale >= 1:
        return pixels, 1
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale


def _centres(pixels: np.ndarray) -> np.ndarray:
    """Return the points that most edges point at, best first: (N, 2), x and y, N `CENTRES` or fewer."""
    height, width = pixels.shape[:2]
    grey = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = cv2.magnitude(across, down)
    y, x = np.nonzero(strength > 1.2 * (cv2.blur(strength, (25, 25)) + NOISE))
    radii = np.arange(*np.multiply(RADII, min(height, width)), 2, dtype=np.float32)
    radii = np.concatenate([-radii, radii])  # an edge may be darker on either side
    columns, rows = (
        ((start[:, None] + 0.5 + (slope[y, x] / strength[y, x])[:, None] * radii) / 2).astype(np.int32)
        for start, slope in ((x.astype(np.float32), across), (y.astype(np.float32), down))
    )
    shape = (height // 2 + 1, width // 2 + 1)  # of cells of 2 x 2 pixels
    within = (columns >= 0) & (rows >= 0) & (columns < shape[1]) & (rows < shape[0])
    votes = np.bincount((rows * shape[1] + columns)[within], minlength=shape[0] * shape[1]).reshape(shape)
    votes = cv2.GaussianBlur(votes.astype(np.float32), (0, 0), 1.5)
    centres = []
    for _ in range(CENTRES):
        _, most, _, cell = cv2.minMaxLoc(votes)
        if most > 0:
            centres.append((2 * cell[0] + 1, 2 * cell[1] + 1))
            cv2.circle(votes, cell, max(1, min(shape) // 12), 0, -1)
    return np.array(centres)


def _lies_apart(other: Found, found: Found) -> bool:
    """Tell whether another outline is that of a second coin, which lies beside the first and mostly in the photo."""
    first, second = found.outline, other.outline
    distance = math.hypot(first.x - second.x, first.y - second.y)
    return distance > APART * (first.radius + second.radius) and other.seen > MOSTLY_SEEN


def _look(pixels: np.ndarray, outline: Outline, look: Look) -> Found:
    """Return the best of all outlines near one that is known."""
    step = look.step
    inside, lines, outside = round(INSIDE / step), round(NEIGHBOURS / step), [round(part / step) for part in OUTSIDE]
    slack = math.ceil((REACH + 0.2) * look.unit / step) + 1
    count = round((look.larger - look.smaller) / step) + 1
    length = inside + count + outside[1]
    rays, seen = _unwrap(pixels, outline, look.smaller + step * np.arange(-inside - slack, count + outside[1] + slack))

    # An outline that is moved a little is a line that is shifted, by so much in each direction.
    pooled = np.stack([_pool(part) for part in (_edges(rays, seen, step), _texture(rays, seen), seen)], 1)
    shifted = sliding_window_view(pooled, length, axis=2).transpose(0, 2, 1, 3)
    shifts = slack + np.rint(MOVES @ POOLED_WAVES[:, look.moved].T * (look.unit / step)).astype(int)
    directions = np.arange(DIRECTIONS // POOLED)
    profiles = np.stack([shifted[directions, shift].mean(0) for shift in shifts])  # (moves, 3, length)

    # What is hardly seen, since it is outside the photo, counts little.
    edge, texture = profiles[:, 0] / (profiles[:, 2] + 0.15), profiles[:, 1] / (profiles[:, 2] + 0.05)
    at = slice(inside, inside + count)
    texture_end = np.maximum(_mean(texture, at, -inside, 0) - _mean(texture, at, *outside), 0)
    variance = _mean(edge**2, at, -lines, 0) - _mean(edge, at, -lines, 0) ** 2
    score = (edge[:, at] + 6 * np.sqrt(np.maximum(variance, 0))) * (texture_end + PLAIN)
    move, radius = np.unravel_index(score.argmax(), score.shape)
    change = np.zeros(5)
    change[0], change[look.moved] = look.smaller + step * radius, MOVES[move] * look.unit
    return Found(outline.changed(change), score[move, radius], profiles[move, 2, inside + radius])


def _rim(pixels: np.ndarray, outline: Outline) -> tuple[Outline, float]:
    """Return the rim near an outline, and the certainty of it.

    Where two rings both may be the rim, their weighted mean lies between them, and is less wrong than the wrong one.
    """
    steps = round((SEARCHED + NEIGHBOURS) / STEP)
    logarithms = STEP * np.arange(-steps, steps + 1)
    rays, seen = _unwrap(pixels, outline, logarithms)
    tint = cv2.cvtColor(rays.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[:, :, 1:] * seen[:, :, None]
    edge, texture, red, blue, seen = (
        _pool(part) for part in (_edges(rays, seen, STEP), _texture(rays, seen), *cv2.split(tint), seen)
    )
    rings = _fit_rings(edge, logarithms)
    directions = np.arange(len(edge))

    def along(offset: float) -> np.ndarray:  # (rings, directions): places in `logarithms`, so far outside each ring
        return np.clip(steps + np.rint((rings @ POOLED_WAVES.T + offset) / STEP).astype(int), 0, 2 * steps)

    thick = cv2.dilate(edge, np.ones((1, 3)))
    offsets = np.arange(-NEIGHBOURS, NEIGHBOURS, 2 * STEP)
    usual = np.median([thick[directions, along(offset)].mean(1) for offset in offsets], axis=0)
    share_seen = seen[directions, along(0)].mean(1)
    stands_out = thick[directions, along(0)].mean(1) / (share_seen + 0.15) - usual

    sums = np.pad(np.cumsum([texture, red, blue, seen], axis=2), ((0, 0), (0, 0), (1, 0)))
    inside, outside = (
        sums[:, directions, along(last)] - sums[:, directions, along(first)]
        for first, last in ((-JUST_INSIDE, 0), OUTSIDE)
    )
    texture_end = inside[0].sum(1) / (inside[3].sum(1) + 1) - outside[0].sum(1) / (outside[3].sum(1) + 1)
    both_seen = np.minimum(inside[3], outside[3]) > JUST_INSIDE / STEP / 2
    change = np.hypot(*(inside[1:3] / np.maximum(inside[3], 1) - outside[1:3] / np.maximum(outside[3], 1)))
    colour_change = (np.log1p(change) * both_seen).sum(1) / (both_seen.sum(1) + 4)

    score = EDGE * stands_out + TEXTURE * texture_end + COLOUR * colour_change
    weights = np.exp(score - score.max())
    near = weights * (abs(rings[:, 0] - rings[score.argmax(), 0]) < NEAR)
    return outline.changed(near @ rings / near.sum()), float(near.sum() / weights.sum())


def _fit_rings(edge: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
    """Return the rings that the edges show, by least squares from many radii, (rings, 5), as `Outline.changed` takes.

    One ring may be there many times. It then counts as often: the wider the gap around it, the clearer it is.
    """
    directions = np.arange(len(edge))
    rings = np.zeros((round(SEARCHED / STEP) + 1, 5))
    rings[:, 0] = np.linspace(-SEARCHED, SEARCHED, len(rings))
    for gate in GATES:
        strength, moment = (
            cv2.GaussianBlur(part, (0, 0), sigmaX=gate / STEP, sigmaY=0.01) for part in (edge**2, edge**2 * logarithms)
        )
        at = rings @ POOLED_WAVES.T
        place = directions, np.clip(np.rint((at - logarithms[0]) / STEP).astype(int), 0, len(logarithms) - 1)
        weights = strength[place] + 1e-3  # where no edge is seen, a ring stays where it is
        pulls = moment[place] + 1e-3 * at
        normal = np.einsum("rd,di,dj->rij", weights, POOLED_WAVES, POOLED_WAVES)
        rings = np.linalg.solve(normal, (pulls @ POOLED_WAVES)[..., None])[..., 0]
    return rings


def _unwrap(pixels: np.ndarray, outline: Outline, logarithms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels unwrapped around an outline, so that it becomes a straight line, and what is within the photo.

    Args:
        pixels: (H, W, 3).
        outline: to unwrap along.
        logarithms: (N,), natural, of the radii, in shares of the outline's; in even steps.

    Returns:
        (directions, N, 3), and (directions, N), 1 within the photo and 0 outside.
    """
    radii = outline.radius * (1 + WAVES[:, TILT] @ outline.tilt)[:, None] * np.exp(logarithms)
    x, y = (centre - 0.5 + wave[:, None] * radii for centre, wave in zip(outline[:2], WAVES[:, SHIFT].T, strict=True))
    x, y = x.astype(np.float32), y.astype(np.float32)
    seen = (x >= 0) & (y >= 0) & (x <= pixels.shape[1] - 1) & (y <= pixels.shape[0] - 1)
    return cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), seen.astype(np.float32)


def _edges(rays: np.ndarray, seen: np.ndarray, step: float) -> np.ndarray:
    """Return how far an edge across the radius stands out, 0 to 1, (directions, N)."""
    smooth = cv2.GaussianBlur(rays.astype(np.float32), (7, 9), sigmaX=1.2, sigmaY=1.5)
    change = np.zeros(seen.shape, np.float32)
    steps = cv2.absdiff(smooth[:, 2:], smooth[:, :-2])
    change[:, 1:-1] = np.maximum.reduce(cv2.split(steps)) * (seen[:, 2:] * seen[:, :-2])
    window = 2 * round(EDGE_WINDOW / 2 / step) + 1
    return change / (change + cv2.blur(change, (window, 5)) + NOISE)


def _texture(rays: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return how much the photo changes along the circle, a logarithm, 0 or more, (directions, N)."""
    grey = cv2.cvtColor(rays, cv2.COLOR_RGB2GRAY).astype(np.float32)
    along = np.abs(np.roll(grey, -1, axis=0) - np.roll(grey, 1, axis=0))
    return np.log1p(along / NOISE) * seen


def _pool(unwrapped: np.ndarray) -> np.ndarray:
    """Return the means of `POOLED` directions each."""
    return unwrapped.reshape(DIRECTIONS // POOLED, POOLED, -1).mean(1)


def _mean(profiles: np.ndarray, at: slice, first: int, last: int) -> np.ndarray:
    """Return, for each place in `at`, the mean of the profiles from `first` to before `last`, counted from there."""
    total = np.pad(np.cumsum(profiles, axis=1), ((0, 0), (1, 0)))
    return (total[:, at.start + last : at.stop + last] - total[:, at.start + first : at.stop + first]) / (last - first)
