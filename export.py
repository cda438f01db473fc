"""Take a trained model elsewhere: coin_classifier_custom_best.pth -> coin_classifier.onnx

    python export.py                                    for ONNX Runtime, without PyTorch; the README shows how
    python export.py --precision fp16                   in half the size; int8: FC layers in a quarter
    python export.py --weights-only                     coin_classifier.pth, for predict.py: without what training needs
    python export.py --weights-only --precision fp16    that in half the size

The exported model grades photos of the test split before its file takes its place. If it does not give the
probabilities that the checkpoint gives, nothing is written; with a smaller precision, it says what that costs.
"""

import argparse
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from coin_classifier_custom import BEST, build_model
from coinkit.checkpoints import NEEDED_TO_PREDICT, load_checkpoint, save_tensors
from coinkit.cli import ArgumentParser, UserError, run, usable_cores
from coinkit.dataset import MEAN, STD, PhotoReader, find_split, normalise, read_batches
from coinkit.files import atomic_write
from coinkit.inference import BATCH_SIZE
from coinkit.photos import DATASET

ONNX = Path("coin_classifier.onnx")
WEIGHTS = Path("coin_classifier.pth")
PHOTOS = DATASET / "test"

MAX_DIFFERENCE = 1e-4  # of a probability, between the checkpoint and what is exported in fp32
MAX_PHOTOS = 200  # to check it on, spread over all grades
MAX_ONNX_BYTES = 2**31  # of a file in ONNX's format, Protocol Buffers
SHARED = {*NEEDED_TO_PREDICT, "format_version", "best_val_acc"}  # keys of a checkpoint that is to be shared


class Grader(nn.Module):
    """A network with what comes before and after it: from pixels as Pillow gives them to calibrated probabilities."""

    def __init__(self, checkpoint: dict, path: Path):
        super().__init__()
        self.model, self.temperature = build_model(checkpoint, path), checkpoint["temperature"]
        self.eval()

    def forward(self, photos: Tensor) -> Tensor:
        """Return probabilities (N, classes) of photos (N, H, W, 3), RGB, uint8."""
        # Contiguous, since torch's group norm is less exact where the channels lie last.
        logits = self.model(normalise(photos.permute(0, 3, 1, 2).contiguous()))
        return (logits / self.temperature).softmax(dim=1)


class Check(NamedTuple):
    """Photos, and how the checkpoint grades them."""

    photos: Tensor  # (N, H, W, 3), RGB, uint8
    labels: np.ndarray  # (N,), the indices of the true classes
    probabilities: np.ndarray  # (N, classes)


def main() -> None:
    """Run the command."""
    args = parse_arguments()
    checkpoint = load_checkpoint(args.checkpoint)
    grader = Grader(checkpoint, args.checkpoint)
    photos, labels = read_photos(args.photos, checkpoint["classes"], grader.model)
    check = Check(photos, labels, grade_all(grader, photos))

    with atomic_write(args.output) as partial:
        if args.weights_only:
            save_tensors({key: checkpoint[key] for key in SHARED if key in checkpoint}, partial)
        else:
            save_onnx(grader, checkpoint, partial)
        print(f"Checked on {len(photos)} photos of {args.photos}:")
        print_result("checkpoint", args.checkpoint, check.probabilities, check)
        difference = print_result("fp32", partial, grade_all(open_grader(partial, args.weights_only), photos), check)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(f"the exported model differs by more than {MAX_DIFFERENCE}, so it was not written.")
        if args.precision != "fp32":
            shrink = shrink_weights if args.weights_only else shrink_onnx
            shrink(partial, args.precision)
            smaller = grade_all(open_grader(partial, args.weights_only), photos)
            if np.isnan(print_result(args.precision, partial, smaller, check)):
                raise UserError(f"some numbers are too large for {args.precision}, so the model was not written.")
    print(f"\nThe model is in {args.output}.", end="")
    print(f" Next: python predict.py --checkpoint {args.output} photo.jpg" if args.weights_only else "")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, checked."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path(BEST), help="trained by coin_classifier_custom.py")
    add("--output", type=Path, help=f"file to write (default: {ONNX}, or {WEIGHTS} with --weights-only)")
    add("--photos", type=Path, default=PHOTOS, help=f"folder of <grade>/ folders; {MAX_PHOTOS} of them are graded")
    add("--weights-only", action="store_true", help="write a checkpoint that predicts, and cannot be resumed")
    add("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the weights; int8: of FC layers only")
    args = parser.parse_args()
    args.output = args.output or (WEIGHTS if args.weights_only else ONNX)
    if args.weights_only and args.precision == "int8":
        parser.error("--weights-only goes with --precision fp32 or fp16")
    suffix = WEIGHTS.suffix if args.weights_only else ONNX.suffix
    if args.output.suffix.lower() != suffix:  # it might be a photo, to be written over
        parser.error(f"--output: give a name that ends in {suffix}")
    if args.output.resolve() == args.checkpoint.resolve():
        parser.error("--output would replace the checkpoint: give it another name")
    return args


