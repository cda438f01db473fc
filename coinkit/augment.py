"""Augmentation: what makes training photos vary, one function a step. To add one, write it and name it in `STEPS`.

Each face, one half of the width, moves on its own and has its own light; colour is that of the whole photo. Coins are
never mirrored, since no real coin is. Random numbers are drawn on the CPU, so that every device sees the same photos.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# How far each step goes at a strength of 1, to both sides
ROTATION = 20  # degrees
SHIFT = 0.04  # share of a face
ZOOM = 0.1  # share
GAMMA = 0.4  # logarithm of the exponent
LIGHT = 0.3  # share by which the light falls off to one side of a face
COLOUR = 0.3  # share by which brightness, saturation and contrast change
GREYSCALE = 0.5  # probability that a photo loses its colour, so that wear counts by itself; at any strength


def augment(photos: Tensor, strength: float) -> Tensor:
    """Show the same coins as another photographer might have: turned, shifted, in other light, without colour.

    Args:
        photos: (N, 3, H, W), uint8.
        strength: multiplies the limits above; 0 leaves photos as they are.

    Returns:
        (N, 3, H, W), float, 0 to 1.
    """
    photos = photos.float() / 255
    for step in STEPS if strength else ():
        photos = step(photos, strength)
    return photos.clamp(0, 1)


def random_affine(photos: Tensor, strength: float) -> Tensor:
    """Turn, zoom and shift each face of photos (N, 3, H, W)."""
    faces = 2 * len(photos)
    angle = uniform(photos, faces) * math.radians(strength * ROTATION)
    zoom = 1 + uniform(photos, faces) * strength * ZOOM
    return affine_faces(photos, angle, zoom, shift=uniform(photos, faces, 2) * strength * SHIFT)


def random_light(photos: Tensor, strength: float) -> Tensor:
    """Make each face of photos (N, 3, H, W), 0 to 1, darker or brighter, and more so to one side."""
    faces = 2 * len(photos)
    gamma = torch.exp(uniform(photos, faces) * strength * GAMMA)
    return relight_faces(photos, gamma, slope=uniform(photos, faces, 2) * strength * LIGHT)


def random_colour(photos: Tensor, strength: float) -> Tensor:
    """Change brightness, saturation and contrast of photos (N, 3, H, W)."""
    brightness, contrast, saturation = 1 + uniform(photos, 3, len(photos), 1, 1, 1) * strength * COLOUR
    photos = photos * brightness
    photos = greyscale(photos) * (1 - saturation) + photos * saturation
    mean = photos.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (photos - mean) * contrast


def random_greyscale(photos: Tensor, strength: float) -> Tensor:
    """Take the colour from some of the photos (N, 3, H, W)."""
    grey = (torch.rand(len(photos)) < GREYSCALE).view(-1, 1, 1, 1).to(photos.device)
    return torch.where(grey, greyscale(photos), photos)


STEPS = (random_affine, random_light, random_colour, random_greyscale)  # in the order in which they run


def uniform(photos: Tensor, *shape: int) -> Tensor:
    """Return random numbers from -1 to 1 of this shape, on the device of the photos."""
    return torch.empty(shape).uniform_(-1, 1).to(photos.device)


def greyscale(photos: Tensor) -> Tensor:
    """Return the mean of the colours of photos (N, 3, H, W): (N, 1, H, W)."""
    return photos.mean(dim=1, keepdim=True)


def affine_faces(photos: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Turn, zoom and shift each face of photos, one half of the width; the border is repeated where nothing is left.

    Args:
        photos: (N, 3, H, W), float.
        angle: (2N,), in radians; obverse and reverse of the first photo, then of the second, ...
        zoom: (2N,), how much of a face is seen; above 1, it becomes smaller.
        shift: (2N, 2), to the left and upwards, in shares of a face.

    Returns:
        (N, 3, H, W).
    """
    count, _, height, width = photos.shape
    faces = photos.unflatten(3, (2, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    face_aspect = height / (width / 2)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    left, up = (2 * shift).unbind(1)  # the grid goes from -1 to 1
    rows = torch.stack([cos, -sin * face_aspect, left, sin / face_aspect, cos, up], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(faces.shape), align_corners=False)
    faces = F.grid_sample(faces, grid, padding_mode="border", align_corners=False)
    return faces.unflatten(0, (count, 2)).permute(0, 2, 3, 1, 4).flatten(3)


def relight_faces(photos: Tensor, gamma: Tensor, slope: Tensor) -> Tensor:
    """Light each face of photos, one half of the width: brighter or darker, and more from one side.

    Args:
        photos: (N, 3, H, W), float, 0 to 1.
        gamma: (2N,), the exponent of brightness; above 1, middle tones become darker.
        slope: (2N, 2), by which share the light grows from the middle to the right edge of a face, and to the lower.

    Returns:
        (N, 3, H, W), from 0; where the light is strong, above 1.
    """
    faces = photos.unflatten(3, (2, -1))
    gamma, to_right, downwards = (values.view(-1, 1, 1, 2, 1) for values in (gamma, *slope.unbind(1)))
    x = torch.linspace(-1, 1, faces.shape[4], device=photos.device)
    y = torch.linspace(-1, 1, faces.shape[2], device=photos.device).view(-1, 1, 1)
    return (faces**gamma * (1 + to_right * x + downwards * y)).flatten(3)
