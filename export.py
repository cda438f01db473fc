"""Export a trained network, for use elsewhere: coin_classifier_custom_best.pth -> coin_classifier.onnx

    python export.py                                    ONNX: ONNX Runtime grades photos with it, without PyTorch
    python export.py --precision fp16                   ONNX, half the size; int8: FC layers a quarter
    python export.py --weights-only                     coin_classifier.pth: predict.py reads it; no optimizer state
    python export.py --weights-only --precision fp16    the same, half the size

ONNX needs more packages: pip install -r requirements-export.txt. Photos of the test split are graded to compare the
exported model with the checkpoint. If their probabilities differ, nothing is written. With --precision fp16 or int8, a
difference is to be expected, and is printed.
"""

if __name__ == "__main__":
    import coinkit.quiet_start  # noqa: F401

import argparse
import importlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coin_classifier_custom import BEST  # the module also adds its network to BACKBONES
from coinkit.checkpoints import NEEDED_TO_PREDICT, load_checkpoint, save_tensors
from coinkit.cli import ArgumentParser, UserError, quoted, run, usable_cores
from coinkit.dataset import MEAN, STD, PhotoReader, find_split, normalise, read_batches
from coinkit.files import atomic_write
from coinkit.inference import BATCH_SIZE, build_model
from coinkit.photos import DATASET

ONNX = Path("coin_classifier.onnx")
WEIGHTS = Path("coin_classifier.pth")
PHOTOS = DATASET / "test"

MAX_DIFFERENCE = 1e-4  # of a probability, between the checkpoint and a model exported in fp32
MAX_PHOTOS = 200  # graded for the comparison, spread over all grades
MAX_ONNX_BYTES = 2**31  # an ONNX file is a Protocol Buffers message, which cannot be larger
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # those of requirements-export.txt
INSTALL = "pip install numpy onnxruntime pillow pillow-heif"  # what the program in docs/onnx.md needs
# Of a checkpoint, with --weights-only; by `training_photos`, evaluate.py knows photos that it has learned
SHARED_KEYS = {*NEEDED_TO_PREDICT, "format_version", "best_val_acc", "cut_out", "training_photos"}


class Grader(nn.Module):
    """A network with its preprocessing and its temperature: from pixels to calibrated probabilities."""

    def __init__(self, checkpoint: dict, path: Path):
        super().__init__()
        self.model, self.temperature = build_model(checkpoint, path), checkpoint["temperature"]
        self.eval()

    def forward(self, photos: Tensor) -> Tensor:
        """Return probabilities (N, classes) of photos (N, H, W, 3), RGB, uint8."""
        # Contiguous, since torch's group norm is less exact where the channels lie last.
        logits = self.model(normalise(photos.permute(0, 3, 1, 2).contiguous()))
        return (logits / self.temperature).softmax(dim=1)


def main() -> None:
    """Run the command."""
    args = parse_arguments()
    if not args.weights_only:
        require_onnx_packages()
    checkpoint = load_checkpoint(args.checkpoint)
    grader = Grader(checkpoint, args.checkpoint)
    photos, labels = read_photos(args.photos, checkpoint["classes"], grader.model)
    expected = grade_all(grader, photos)

    with atomic_write(args.output) as partial:
        if args.weights_only:
            save_tensors({key: checkpoint[key] for key in SHARED_KEYS if key in checkpoint}, partial)
        else:
            save_onnx(grader, checkpoint, partial)
        print(f"Compared on {len(photos)} photos of {args.photos}:")
        print_result("checkpoint", args.checkpoint, expected, expected, labels)
        written = grade_all(open_grader(partial, args.weights_only), photos)
        difference = print_result("fp32", partial, written, expected, labels)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(f"the exported model differs by more than {MAX_DIFFERENCE}, so it was not written.")
        if args.precision != "fp32":
            shrink = shrink_weights if args.weights_only else shrink_onnx
            shrink(partial, args.precision)
            smaller = grade_all(open_grader(partial, args.weights_only), photos)
            if np.isnan(print_result(args.precision, partial, smaller, expected, labels)):
                raise UserError(f"some numbers are too large for {args.precision}, so the model was not written.")
    print(f"\nThe model is in {args.output}.", end=" ")
    if args.weights_only:
        print(f"Next: python predict.py --checkpoint {quoted(args.output)} photo.jpg")
    else:
        print(f"Next, on the computer that is to run it: {INSTALL}, and then the program in docs/onnx.md.")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, checked."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path(BEST), help="the trained network")
    add("--output", type=Path, help=f"file to write (default: {ONNX}, or {WEIGHTS} with --weights-only)")
    photos_help = f"folder of <grade>/ folders; up to {MAX_PHOTOS} photos are graded for the comparison"
    add("--photos", type=Path, default=PHOTOS, help=photos_help)
    add("--weights-only", action="store_true", help="write a checkpoint without optimizer state, for predict.py")
    add("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the weights; int8: FC layers only")
    args = parser.parse_args()
    args.output = args.output or (WEIGHTS if args.weights_only else ONNX)
    if args.weights_only and args.precision == "int8":
        parser.error("--weights-only goes with --precision fp32 or fp16")
    suffix = WEIGHTS.suffix if args.weights_only else ONNX.suffix
    if args.output.suffix.lower() != suffix:  # a photo, for example, which would be overwritten
        parser.error(f"--output: give a name that ends in {suffix}")
    if args.output.is_dir():
        parser.error(f"--output {args.output} is a folder: give the name of a file")
    if os.path.realpath(args.output) == os.path.realpath(args.checkpoint):
        parser.error("--output would replace the checkpoint: give it another name")
    return args


