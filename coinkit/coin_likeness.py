"""How alike two photos are where it counts: the coin's fine details, after laying one coin onto the other.

Coins of one type have the same design, and the same stand or slab may surround them. So it is not the mean over the
photo that counts, but the places that are least alike: the date, the wear, the marks.
"""

from functools import cache, cached_property

import cv2
import numpy as np
from PIL import Image
from scipy import fft

FACE = 128  # pixels along each side of a face
FINE, COARSE = 1, 4  # widths in pixels of the Gaussians whose difference is what counts as details
PLACE = 33  # pixels along each side of a place that is compared by itself
LEAST_ALIKE = 0.1  # this share of the places may be less alike than the likeness that is returned
LEAST_VARIANCE = 1.0  # of the details in a place, in grey levels squared; in a smoother place, there is nothing to see
HOPELESS = 0.6  # a likeness that no finer search would lift far enough

# How one face may lie on the other: shrunk or enlarged, turned, and shifted. All poses are tried on small faces.
SCALES = np.exp(np.arange(-5, 6) * 0.03)
ANGLES = np.arange(-6, 7, 1.5)  # degrees
MAX_SHIFT = 0.1  # as a share of the face's side
SMALL_FACE = 64
POSES = [(scale, angle) for scale in SCALES for angle in ANGLES]

BORDER_TOLERANCE = 24  # grey levels by which pixels of a border may differ
BORDER_SPECKS = 0.01  # share of the pixels of a line that may differ by more


def read_faces(photo: Image.Image) -> np.ndarray:
    """Return the obverse and the reverse of a photo in grey, (2, FACE, FACE), float32."""
    grey = photo.convert("L").resize((2 * FACE, FACE), Image.Resampling.BICUBIC)
    return np.stack(np.split(np.asarray(grey, dtype=np.float32), 2, axis=1))


def trim_border(photo: Image.Image) -> Image.Image:
    """Cut off the border, or the ground around the coins, if it has one colour; what is left may have any shape."""
    for _ in range(3):  # a frame around a white ground is two borders
        grey = np.asarray(photo.convert("L"), dtype=np.int16)
        differs = abs(grey - np.median(grey[[0, 0, -1, -1], [0, -1, 0, -1]])) > BORDER_TOLERANCE
        rows, columns = (np.flatnonzero(differs.mean(axis=axis) > BORDER_SPECKS) for axis in (1, 0))
        if not len(rows) or not len(columns):
            break
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if box == (0, 0, *photo.size) or min(box[2] - box[0], box[3] - box[1]) < 16:
            break
        photo = photo.crop((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1))  # the edge of a border is not sharp
    return photo


class FacePair:
    """The two faces of a coin, (2, FACE, FACE), grey levels from 0 to 255, to be compared with others."""

    def __init__(self, faces: np.ndarray):
        self.faces = faces

    @cached_property
    def poses(self) -> list[np.ndarray]:
        """The details of each small face in all poses, as Fourier transforms."""
        return [_transform_poses(_shrink(face), POSES) for face in self.faces]

    def likeness(self, other: "FacePair") -> float | None:
        """Return how alike two coins are: the correlation of details in the places that are least alike.

        Returns:
            -1 to 1; above 0.84 it is the same coin (tests/test_real_coins.py); None if the photos have no details.
        """
        poses = [
            POSES[_best_pose(transforms, _shrink(face))[0]]
            for transforms, face in zip(self.poses, other.faces, strict=True)
        ]
        likeness = self._likeness_in(other, [[pose] for pose in poses])
        if likeness is None or likeness < HOPELESS:
            return likeness
        nearby = [
            [(scale * factor, angle + turn) for factor in (0.985, 1, 1.015) for turn in (-0.75, 0, 0.75)]
            for scale, angle in poses
        ]
        closer = self._likeness_in(other, nearby)
        return likeness if closer is None else max(likeness, closer)

    def _likeness_in(self, other: "FacePair", poses: list[list[tuple[float, float]]]) -> float | None:
        """Return the likeness in the best of some poses of each face."""
        faces = zip(self.faces, other.faces, poses, strict=True)
        places = np.concatenate([_compare_places(*pair) for pair in faces])
        return float(np.quantile(places, LEAST_ALIKE)) if len(places) else None


def _compare_places(face: np.ndarray, other: np.ndarray, poses: list[tuple[float, float]]) -> np.ndarray:
    """Lay `face` onto `other` and return the correlations of the places that have details, (places,)."""
    best, shift = _best_pose(_transform_poses(face, poses), other)
    details, other_details = np.roll(_details(_turn(face, *poses[best])), shift, (0, 1)), _details(other)
    variance, other_variance, covariance = (
        cv2.blur(product, (PLACE, PLACE), borderType=cv2.BORDER_REFLECT)
        for product in (details**2, other_details**2, details * other_details)
    )
    places = (np.maximum(variance, other_variance) > LEAST_VARIANCE) & (_radius(FACE) < 0.7)
    return covariance[places] / np.sqrt(variance * other_variance + 1e-6)[places]


def _transform_poses(face: np.ndarray, poses: list[tuple[float, float]]) -> np.ndarray:
    """Return the Fourier transforms of the details of a square face in each pose; all have the same energy."""
    face = _details(face)  # of one picture, and not of each pose, which would take twice the time
    details = np.stack([_turn(face, *pose) for pose in poses]) * _disc(len(face))
    return fft.rfft2(details / (np.linalg.norm(details, axis=(1, 2), keepdims=True) + 1e-6))


def _best_pose(transforms: np.ndarray, other: np.ndarray) -> tuple[int, tuple[int, int]]:
    """Return which pose correlates best with `other`, and by how many pixels it must be shifted down and right."""
    side, reach = len(other), round(MAX_SHIFT * len(other))
    shifts = np.arange(-reach, reach + 1)
    rows = fft.ifft(fft.rfft2(_details(other) * _disc(side)) * transforms.conj(), axis=1)[:, shifts]
    correlation = fft.irfft(rows, side, axis=2)[:, :, shifts]
    pose, down, right = np.unravel_index(correlation.argmax(), correlation.shape)
    return int(pose), (int(shifts[down]), int(shifts[right]))


def _shrink(face: np.ndarray) -> np.ndarray:
    """Return a face of SMALL_FACE pixels along each side."""
    factor = len(face) // SMALL_FACE
    return face.reshape(SMALL_FACE, factor, SMALL_FACE, factor).mean(axis=(1, 3))


def _turn(face: np.ndarray, scale: float, degrees: float) -> np.ndarray:
    """Return a face shrunk by a factor and turned about its centre."""
    centre = (len(face) - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), degrees, scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(face, matrix, face.shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _details(face: np.ndarray) -> np.ndarray:
    """Return a face without its noise and without its broad lights and shadows."""
    fine, coarse = (cv2.GaussianBlur(face, (0, 0), width, borderType=cv2.BORDER_REFLECT) for width in (FINE, COARSE))
    return fine - coarse


@cache
def _radius(side: int) -> np.ndarray:
    """Return how far each pixel of a square is from its centre, in half sides, (side, side)."""
    down, right = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return np.hypot(down, right)


@cache
def _disc(side: int) -> np.ndarray:
    """Return 1 where a coin may be, 0 in the corners, (side, side), float32."""
    return (_radius(side) < 0.8).astype(np.float32)
