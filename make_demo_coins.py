"""Draw synthetic graded coins, to try the toolkit without photos of your own: demo/images/<grade>/6000x3000/*.jpg

    python make_demo_coins.py                                            40 photos each of g06, vf30, au55 and ms65
    python make_demo_coins.py --grades vf20 vf30 xf40 --per-grade 100    other grades, more photos
    python make_demo_coins.py --seed 1 --output other_demo/images        other coins
    python make_demo_coins.py --faces 10                                 10 of each grade with a photo of each face

The coin, with an owl and a wreath, does not exist. Wear, lustre, dirt and marks depend on the grade; toning, light,
background and camera are random. The same seed draws the same photos. Photos of one face go to <grade>/obverse/ and
<grade>/reverse/; they look as people take them: in a holder with a label or on a table, and turned by EXIF.
"""

if __name__ == "__main__":
    import coinkit.quiet_start  # noqa: F401

import argparse
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from coinkit.cli import ArgumentParser, quoted, run, usable_cores, worker_pool
from coinkit.files import make_folder
from coinkit.grades import sheldon_number
from coinkit.photos import FACE_FOLDERS, PHOTO_FOLDER

OUTPUT = Path("demo/images")
GRADES = ("g06", "vf30", "au55", "ms65")
PER_GRADE = 40
SEED = 0
PHOTO_SIZE = (6000, 3000)
FACE_PHOTO_SIZE = (1500, 2000)
JPEG_QUALITY = 90

# How strong each property is at some numbers of the Sheldon scale, from 0 (none) to 1; linear in between.
SHELDON = (1, 4, 6, 12, 20, 30, 40, 50, 55, 58, 60, 63, 65, 67, 70)
WEAR = (1.0, 0.93, 0.89, 0.72, 0.54, 0.38, 0.26, 0.15, 0.1, 0.05, 0, 0, 0, 0, 0)
LUSTRE = (0, 0, 0, 0, 0, 0, 0.08, 0.25, 0.42, 0.58, 0.68, 0.8, 0.9, 0.95, 1.0)
DIRT = (0.7, 0.8, 0.85, 1.0, 0.95, 0.8, 0.6, 0.35, 0.22, 0.1, 0.03, 0, 0, 0, 0)
MARKS = (0.7, 0.65, 0.6, 0.6, 0.55, 0.5, 0.5, 0.5, 0.55, 0.7, 1.0, 0.55, 0.25, 0.1, 0)
SPREAD = 0.12  # standard deviation among coins of one grade, as a share of these values

# Colours of silver, from no tarnish to thick tarnish: silver, gold, russet, violet, blue, teal.
TONING = ((250, 248, 244), (246, 222, 170), (208, 150, 120), (146, 112, 156), (104, 136, 178), (134, 180, 178))
BACKGROUNDS = ((240, 240, 238), (205, 207, 210), (150, 152, 156), (92, 94, 100), (40, 40, 44), (14, 14, 16))

# A face is drawn on SIZE x SIZE pixels. Positions on it are (right, down) from its centre, in radii of the coin.
SIZE = 1000
RADIUS = SIZE / 2.02  # in pixels
AXIS = (np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2) / RADIUS
RIGHT, DOWN = AXIS[None, :], AXIS[:, None]
FROM_CENTRE = np.hypot(RIGHT, DOWN)
RELIEF_HEIGHT = 60  # height of a relief of 1, in pixels
DIE_SHIFT = 5  # standard deviation of a detail's distance from its place, in pixels


def main() -> None:
    """Run the command."""
    args = parse_arguments()
    jobs = []
    for grade in args.grades:
        number = sheldon_number(grade.lower())
        for index in range(args.per_grade):
            folders = FACE_FOLDERS if index >= args.per_grade - args.faces else [PHOTO_FOLDER]
            certificate = 10_000_000 + number * 1_000_000 + index
            paths = [args.output / grade / folder / f"{certificate}.jpg" for folder in folders]
            for path in paths:
                make_folder(path.parent)
            jobs.append((paths, number, index, args.seed))

    with (
        worker_pool(args.workers) as pool,
        tqdm(total=len(jobs), desc="Drawing", unit="coin", disable=None) as bar,
    ):
        for _ in pool.map(make_photo, jobs):
            bar.update()

    print(f"Photos of {len(jobs)} coins of {len(args.grades)} grades are in {args.output}.", end=" ")
    dataset = args.output.parent / "coin_dataset"
    print(f"Next: python prepare_dataset.py --source {quoted(args.output)} --output {quoted(dataset)}")


