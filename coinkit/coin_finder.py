"""Where the coin is in a photo of one of its faces, and a picture of the coin alone.

A coin has more than one ring: the rim, denticles and legend within it, and often the ring of a holder around it. The
rim is told apart by two marks. All around it the photo changes, and there the texture ends: the design of a coin varies
along the circle, while the plastic or paper around it is smooth. Both are read from the photo unwrapped around the
coin, where its rings are straight lines.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

MARGIN = 0.02  # of the radius, kept outside the rim: about as far as the rim is found wrong
GROUND = (128, 128, 128)  # what is put around every coin: near the mean, so that a network has nothing to see in it

SMALLEST_SIDE = 32  # pixels of a photo; below this nothing is told apart
RADII = (0.08, 0.6)  # of the shorter side of the photo: the coins that are looked for
SURE = 0.2  # certainty from which on a coin can be used unseen; benchmarks/coin_finding.py says how often it is right
LEAST_CERTAIN = 0.1  # below this there is no coin
LEAST_SEEN = 0.6  # share of the rim within the photo; below this the coin is cut off

# Longest side, in pixels, of the copies that are worked on, each made of the one before; and the radius at the end.
COPY, OVERVIEW, THUMBNAIL = 1280, 480, 200
FINE_RADIUS = 250
CENTRES = 2  # points that are looked around

DIRECTIONS = 256  # in which the photo is unwrapped
POOLED = 4  # so many directions are then taken together
NOISE = 2  # grey levels that mean nothing
EDGE_WINDOW = 0.18  # of the radius: an edge has to stand out of so much around it
INSIDE, OUTSIDE = 0.2, (0.01, 0.08)  # of the radius: where texture is compared, from the rim inwards and outwards
LINES = 0.13  # of the radius, from the rim inwards: where other rings of the coin are
PLAIN = 0.3  # what an edge counts where no texture ends, for worn coins and for coins on rough ground

REACH = 4  # steps by which an outline is moved, at most
MOVES = np.array(
    [(a, b) for a in range(-REACH, REACH + 1) for b in range(-REACH, REACH + 1) if a * a + b * b <= REACH * REACH + 1]
)
ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
SHIFT, TILT = 1, 2  # harmonics of the angle: that of a circle beside the centre, and that of an ellipse
WAVES = {harmonic: np.stack([np.cos(harmonic * ANGLES), np.sin(harmonic * ANGLES)], 1) for harmonic in (SHIFT, TILT)}


class CoinNotFound(ValueError):
    """There is no coin to be seen. The message is the reason, short enough for a table."""


class Coin(NamedTuple):
    """A coin in a photo.

    `x`, `y` and `radius` are in pixels of the photo, from its upper left corner. `certainty`, 0 to 1, is how far an
    edge stands out, as a mean along the rim, times the share of the coin's texture that ends there: 1 is a flawless
    edge with nothing but plain ground around it. It is no probability; `SURE` is where to be content.
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

    def moved(self, harmonic: int, move: np.ndarray, growth: float) -> "Outline":
        """Return the outline `growth` times as large, and moved or tilted by `move`, relative to its radius."""
        radius = self.radius * growth
        if harmonic == SHIFT:
            return Outline(self.x + radius * move[0], self.y + radius * move[1], radius, self.tilt)
        return Outline(self.x, self.y, radius, (self.tilt[0] + move[0], self.tilt[1] + move[1]))

    def scaled(self, scale: float) -> "Outline":
        """Return the outline in a copy of the photo that is `scale` times as large."""
        return Outline(self.x * scale, self.y * scale, self.radius * scale, self.tilt)


class Look(NamedTuple):
    """How to look for a better outline near one that is known; all but `harmonic` are relative to its radius."""

    harmonic: int  # SHIFT or TILT: what is tried
    unit: float  # of the moves
    step: float  # between radii
    smaller: float  # natural logarithms of the least and greatest radius to try
    larger: float
    lines: float = 6  # what the other rings of the coin count


FIRST_LOOK = Look(SHIFT, 0.03, 0.01, math.log(RADII[0]), math.log(RADII[1]))
CLOSER_LOOKS = (
    Look(SHIFT, 0.012, 0.004, -0.15, 0.15),
    Look(TILT, 0.006, 0.003, -0.1, 0.1),
    Look(SHIFT, 0.006, 0.003, -0.1, 0.1),
    Look(TILT, 0.003, 0.002, -0.1, 0.1),
    Look(SHIFT, 0.004, 0.002, -0.1, 0.1),
    Look(SHIFT, 0.002, 0.002, -0.1, 0.1, lines=0),
)


