"""Augmentation: random changes to training photos. To add one, write a function for it and name it in `STEPS`.

A photo shows two faces of a coin, one in each half of the width. Each face is moved and lit by itself; colour changes
for the whole photo. Photos are never mirrored, since no real coin is a mirror image. Random numbers are drawn on the
CPU, so that every device trains on the same photos.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# The largest change at a strength of 1, in both directions
ROTATION = 20  # degrees
SHIFT = 0.04  # share of a face
ZOOM = 0.1  # share
GAMMA = 0.4  # of the logarithm of gamma, the exponent of brightness
LIGHT = 0.3  # share by which the light falls off to one side of a face
COLOUR = 0.3  # share by which brightness, saturation and contrast change
GREYSCALE = 0.5  # probability, at any strength, that a photo becomes grey, so that the network learns wear, not colour


def augment(photos: Tensor, strength: float) -> Tensor:
    """Change photos as another photographer might have taken them: turned, shifted, in other light, without colour.

    Args:
        photos: (N, 3, H, W), uint8.
        strength: multiplies the changes above; 0 leaves photos as they are.

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
    """Make each face of photos (N, 3, H, W), 0 to 1, darker or brighter, with light from one side."""
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
    """Make some of the photos (N, 3, H, W) grey."""
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
    """Turn, zoom and shift each face of photos. The pixels at its border fill what is then empty.

    Args:
        photos: (N, 3, H, W), float.
        angle: (2N,), in radians; left and right face of the first photo, then of the second, ...
        zoom: (2N,), the share of a face that is seen; above 1, the coin becomes smaller.
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
    """Change the light on each face of photos: its brightness, and how much of it comes from one side.

    Args:
        photos: (N, 3, H, W), float, 0 to 1.
        gamma: (2N,), the exponent of brightness; above 1, middle tones become darker.
        slope: (2N, 2), the share by which light increases from the middle of a face to its right and its lower edge.

    Returns:
        (N, 3, H, W), 0 or more; above 1 where the light is strong.
    """
    faces = photos.unflatten(3, (2, -1))
    gamma, to_right, downwards = (values.view(-1, 1, 1, 2, 1) for values in (gamma, *slope.unbind(1)))
    x = torch.linspace(-1, 1, faces.shape[4], device=photos.device)
    y = torch.linspace(-1, 1, faces.shape[2], device=photos.device).view(-1, 1, 1)
    return (faces**gamma * (1 + to_right * x + downwards * y)).flatten(3)