def parse_arguments() -> argparse.Namespace:
    """Return the checked command-line options."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=OUTPUT, help="folder for the photos")
    add("--grades", nargs="+", default=GRADES, help="grades on the Sheldon scale, 1 to 70")
    add("--per-grade", type=int, default=PER_GRADE, help="coins per grade")
    add("--faces", type=int, default=0, metavar="N", help="of so many coins per grade, draw a photo of each face")
    add("--seed", type=int, default=SEED, help="the same seed draws the same photos")
    add("--workers", type=int, default=usable_cores(), help="processes that draw")
    args = parser.parse_args()
    numbers = [sheldon_number(grade.lower()) for grade in args.grades]
    for grade, number in zip(args.grades, numbers, strict=True):
        if number is None:
            parser.error(f"--grades: {grade!r} is not on the Sheldon scale, as vf30 is")
        if numbers.count(number) > 1:  # their photos would be the same
            parser.error(f"--grades: two have the number {number}")
    parser.check_minimum(args, 1, "per_grade", "workers")
    parser.check_minimum(args, 0, "seed", "faces")
    return args


# ---------------------------------------------------------------- a photo


class Look(NamedTuple):
    """The properties that depend on the grade; each is about 0 to 1."""

    wear: float
    lustre: float
    dirt: float
    marks: float


def make_photo(job: tuple[list[Path], int, int, int]) -> None:
    """Draw both faces of a coin and write a photo of both, or of each, in a worker process.

    Args:
        job: the file to write, or one for each face; the number on the Sheldon scale, the index of the coin in its
            grade, and the seed.
    """
    paths, number, index, seed = job
    rng = np.random.default_rng([seed, number, index])
    grade = (np.interp(number, SHELDON, values) for values in (WEAR, LUSTRE, DIRT, MARKS))
    look = Look(*(float(value) * rng.normal(1, SPREAD) for value in grade))

    # From here on, nothing depends on the grade. Most coins have light toning and are lit from above.
    toning = [maximum * rng.uniform() ** 3 for maximum in (0.25, 0.8, 0.4)]
    azimuth, elevation = rng.normal(-100, 45), rng.uniform(38, 55)
    background = rng.choice(BACKGROUNDS) * rng.uniform(0.9, 1.05)
    radius = RADIUS * rng.uniform(0.82, 0.97)
    warmth = rng.normal(0, 0.03)
    exposure = rng.uniform(0.88, 1.08) * np.array((1 + warmth, 1, 1 - warmth), np.float32)
    noise = rng.uniform(1, 4)

    photo = Image.new("RGB", (2 * SIZE, SIZE))
    scenes = draw_scenes(f"{number}", paths[0].stem, np.random.default_rng([seed, number, index, 1]))
    dies = np.random.default_rng([seed, number, index, 2])
    for side, face in enumerate(faces()):
        turn = rng.normal(0, 5)
        centre = SIZE / 2 + SIZE * np.clip(rng.normal(0, 0.012, 2), -0.025, 0.025)
        surface = wear_face(bend(face, dies), look, rng)
        brightness = shade(surface, look, light_direction(azimuth - turn, elevation), rng)
        coin = brightness[..., None] * metal_colour(toning, look.dirt, rng)
        if len(paths) == 2:
            scene, centre, radius = next(scenes)
            paste_coin(scene, coin, turn, centre, radius)
            write_photo(add_noise(scene, exposure, noise, rng), paths[side], on_its_side=index % 2 == 1)
            continue
        half = draw_background(background, light_direction(azimuth, elevation), centre, radius)
        paste_coin(half, coin, turn, centre, radius)
        photo.paste(half, (side * SIZE, 0))
    if len(paths) == 1:
        photo = add_noise(photo, exposure, noise, rng).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
        write_photo(photo, paths[0])


def add_noise(photo: Image.Image, exposure: np.ndarray, noise: float, rng: np.random.Generator) -> Image.Image:
    """Return a photo as a camera with this exposure of each colour and this noise, in grey levels, takes it."""
    pixels = np.asarray(photo) * exposure + noise * rng.standard_normal((photo.height, photo.width, 1), np.float32)
    return to_image(pixels)


def write_photo(photo: Image.Image, path: Path, on_its_side: bool = False) -> None:
    """Write a photo as JPEG; if on its side, EXIF tells how to turn it, as with a phone that was held upright."""
    exif = Image.Exif()
    if on_its_side:
        photo = photo.transpose(Image.Transpose.ROTATE_90)
        exif[ExifTags.Base.Orientation] = 6
    part = path.with_suffix(".partial")
    photo.save(part, "JPEG", quality=JPEG_QUALITY, exif=exif)
    os.replace(part, path)


def draw_scenes(grade: str, certificate: str, rng: np.random.Generator) -> Iterator[tuple[Image.Image, tuple, float]]:
    """Yield what is around a coin in a photo of each face, with the centre and the radius of the coin, in pixels.

    The coin lies on a table, or is in a holder with a label, which tells its grade on the obverse.
    """
    width, height = FACE_PHOTO_SIZE
    in_holder = rng.uniform() < 0.7
    table = rng.uniform(60, 200) * np.array((1, rng.uniform(0.75, 1), rng.uniform(0.55, 0.95)))  # wood, or grey
    for face in FACE_FOLDERS:
        grain = np.asarray(to_image(128 + 4 * random_patches(12, rng)).resize((width, height)), np.float32)
        scene = to_image(table * (grain[..., None] / 128))
        radius = rng.uniform(0.2, 0.27) * width
        x, y = width / 2 + rng.normal(0, 0.03) * width, 0.6 * height + rng.normal(0, 0.02) * height
        if in_holder:
            draw = ImageDraw.Draw(scene)
            left, right, top, bottom = x - 1.75 * radius, x + 1.75 * radius, y - 2.8 * radius, y + 1.7 * radius
            draw.rounded_rectangle((left, top, right, bottom), 0.12 * radius, (226, 228, 230), (170, 172, 176), 6)
            ring = rng.uniform(1.18, 1.3) * radius
            draw.circle((x, y), ring, (214, 216, 219), (150, 152, 156), 8)
            label = (left + 0.15 * radius, top + 0.15 * radius, right - 0.15 * radius, y - 1.75 * radius)
            draw.rectangle(label, (60, 96, 160), (30, 40, 60), 4)
            text = f"COINKIT DEMO MINT\n1970  ONE EPOCH\nGRADE {grade}   {certificate}"
            if face == FACE_FOLDERS[0]:
                draw.multiline_text((label[0] + 20, label[1] + 20), text, (250, 250, 250), font_size=radius / 6)
        shadow = Image.new("L", scene.size)
        ImageDraw.Draw(shadow).circle((x + 0.03 * radius, y + 0.05 * radius), radius, 150)
        scene.paste((20, 20, 20), mask=shadow.filter(ImageFilter.GaussianBlur(0.03 * radius)))
        yield scene, (x, y), radius


def light_direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Return the direction to the light (right, down, up to the camera), of length 1.

    Args:
        azimuth: in degrees; 0 is right, -90 is above.
        elevation: in degrees over the surface of the coin.
    """
    azimuth, elevation = math.radians(azimuth), math.radians(elevation)
    flat = math.cos(elevation)
    return flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)