class Found(NamedTuple):
    """The best outline of a look, and what speaks for it."""

    outline: Outline
    score: float
    edge: float  # how far an edge stands out, 0 to 1, as a mean along the outline
    texture_end: float  # logarithm of how many times as much texture there is within as around it, 0 or more
    seen: float  # share of the outline that is within the photo


def find_coin(photo: Image.Image) -> Coin:
    """Return where the coin is in a photo of one of its faces.

    The centre is where most edges point at (Kimme, Ballard and Sklansky 1975, "Finding circles by an array of
    accumulators"). Around it the photo is unwrapped, and all circles near are compared, coarsely and then closely: by
    their edge, by the texture that ends at them, and by how straight the other rings of the coin come out.

    Args:
        photo: of any size and mode, upright or not; with one coin, its radius `RADII` of the photo's shorter side.

    Raises:
        CoinNotFound: the photo is too small, or shows nothing like a coin, or little more than half of one.
    """
    if min(photo.size) < SMALLEST_SIDE:
        raise CoinNotFound(f"too small: {photo.width}x{photo.height} pixels")
    copy, scale = _copy(photo)
    overview, overview_scale = _shrink(copy, OVERVIEW / max(copy.shape))
    thumbnail, thumbnail_scale = _shrink(overview, THUMBNAIL / max(overview.shape))
    centres = _centres(thumbnail) / thumbnail_scale
    if not len(centres):
        raise CoinNotFound("nothing but plain ground")
    around = [Outline(x, y, min(overview.shape[:2])) for x, y in centres]
    found = max((_look(overview, outline, FIRST_LOOK) for outline in around), key=lambda found: found.score)
    outline = found.outline.scaled(1 / overview_scale)
    fine, fine_scale = _shrink(copy, FINE_RADIUS / outline.radius)
    outline = outline.scaled(fine_scale)
    for look in CLOSER_LOOKS:
        found = _look(fine, outline, look)
        outline = found.outline
    if found.seen < LEAST_SEEN:
        raise CoinNotFound("the coin is cut off")
    certainty = float(found.edge * (1 - math.exp(-found.texture_end)))
    if certainty < LEAST_CERTAIN:
        raise CoinNotFound("nothing round that looks like a coin")
    x, y, radius, _ = outline.scaled(1 / (scale * fine_scale))
    return Coin(float(x), float(y), radius, certainty)


def cut_out(photo: Image.Image, coin: Coin, size: int, margin: float = MARGIN) -> Image.Image:
    """Return the coin alone, RGB, `size` x `size` pixels, as large as fits.

    Whatever is further than `margin` times the radius outside the rim, or outside the photo, becomes `GROUND`: holders
    and labels tell a network things that are not on the coin, and a label even its grade.
    """
    reach = coin.radius * (1 + margin)
    left, top = math.floor(coin.x - reach), math.floor(coin.y - reach)
    canvas = Image.new("RGB", (math.ceil(coin.x + reach) - left, math.ceil(coin.y + reach) - top), GROUND)
    canvas.paste(_rgb(photo), (-left, -top))
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
        coin.paste(_rgb(face).resize((height, height), Image.Resampling.BICUBIC, reducing_gap=3), (left, 0))
    return coin