def require_onnx_packages() -> None:
    """Make sure that the packages for ONNX can be imported.

    Raises:
        UserError: one cannot.
    """
    try:
        for package in ONNX_PACKAGES:
            importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"ONNX needs more packages: pip install -r requirements-export.txt ({error})") from None


# ---------------------------------------------------------------- writing


def save_onnx(grader: Grader, checkpoint: dict, path: Path) -> None:
    """Write an ONNX model whose input is "photos" (N, H, W, 3), RGB, uint8; its output is "probabilities" (N, classes).

    Raises:
        UserError: it is too large for an ONNX file.
    """
    import onnxscript

    model = grader.model
    if sum(tensor.nbytes for tensor in grader.state_dict().values()) >= MAX_ONNX_BYTES:
        raise UserError("an ONNX file holds at most 2 GB, and this network is larger: use --weights-only.")
    program = torch.onnx.export(
        grader,
        (torch.zeros(2, model.image_height, model.image_width, 3, dtype=torch.uint8),),
        input_names=["photos"],
        output_names=["probabilities"],
        dynamic_shapes=({0: "N"},),
        dynamo=True,
        verbose=False,
    )
    # Standardise the weights of convolutions now, not each time the model is loaded.
    onnxscript.optimizer.fold_constants(
        program.model, input_size_limit=MAX_ONNX_BYTES, output_size_limit=MAX_ONNX_BYTES
    )
    preprocessing = {
        "image_width": model.image_width,
        "image_height": model.image_height,
        "pixels": "RGB, 0 to 255, (N, height, width, 3)",
        "mean": MEAN,  # mean, std and temperature are for information: the model applies them itself
        "std": STD,
        "temperature": grader.temperature,
    }
    for node in program.model.graph:
        node.metadata_props.clear()  # paths of source files on this computer
    values = {"classes": checkpoint["classes"], **preprocessing}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in values.items()})
    program.save(path, external_data=False)


def shrink_onnx(path: Path, precision: str) -> None:
    """Convert an ONNX model to fp16, or the weights of its fully connected layers, most of its size, to int8."""
    if precision == "fp16":
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    else:
        from onnxruntime.quantization import quantize_dynamic

        logging.disable(logging.WARNING)  # it recommends a preprocessing that changes nothing here
        # Convolutions stay in fp32: in int8, ONNX Runtime takes several times as long for them on a CPU.
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)


def shrink_weights(path: Path, precision: str) -> None:
    """Convert a checkpoint's weights to fp16; `build_model` converts them back to fp32."""
    checkpoint = load_checkpoint(path, mmap=False)
    state = checkpoint["model_state_dict"]
    checkpoint["model_state_dict"] = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    save_tensors(checkpoint, path)


# ---------------------------------------------------------------- comparing


def read_photos(folder: Path, classes: list[str], model: nn.Module) -> tuple[Tensor, np.ndarray]:
    """Return up to `MAX_PHOTOS` photos of a folder, (N, H, W, 3), RGB, uint8, and the indices of their classes, (N,).

    Those that cannot be read are named and left out.

    Raises:
        UserError: there are none that can be read.
    """
    split = find_split(folder, classes)
    if not len(split.paths):
        raise UserError(
            f"no photos in {folder}/<grade>/ to compare the models on: name a folder that has some with --photos."
        )
    count = min(len(split.paths), MAX_PHOTOS)
    chosen = torch.arange(count) * len(split.paths) // count
    with ThreadPoolExecutor(usable_cores()) as pool:
        read = PhotoReader(model.image_width, model.image_height, max_unreadable=count)
        ((photos, indices),) = read_batches(split.paths, chosen, count, read, pool)
    if not len(photos):
        raise UserError(f"none of the photos in {folder} can be read: name another folder with --photos.")
    return photos.permute(0, 2, 3, 1).contiguous(), split.labels[indices].numpy()


def open_grader(path: Path, weights_only: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that grades photos as `Grader` does, with the model in a file that was just written."""
    if weights_only:
        return Grader(load_checkpoint(path, mmap=False), path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda photos: torch.from_numpy(session.run(["probabilities"], {"photos": photos.numpy()})[0])


@torch.inference_mode()
def grade_all(grade: Callable[[Tensor], Tensor], photos: Tensor) -> np.ndarray:
    """Return the probabilities of photos, (N, classes), computed in batches."""
    return torch.cat([grade(batch) for batch in photos.split(BATCH_SIZE)]).numpy()


def print_result(name: str, path: Path, probabilities: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> float:
    """Print size, accuracy and the largest difference of a probability from the checkpoint's, and return the latter.

    Args:
        name: of the model.
        path: of its file.
        probabilities, expected: (N, classes), by this model and by the checkpoint.
        labels: (N,), the indices of the true classes.
    """
    difference = np.abs(probabilities - expected).max()
    accuracy = np.mean(probabilities.argmax(axis=1) == labels)
    megabytes = path.stat().st_size / 1e6
    print(
        f"  {name:10} {megabytes:7.1f} MB   accuracy {accuracy:6.1%}   probabilities differ by up to {difference:.2g}"
    )
    return difference


if __name__ == "__main__":
    run(main)