def draw_background(
    colour: np.ndarray, light: tuple[float, float, float], centre: np.ndarray, radius: float
) -> Image.Image:
    """Return the background with the shadow of a coin, SIZE x SIZE pixels; centre and radius in pixels."""
    coarse = np.linspace(0, SIZE, 100)
    right, down = (coarse[None, :] - centre[0]) / radius, (coarse[:, None] - centre[1]) / radius
    from_shadow = np.hypot(right + 0.05 * light[0], down + 0.05 * light[1])
    shadow = 0.6 * np.exp(-np.maximum(from_shadow - 0.97, 0) / 0.08)
    lit = (1 - shadow) * (1 + 0.12 * (right * light[0] + down * light[1]))
    return to_image(lit[..., None] * colour).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def paste_coin(background: Image.Image, coin: np.ndarray, turn: float, centre: np.ndarray, radius: float) -> None:
    """Paste a face (SIZE, SIZE, 3), turned clockwise by degrees, onto a background; centre and radius in pixels."""
    cut_out = to_image(coin)
    cut_out.putalpha(to_image(255 * RADIUS * (1 - FROM_CENTRE)))
    cos, sin = (RADIUS / radius * ratio(math.radians(turn)) for ratio in (math.cos, math.sin))
    x, y = centre
    affine = (cos, sin, SIZE / 2 - cos * x - sin * y, -sin, cos, SIZE / 2 + sin * x - cos * y)
    cut_out = cut_out.transform(background.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    background.paste(cut_out, mask=cut_out)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels as a grey or RGB image; values are clipped to 0 to 255."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# ---------------------------------------------------------------- wear, marks, light and colour


class Surface(NamedTuple):
    """A worn face; each is (SIZE, SIZE), float32."""

    relief: np.ndarray  # height, 0 to about 1
    recess: np.ndarray  # depth below its surroundings
    bare: np.ndarray  # how much of the mint's surface is rubbed off, 0 to 1


def bend(face: "Face", rng: np.random.Generator) -> "Face":
    """Return a face as another die strikes it: details are about 1 % of the radius away from their places.

    Else coins without wear would be as alike as photos of one coin, and prepare_dataset.py would take them for it.
    """
    place = np.arange(SIZE, dtype=np.float32)
    right, down = place + DIE_SHIFT * random_patches(6, rng), place[:, None] + DIE_SHIFT * random_patches(6, rng)
    return Face(*(cv2.remap(relief, right, down, cv2.INTER_LINEAR) for relief in face))


def wear_face(face: "Face", look: Look, rng: np.random.Generator) -> Surface:
    """Return a face with wear and marks."""
    wear = np.clip(look.wear * (1 + 0.2 * random_patches(5, rng)), 0, 1)
    left = 1 - wear

    # Wear blurs fine detail first, then takes off what stands out from its surroundings, and in the end flattens all.
    to_soft, to_blunt = np.minimum(2 * wear, 1), np.maximum(2 * wear - 1, 0)
    relief = face.sharp + to_soft * (face.soft - face.sharp) + to_blunt * (face.blunt - face.soft)
    detail = relief - face.broad
    limit = 0.015 + 0.5 * left**2
    relief = (0.1 + 0.9 * left) * face.broad + (0.5 + 0.5 * left) * np.clip(detail, -limit, limit)

    high = np.clip(2.2 * (face.sharp - 0.35), 0, 1)
    bare = np.minimum(high * np.minimum(8 * wear, 1) + 1.5 * wear, 1)
    return Surface(relief - dents(look.marks, rng), np.maximum(-detail, 0), bare)


def dents(amount: float, rng: np.random.Generator) -> np.ndarray:
    """Return the depth of random contact marks, scratches and nicks, (SIZE, SIZE), 0 to 0.07."""
    picture = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(picture)

    def add_line(x: float, y: float, length: float, angle: float, depth: float, width: int) -> None:
        right, down = length / 2 * math.cos(angle), length / 2 * math.sin(angle)
        draw.line((x - right, y - down, x + right, y + down), int(255 * depth), width)

    for _ in range(rng.poisson(70 * amount)):  # contact marks
        length, width = 2 + rng.exponential(10), int(rng.integers(1, 4))
        add_line(*rng.uniform(0, SIZE, 2), length, rng.uniform(0, math.pi), rng.uniform(0.1, 1), width)
    for _ in range(rng.poisson(8 * amount)):  # scratches
        length, depth = rng.uniform(80, 400), rng.uniform(0.1, 0.35)
        add_line(*rng.uniform(0, SIZE, 2), length, rng.uniform(0, math.pi), depth, 1)
    for _ in range(rng.poisson(6 * amount)):  # nicks across the rim
        angle = rng.uniform(0, 2 * math.pi)
        x, y = SIZE / 2 + RADIUS * math.cos(angle), SIZE / 2 + RADIUS * math.sin(angle)
        add_line(x, y, rng.uniform(10, 50), angle + rng.normal(0, 0.5), 1, int(rng.integers(2, 7)))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), np.float32) * (0.07 / 255)


