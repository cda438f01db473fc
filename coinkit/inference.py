"""Grade photos with one or several trained networks, whose logits are averaged."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from coinkit.augment import affine_faces
from coinkit.backbones import make_model, with_defaults
from coinkit.checkpoints import assign_weights, damage_as_user_error, load_checkpoint
from coinkit.classes import Bands
from coinkit.cli import UserError, usable_cores
from coinkit.coin_finder import is_cut_out
from coinkit.dataset import normalise, to_tensor
from coinkit.devices import autocast, choose_dtype, choose_memory_format, device_of
from coinkit.faces import Faces, open_coin
from coinkit.photos import MAX_PIXELS, ONE_FACE, PhotoError, prefetch

BATCH_SIZE = 8  # photos at once

# The views that --tta adds to the photo as it is: each face turned (degrees), and shifted to the left and upwards
# (shares of a face), less than half as far as in training. No view is mirrored, since no real coin is.
TTA_VIEWS = ((-4, 0, 0), (4, 0, 0), (0, -0.015, -0.015), (0, 0.015, 0.015))

UNSURE_BELOW = 0.5  # of bands that validation has not tried: of a calibrated confidence

# Notes on a photo that is not like those of the training.
NOT_CUT_OUT = "not cut out as in training: add --cut"
CUT_OUT = "cut out, unlike in training: train on photos prepared with --cut"


class Network(NamedTuple):
    """A trained network, in eval mode, the temperature that its logits are divided by, and when it is unsure."""

    model: nn.Module
    temperature: float
    unsure_below: float  # the confidence below which its grades are mostly wrong; 0 if that is not known
    unsure_band_below: float  # the same for the bands that the grades are in
    cut_out: bool | None  # whether the coins in its training photos were cut out; None if that is not known

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photos that it takes, in pixels."""
        return self.model.image_width, self.model.image_height


class LoadedPhoto(NamedTuple):
    """A photo at each size that a network takes, (3, height, width), uint8; and notes on it."""

    pixels: dict[tuple[int, int], Tensor]
    notes: list[str]


class AnswerInBands(nn.Module):
    """A trained network that answers in bands, for heatmaps: its logits are the logarithms of their probabilities.

    Args:
        network: which names the grades.
        bands: of these.
    """

    def __init__(self, network: Network, bands: Bands):
        super().__init__()
        self.model, self.temperature = network.model, network.temperature
        self.log_members = torch.from_numpy(bands.members).log().to(device_of(network.model))
        self.image_width, self.image_height = network.size
        self.heatmap_layer = f"model.{network.model.heatmap_layer}"

    def forward(self, photos: Tensor) -> Tensor:
        """Return the logits of the bands, (N, bands), for photos as the network takes them."""
        log_probabilities = (self.model(photos).float() / self.temperature).log_softmax(dim=1)
        return (log_probabilities[:, :, None] + self.log_members).logsumexp(dim=1)


def build_model(checkpoint: dict, path: Path) -> nn.Module:
    """Return the trained network of a checkpoint that was loaded from `path`, ready to predict.

    What the checkpoint is too old to have is added to it: options of the network, and `cut_out`, as not known.

    Raises:
        UserError: parts of it do not fit together.
    """
    classes = checkpoint["classes"]
    with damage_as_user_error(path):
        checkpoint["architecture"] = with_defaults(checkpoint["model"], checkpoint["architecture"])
        with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
            model = make_model(checkpoint["model"], len(classes), checkpoint["architecture"]).eval()
        width, height = model.image_width, model.image_height
        if min(width, height) < 1 or width % 2 or width * height > MAX_PIXELS:
            raise ValueError(f"photos of {width}x{height} pixels")
        if not all(isinstance(name, str) for name in classes) or not checkpoint["temperature"] > 0:
            raise ValueError("wrong grades or temperature")
        if not isinstance(checkpoint.setdefault("cut_out", None), bool | None):
            raise ValueError("cut_out is neither true nor false")
        assign_weights(checkpoint["model_state_dict"], model, path.stat().st_size)
    return model.float()  # export.py can write weights in fp16


def load_networks(paths: list[Path], device: torch.device) -> tuple[list[Network], list[str]]:
    """Load checkpoints, and return and raise what `build_networks` does."""
    return build_networks({path: load_checkpoint(path) for path in paths}, device)