def _rgb(photo: Image.Image) -> Image.Image:
    if photo.mode.startswith("I"):  # whole numbers of 16 bits, which Pillow would cut off at 255
        photo = Image.fromarray((np.clip(np.asarray(photo), 0, 65535) // 256).astype(np.uint8))
    if photo.has_transparency_data:  # a coin that was cut out: lay it on white
        cut_out = photo.convert("RGBA")
        photo = Image.new("RGB", photo.size, "white")
        photo.paste(cut_out, mask=cut_out)
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def _copy(photo: Image.Image) -> tuple[np.ndarray, float]:
    """Return a copy of (H, W, 3), its longest side `COPY` pixels or less, and its scale."""
    scale = min(1, COPY / max(photo.size))
    photo = _rgb(photo)
    if scale < 1:
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        photo = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=1)
    return np.asarray(photo), scale


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
    columns = ((x + 0.5)[:, None] + (across[y, x] / strength[y, x])[:, None] * radii).astype(int) // 2
    rows = ((y + 0.5)[:, None] + (down[y, x] / strength[y, x])[:, None] * radii).astype(int) // 2
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


def _look(pixels: np.ndarray, outline: Outline, look: Look) -> Found:
    """Return the best of all outlines near one that is known."""
    step = look.step
    inside, lines, outside = round(INSIDE / step), round(LINES / step), [round(part / step) for part in OUTSIDE]
    slack = math.ceil((REACH + 0.2) * look.unit / step) + 1
    count = round((look.larger - look.smaller) / step) + 1
    length = inside + count + outside[1]
    logarithms = look.smaller + step * np.arange(-inside - slack, count + outside[1] + slack)
    edge, texture, seen = _unwrap(pixels, outline, logarithms)

    # An outline that is moved a little is a line that is shifted, by so much in each direction.
    pooled = np.stack([edge, texture, seen], 1).reshape(DIRECTIONS // POOLED, POOLED, 3, -1).mean(1)
    shifted = sliding_window_view(pooled, length, axis=2).transpose(0, 2, 1, 3)
    waves = WAVES[look.harmonic].reshape(DIRECTIONS // POOLED, POOLED, 2).mean(1)
    shifts = slack + np.rint(MOVES @ waves.T * (look.unit / step)).astype(int)
    directions = np.arange(DIRECTIONS // POOLED)
    profiles = np.stack([shifted[directions, shift].mean(0) for shift in shifts])  # (moves, 3, length)

    # What is hardly seen, since it is outside the photo, counts little.
    edge, texture = profiles[:, 0] / (profiles[:, 2] + 0.15), profiles[:, 1] / (profiles[:, 2] + 0.05)
    at = slice(inside, inside + count)
    texture_end = np.maximum(_mean(texture, at, -inside, 0) - _mean(texture, at, *outside), 0)
    variance = _mean(edge**2, at, -lines, 0) - _mean(edge, at, -lines, 0) ** 2
    score = (edge[:, at] + look.lines * np.sqrt(np.maximum(variance, 0))) * (texture_end + PLAIN)
    move, radius = np.unravel_index(score.argmax(), score.shape)
    better = outline.moved(look.harmonic, MOVES[move] * look.unit, math.exp(look.smaller + step * radius))
    best = move, inside + radius
    return Found(better, score[move, radius], edge[best], texture_end[move, radius], profiles[:, 2][best])


def _unwrap(pixels: np.ndarray, outline: Outline, logarithms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges, texture and what is within the photo, unwrapped around an outline.

    Args:
        pixels: (H, W, 3).
        outline: to unwrap along, so that it becomes a straight line.
        logarithms: (N,), natural, of the radii, in shares of the outline's; in even steps.

    Returns:
        Three of (directions, N): how far an edge across the radius stands out, 0 to 1; how much the photo changes along
        the circle, a logarithm, 0 or more; and 1 within the photo, where 0 makes both of the others 0 too.
    """
    radii = outline.radius * (1 + WAVES[TILT] @ outline.tilt)[:, None] * np.exp(logarithms)
    x, y = ((centre - 0.5 + wave[:, None] * radii) for centre, wave in zip(outline[:2], WAVES[SHIFT].T, strict=True))
    x, y = x.astype(np.float32), y.astype(np.float32)
    seen = (x >= 0) & (y >= 0) & (x <= pixels.shape[1] - 1) & (y <= pixels.shape[0] - 1)
    rays = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    smooth = cv2.GaussianBlur(rays.astype(np.float32), (7, 9), sigmaX=1.2, sigmaY=1.5)
    change = np.zeros(seen.shape, np.float32)
    change[:, 1:-1] = np.abs(smooth[:, 2:] - smooth[:, :-2]).max(2) * (seen[:, 2:] & seen[:, :-2])
    window = 2 * round(EDGE_WINDOW / 2 / (logarithms[1] - logarithms[0])) + 1
    edge = cv2.dilate(change / (change + cv2.blur(change, (window, 5)) + NOISE), np.ones((1, 3)))

    grey = cv2.cvtColor(rays, cv2.COLOR_RGB2GRAY).astype(np.float32)
    along = np.abs(np.roll(grey, -1, axis=0) - np.roll(grey, 1, axis=0))
    return edge, np.log1p(along / NOISE) * seen, seen.astype(np.float32)


def _mean(profiles: np.ndarray, at: slice, first: int, last: int) -> np.ndarray:
    """Return, for each place in `at`, the mean of the profiles from `first` to before `last`, counted from there."""
    total = np.pad(np.cumsum(profiles, axis=1), ((0, 0), (1, 0)))
    return (total[:, at.start + last : at.stop + last] - total[:, at.start + first : at.stop + first]) / (last - first)