# ---------------------------------------------------------------- writing


def save_onnx(grader: Grader, checkpoint: dict, path: Path) -> None:
    """Write an ONNX model: "photos" (N, H, W, 3), RGB, uint8, to "probabilities" (N, classes).

    Raises:
        UserError: it is too large for a file.
    """
    import onnxscript

    model = grader.model
    if sum(tensor.nbytes for tensor in grader.state_dict().values()) >= MAX_ONNX_BYTES:
        raise UserError("an ONNX file holds at most 2 GB, and this network is larger: share it by --weights-only.")
    program = torch.onnx.export(
        grader,
        (torch.zeros(2, model.image_height, model.image_width, 3, dtype=torch.uint8),),
        input_names=["photos"],
        output_names=["probabilities"],
        dynamic_shapes=({0: "N"},),
        dynamo=True,
        verbose=False,
    )
    # Standardise the weights of convolutions once and for all, and not each time that the model is loaded.
    onnxscript.optimizer.fold_constants(
        program.model, input_size_limit=MAX_ONNX_BYTES, output_size_limit=MAX_ONNX_BYTES
    )
    preprocessing = {
        "image_width": model.image_width,
        "image_height": model.image_height,
        "pixels": "RGB, 0 to 255, (N, height, width, 3)",
        "mean": MEAN,  # these three are part of the model already
        "std": STD,
        "temperature": grader.temperature,
    }
    for node in program.model.graph:
        node.metadata_props.clear()  # where in which file of this computer its code is
    values = {"classes": checkpoint["classes"], **preprocessing}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in values.items()})
    program.save(path, external_data=False)


def shrink_onnx(path: Path, precision: str) -> None:
    """Turn an ONNX model into one in fp16, or one whose fully connected layers, most of its size, have int8 weights."""
    if precision == "fp16":
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    else:
        from onnxruntime.quantization import quantize_dynamic

        logging.disable(logging.WARNING)  # it asks for preparations that change nothing here
        # In int8, ONNX Runtime's convolutions take several times as long on a CPU.
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)


def shrink_weights(path: Path, precision: str) -> None:
    """Store a checkpoint's weights in fp16; `build_model` turns them back into fp32."""
    checkpoint = load_checkpoint(path, mmap=False)
    state = checkpoint["model_state_dict"]
    checkpoint["model_state_dict"] = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    save_tensors(checkpoint, path)


# ---------------------------------------------------------------- checking


def read_photos(folder: Path, classes: list[str], model: nn.Module) -> tuple[Tensor, np.ndarray]:
    """Return up to `MAX_PHOTOS` photos of a folder, (N, H, W, 3), RGB, uint8, and the indices of their classes, (N,).

    Raises:
        UserError: there are none, or one cannot be read.
    """
    split = find_split(folder, classes)
    if not len(split.paths):
        raise UserError(
            f"no photos in {folder}/<grade>/ to check the model on: name a folder that has some by --photos."
        )
    count = min(len(split.paths), MAX_PHOTOS)
    chosen = torch.arange(count) * len(split.paths) // count
    with ThreadPoolExecutor(usable_cores()) as pool:
        read = PhotoReader(model.image_width, model.image_height)
        ((photos, indices),) = read_batches(split.paths, chosen, count, read, pool)
    return photos.permute(0, 2, 3, 1).contiguous(), split.labels[indices].numpy()


def open_grader(path: Path, weights_only: bool) -> Callable[[Tensor], Tensor]:
    """Return what grades photos as `Grader` does, with the model in a file that was just written."""
    if weights_only:
        return Grader(load_checkpoint(path, mmap=False), path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda photos: torch.from_numpy(session.run(["probabilities"], {"photos": photos.numpy()})[0])


@torch.inference_mode()
def grade_all(grade: Callable[[Tensor], Tensor], photos: Tensor) -> np.ndarray:
    """Return the probabilities of photos, (N, classes), a few photos at a time."""
    return torch.cat([grade(batch) for batch in photos.split(BATCH_SIZE)]).numpy()


def print_result(name: str, path: Path, probabilities: np.ndarray, check: Check) -> float:
    """Print size, accuracy and the largest difference in probability from the checkpoint, and return the difference."""
    difference = np.abs(probabilities - check.probabilities).max()
    exact = np.mean(probabilities.argmax(axis=1) == check.labels)
    megabytes = path.stat().st_size / 1e6
    print(f"  {name:10} {megabytes:7.1f} MB   {exact:6.1%} exact   probabilities differ by up to {difference:.2g}")
    return difference


if __name__ == "__main__":
    run(main)