def build_networks(checkpoints: dict[Path, dict], device: torch.device) -> tuple[list[Network], list[str]]:
    """Return the networks of checkpoints, given by their paths, and the grades that they all know.

    Raises:
        UserError: a checkpoint cannot be used, or knows other grades than the first.
    """
    networks, dtype = [], choose_dtype("auto", device)
    first, classes = next((path, checkpoint["classes"]) for path, checkpoint in checkpoints.items())
    for path, checkpoint in checkpoints.items():
        if checkpoint["classes"] != classes:
            raise UserError(f"{path} has other grades than {first}: average checkpoints of the same grades.")
        model = build_model(checkpoint, path).to(device, memory_format=choose_memory_format(dtype))
        values = (checkpoint[name] for name in ("temperature", "unsure_below", "unsure_band_below", "cut_out"))
        networks.append(Network(model, *values))
    return networks, classes


def grade_photos(
    networks: list[Network], paths: Sequence[Path | Faces], tta: bool
) -> Iterator[tuple[Path | Faces, tuple[Tensor, list[str]] | PhotoError]]:
    """Yield each path with the probabilities of its grades, (classes,), and notes; or with the error in reading it.

    Args:
        networks: on one device, all with the same grades.
        paths: of the photos, or of the faces to cut out.
        tta: average over `TTA_VIEWS` too.
    """
    sizes, cut_out = {network.size for network in networks}, {network.cut_out for network in networks}
    read = partial(read_photo, sizes=sizes, cut_out=cut_out)
    with ThreadPoolExecutor(usable_cores()) as pool:
        photos = zip(paths, prefetch(pool, read, paths, ahead=2 * BATCH_SIZE), strict=True)
        while batch := list(islice(photos, BATCH_SIZE)):
            readable = [photo for _, photo in batch if isinstance(photo, LoadedPhoto)]
            probabilities = iter(mean_probabilities(networks, readable, tta) if readable else ())
            for path, photo in batch:
                yield path, (next(probabilities), photo.notes) if isinstance(photo, LoadedPhoto) else photo


def read_photo(path: Path | Faces, sizes: set[tuple[int, int]], cut_out: set[bool | None]) -> LoadedPhoto | PhotoError:
    """Return a photo at these sizes (width, height), with notes on it; or the error, if it cannot be read.

    Args:
        path: of the photo, or the faces to cut out.
        sizes: in pixels.
        cut_out: of the networks.
    """
    try:
        opened = {size: open_coin(path, *size) for size in sizes}
    except PhotoError as error:
        return error
    coin = opened[min(sizes)]
    notes, (width, height) = coin.notes, coin.original_size
    if any(width < wanted_width and height < wanted_height for wanted_width, wanted_height in sizes):
        notes.append("small")
    if True in cut_out and ONE_FACE not in notes and not is_cut_out(coin.photo):
        notes.append(NOT_CUT_OUT)
    if False in cut_out and isinstance(path, Faces):
        notes.append(CUT_OUT)
    return LoadedPhoto({size: to_tensor(coin.photo) for size, coin in opened.items()}, notes)


@torch.inference_mode()
def mean_probabilities(networks: list[Network], photos: list[LoadedPhoto], tta: bool) -> Tensor:
    """Return the probabilities of the grades, (N, classes): the mean over networks and, with `tta`, over views.

    It averages calibrated logits. Averaged probabilities would be less confident than they are accurate
    (docs/experiments.md).
    """
    logits, device = [], device_of(networks[0].model)
    dtype = choose_dtype("auto", device)
    for network in networks:
        pixels = torch.stack([photo.pixels[network.size] for photo in photos]).to(device)
        for view in views(pixels, tta):
            with autocast(device, dtype):
                view = normalise(view).to(memory_format=choose_memory_format(dtype))
                logits.append(network.model(view).float() / network.temperature)
    return torch.stack(logits).mean(dim=0).softmax(dim=1).cpu()


def views(photos: Tensor, tta: bool) -> Iterator[Tensor]:
    """Yield photos (N, 3, H, W), uint8, as they are and, with `tta`, in `TTA_VIEWS`, 0.0 to 1.0."""
    yield photos
    for degrees, *shift in TTA_VIEWS if tta else ():
        faces = 2 * len(photos)
        angle = torch.full((faces,), math.radians(degrees), device=photos.device)
        shift = torch.tensor(shift, device=photos.device).expand(faces, 2)
        yield affine_faces(photos.float() / 255, angle, torch.ones_like(angle), shift)