def shade(surface: Surface, look: Look, light: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Return the brightness of a face, (SIZE, SIZE), from 0 to slightly above 1 in highlights."""
    slope_down, slope_right = np.gradient(surface.relief * RELIEF_HEIGHT)
    upright = 1 / np.sqrt(1 + slope_right**2 + slope_down**2)
    towards_light = light[0] * slope_right + light[1] * slope_down
    halfway = math.sqrt((1 + light[2]) / 2)  # height of the direction halfway between light and camera (Blinn-Phong)
    lit = np.maximum((light[2] - towards_light) * upright, 0)
    gleam = np.maximum((halfway - towards_light / (2 * halfway)) * upright, 0) ** 12
    worn = 0.12 + 0.5 * lit**2 + 0.22 * gleam

    # The metal of a new coin has fine flow lines from the centre outwards. They shine where they are perpendicular to
    # the light: two bright wedges, the cartwheel effect.
    from_centre = np.maximum(FROM_CENTRE, 0.05)
    outwards = (RIGHT * slope_right + DOWN * slope_down) / from_centre
    sunward = (RIGHT * light[0] + DOWN * light[1]) / from_centre
    along = (sunward / (2 * halfway) + outwards * halfway) / np.sqrt(1 + outwards**2)
    cartwheel = np.exp(-((along / 0.24) ** 2))
    fresh = (0.16 + 0.32 * lit + 0.16 * gleam + 0.42 * cartwheel * upright) * (1 + 0.07 * flow_lines())

    brightness = worn + look.lustre * (1 - surface.bare) * (fresh - worn)
    brightness *= np.exp(-look.dirt * (1 + 0.25 * random_patches(6, rng)) * (0.25 + 8 * surface.recess))
    return 1.28 * brightness * (1 + 0.12 * (RIGHT * light[0] + DOWN * light[1]))


def metal_colour(toning: list[float], dirt: float, rng: np.random.Generator) -> np.ndarray:
    """Return the colours of a face, (SIZE, SIZE, 3), 0 to 255.

    Args:
        toning: its amount everywhere, at the rim, and in patches, 0 to 1.
        dirt: how brown the coin is, 0 to 1.
        rng: for the patches.
    """
    everywhere, at_rim, in_patches = toning
    thickness = everywhere + at_rim * FROM_CENTRE**4 * (1 + 0.4 * random_patches(4, rng))
    thickness += in_patches * np.maximum(random_patches(5, rng), 0)
    steps = np.linspace(0, len(TONING) - 1, 256)
    colours = np.stack([np.interp(steps, range(len(TONING)), channel) for channel in zip(*TONING, strict=True)], axis=1)
    colours *= (1, 1 - 0.04 * dirt, 1 - 0.12 * dirt)
    return colours.astype(np.float32)[np.clip(255 * thickness, 0, 255).astype(np.uint8)]


def random_patches(cells: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise, (SIZE, SIZE), about -2 to 2, interpolated from `cells` x `cells` random values."""
    noise = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@cache
def flow_lines() -> np.ndarray:
    """Return noise that is streaked outwards from the centre, (SIZE, SIZE), of mean 0 and standard deviation 1."""
    noise = Image.fromarray(np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32))
    rays = np.zeros((SIZE, SIZE), np.float32)
    for zoom in np.linspace(0.9, 1, 16):  # the sum of enlarged copies of the noise is streaked
        edge = (1 - zoom) * SIZE / 2
        matrix = (zoom, 0, edge, 0, zoom, edge)
        rays += np.asarray(noise.transform(noise.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    return (rays - rays.mean()) / rays.std()


# ---------------------------------------------------------------- the design


class Face(NamedTuple):
    """The relief of an unworn face at four levels of blur; each is (SIZE, SIZE), float32, from 0 to about 1."""

    sharp: np.ndarray
    soft: np.ndarray
    blunt: np.ndarray
    broad: np.ndarray


@cache
def faces() -> tuple[Face, Face]:
    """Return the obverse and the reverse, which are the same for all coins."""
    obverse, reverse = (Face(*(blur(relief, pixels) for pixels in (1.2, 3, 7, 14))) for relief in (owl(), wreath()))
    return obverse, reverse


def owl() -> np.ndarray:
    """Return the relief of the obverse: an owl on a branch, and stars. The left half mirrors the right one."""
    relief = blank_relief()
    for x, y, size in ((0.56, -0.28, 0.05), (0.66, -0.04, 0.035), (0.5, 0.12, 0.03)):  # stars
        for degrees in range(-90, 270, 72):
            x_tip, y_tip = (
                x + size / 2 * math.cos(math.radians(degrees)),
                y + size / 2 * math.sin(math.radians(degrees)),
            )
            add_petal(relief, x_tip, y_tip, size, size / 2, degrees, 0.3, pointed=True)
    add_petal(relief, 0.1, 0.43, 0.55, 0.035, -4, 0.4)  # branch
    for x, y, degrees in ((0.45, 0.33, -50), (0.36, 0.48, 40), (0.53, 0.45, 25), (0.62, 0.35, -15)):
        add_petal(relief, x, y, 0.1, 0.042, degrees, 0.4, pointed=True)
    for x in (0.1, 0.05, 0):  # tail
        add_petal(relief, x, 0.53, 0.14, 0.04, 90 - 120 * x, 0.35, lean=0.3)

    add_petal(relief, 0, 0.07, 0.43, 0.29, 90, 0.6)  # breast
    add_feathers(relief, 0, 0.05, 0.26, 0.38, 0.062)
    add_petal(relief, 0.245, 0.09, 0.38, 0.13, 98, 0.55)  # wing
    wing = relief.copy()
    for feather in range(6):
        x, y = 0.16 + 0.03 * feather, 0.27 - 0.017 * feather
        add_petal(relief, x, y, 0.21, 0.034, 100 - feather, 0.12, lean=0.4, ground=wing)
    add_feathers(relief, 0.25, -0.02, 0.12, 0.24, 0.052)

    add_petal(relief, 0.17, -0.48, 0.15, 0.065, -62, 0.6, pointed=True)  # ear
    add_petal(relief, 0, -0.31, 0.26, 0.215, 0, 0.75)  # head
    add_feathers(relief, 0, -0.31, 0.23, 0.19, 0.039)
    from_eye, angle = np.hypot(RIGHT - 0.108, DOWN + 0.31), np.arctan2(DOWN + 0.31, RIGHT - 0.108)
    rays = 0.48 + from_eye + 0.035 * np.cos(36 * angle) * np.clip(14 * from_eye - 0.7, 0, 1)
    relief = np.where(from_eye < 0.125, rays, relief)
    add_petal(relief, 0.108, -0.31, 0.058, 0.058, 0, 0.25, ground=0.5)  # eye
    add_petal(relief, 0.108, -0.31, 0.026, 0.026, 0, 0.12, ground=0.8)
    add_petal(relief, 0, -0.23, 0.09, 0.04, 90, 0.35, pointed=True, ground=0.62)  # beak
    for toe in (-1, 0, 1):
        add_petal(relief, 0.1 + toe * 0.035, 0.44, 0.045, 0.019, 90 - 10 * toe, 0.3, ground=0.35)

    mirror(relief)
    add_text(relief, "LEARN BY LOOKING", 0.125, -0.79, bend=0.79)
    add_text(relief, "1970", 0.125, 0.79, bend=-0.79)
    return relief


def wreath() -> np.ndarray:
    """Return the relief of the reverse: the denomination in a laurel wreath. The left half mirrors the right one."""
    relief = blank_relief()
    relief[(np.abs(FROM_CENTRE - 0.565) < 0.012) & (DOWN > -0.5)] = 0.3  # stem
    for degrees in np.linspace(74, -56, 10):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        add_petal(relief, 0.62 * cos, 0.62 * sin, 0.105, 0.042, degrees - 62, 0.42, pointed=True)
        add_petal(relief, 0.51 * cos, 0.51 * sin, 0.105, 0.042, degrees - 118, 0.42, pointed=True)
        add_petal(relief, 0.66 * cos - 0.06 * sin, 0.66 * sin + 0.06 * cos, 0.02, 0.02, 0, 0.4)  # berry
    add_petal(relief, 0.07, 0.55, 0.08, 0.045, -20, 0.5)  # bow
    add_petal(relief, 0.08, 0.63, 0.1, 0.03, 50, 0.4)
    add_petal(relief, 0, 0.57, 0.035, 0.035, 0, 0.6)

    mirror(relief)
    add_text(relief, "ONE", 0.2, -0.13)
    add_text(relief, "EPOCH", 0.2, 0.13)
    add_text(relief, "COINKIT DEMO MINT", 0.125, -0.79, bend=0.79)
    add_text(relief, "FOR TRAINING", 0.11, 0.79, bend=-0.79)
    return relief


def blank_relief() -> np.ndarray:
    """Return a relief with only a rim and a border of beads."""
    relief = np.where(FROM_CENTRE > 0.945, 0.55, 0.1 * FROM_CENTRE**4)
    for angle in np.linspace(0, 2 * math.pi, 112, endpoint=False):
        add_petal(relief, 0.91 * math.cos(angle), 0.91 * math.sin(angle), 0.02, 0.02, 0, 0.35, ground=0.08)
    return relief


def add_petal(
    relief: np.ndarray,
    x: float,
    y: float,
    length: float,
    width: float,
    degrees: float,
    height: float,
    pointed: bool = False,
    lean: float = 0.0,
    ground: np.ndarray | float = 0.0,
) -> None:
    """Add a dome to a relief: an ellipse, or a leaf that is pointed at both ends.

    Args:
        relief: (SIZE, SIZE), changed in place.
        x, y: centre of the dome.
        length, width: from its centre to its ends and to its sides.
        degrees: direction of its tip; 0 is right, 90 is down.
        height: of the dome at its centre.
        pointed: draw a leaf.
        lean: share by which the dome is higher at its tip, and lower at the other end.
        ground: height that the dome is added to, (SIZE, SIZE) or the same everywhere.
    """
    reach = max(length, width)
    rows, columns = (slice(*np.searchsorted(AXIS, (middle - reach, middle + reach))) for middle in (y, x))
    right, down = RIGHT[:, columns] - x, DOWN[rows] - y
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, across = (right * cos + down * sin) / length, (down * cos - right * sin) / width
    inside = 1 - along**2 - (np.abs(across) if pointed else across**2)
    dome = height * np.sqrt(np.maximum(inside, 0)) * (1 + lean * along)
    base = np.broadcast_to(ground, relief.shape)[rows, columns]
    relief[rows, columns] = np.where(inside > 0, base + dome, relief[rows, columns])


def add_feathers(relief: np.ndarray, x: float, y: float, width: float, height: float, size: float) -> None:
    """Cover an ellipse with overlapping rows of feathers, from the lowest row to the highest."""
    ground = relief.copy()
    rows, columns = int(height / size), int(width / size) + 1
    for row in range(rows, -rows - 1, -1):
        for column in range(-columns, columns + 1):
            right, down = (column + row % 2 / 2) * size, row * size
            if (right / width) ** 2 + (down / height) ** 2 < 1:
                add_petal(relief, x + right, y + down, 0.84 * size, 0.6 * size, 90, 2 * size, lean=0.7, ground=ground)


def mirror(relief: np.ndarray) -> None:
    """Replace the left half by the mirror image of the right half."""
    relief[:, : SIZE // 2] = relief[:, : SIZE // 2 - 1 : -1]


def add_text(relief: np.ndarray, text: str, size: float, y: float, bend: float = 1000.0) -> None:
    """Add letters to a relief, on a circle and centred below (y > 0) or above the centre of the coin.

    Args:
        relief: (SIZE, SIZE), changed in place.
        text: the letters.
        size: of the font.
        y: position of the middle of the text.
        bend: radius of the circle; negative if the letters stand on its inside. A large radius makes a straight line.
    """
    unit = 2 * RADIUS  # pixels in a coin's radius; drawn at twice the size for smooth edges
    pixels = size * unit
    font = ImageFont.load_default(pixels)
    advances = [(font.getlength(letter) + 0.16 * pixels) / unit for letter in text]
    picture = Image.new("L", (2 * SIZE, 2 * SIZE))
    position = -sum(advances) / 2
    for letter, advance in zip(text, advances, strict=True):
        turn = (position + advance / 2) / bend
        position += advance
        glyph = Image.new("L", (int(2 * pixels), int(2 * pixels)))
        baseline = (pixels, 1.36 * pixels)  # centres capital letters
        ImageDraw.Draw(glyph).text(baseline, letter, 255, font, "ms", stroke_width=round(pixels / 24))
        left = SIZE + unit * bend * math.sin(turn) - pixels
        top = SIZE + unit * (y + bend * (1 - math.cos(turn))) - pixels
        glyph = glyph.rotate(-math.degrees(turn), Image.Resampling.BICUBIC)
        picture.paste(255, (round(left), round(top)), glyph)
    letters = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX))
    np.maximum(relief, 0.42 / 255 * letters, out=relief)


def blur(relief: np.ndarray, pixels: float) -> np.ndarray:
    """Return a relief blurred by a Gaussian with a standard deviation of `pixels`."""
    frequencies = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.rfftfreq(SIZE) ** 2
    damping = np.exp(-2 * (math.pi * pixels) ** 2 * frequencies)
    return np.fft.irfft2(np.fft.rfft2(relief) * damping, relief.shape).astype(np.float32)


if __name__ == "__main__":
    run(main)
