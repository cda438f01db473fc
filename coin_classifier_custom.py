"""Train a CNN from scratch to grade coins: coin_dataset/ -> coin_classifier_custom_best.pth

    python coin_classifier_custom.py                          with the settings below
    python coin_classifier_custom.py --preset narrow          for a computer without a GPU
    python coin_classifier_custom.py --resume                 go on where the last run stopped
    torchrun --nproc_per_node=2 coin_classifier_custom.py     on 2 GPUs
    tensorboard --logdir=runs                                 see how it goes

On a CPU, a run that was stopped and resumed ends with the same network as one that was not: the random numbers of each
step follow from the seed and the number of the step.
"""

if __name__ == "__main__":
    import coinkit.quiet_start  # noqa: F401

import argparse
import math
import re
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, redirect_stderr
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from coinkit import checkpoints, distributed, optim
from coinkit.augment import augment
from coinkit.backbones import BACKBONES, Backbone, architecture_options, make_model
from coinkit.calibration import estimate_temperature
from coinkit.classes import bands_of
from coinkit.cli import (
    ArgumentParser,
    UserError,
    config_from_args,
    config_to_flags,
    is_out_of_memory,
    quoted,
    run,
    set_stop_handler,
    usable_cores,
)
from coinkit.dataset import (
    PhotoReader,
    Split,
    derive_seed,
    describe_changes,
    describe_dataset,
    find_classes,
    find_split,
    fingerprint,
    normalise,
    read_batches,
    split_folder,
)
from coinkit.devices import autocast, choose_dtype, choose_memory_format, find_device
from coinkit.files import exclusive_lock, relative_path, require_disk_space
from coinkit.inference import build_model
from coinkit.label_errors import LabelCheck
from coinkit.layers import AveragePool, Residual, StandardisedConv2d
from coinkit.losses import balanced_class_weights, share_learned, soft_labels
from coinkit.photos import DATASET, SPLITS
from coinkit.report import Evaluation, check_report
from coinkit.tensorboard_log import TensorBoardLog
from coinkit.training_photos import file_digests, merge_digests, training_digests, training_rows, were_cut_out
from coinkit.training_progress import Progress, format_duration
from coinkit.training_report import predict_command, report_labels, report_training

# Where to change what is not a setting:
#   an augmentation             STEPS in coinkit/augment.py
#   the learning-rate schedule  learning_rate_factor in coinkit/optim.py
#   another backbone            BACKBONES in coinkit/backbones.py
#   an activation, a preset     ACTIVATIONS and PRESETS below

# ---------------------------------------------------------------- settings; each is a flag too, such as --image-width

# Image size (keeps 2:1 aspect ratio)
IMAGE_WIDTH = 512  # Original: 6000
IMAGE_HEIGHT = 256  # Original: 3000

# Training parameters
BATCH_SIZE = 4  # Reduce if out of memory
NUM_EPOCHS = 50  # Increase for more training
LEARNING_RATE = 0.001  # Adjust if not converging
ACCUMULATE = 1  # batches whose gradients are added up for one step: like a larger batch, in less memory
WARMUP = 0.05  # share of the training in which the learning rate rises; then it falls to 0 along a cosine
WEIGHT_DECAY = 0.05  # how strongly AdamW pulls weights towards 0; increase if overfitting
CLIP_GRAD_NORM = 1.0  # a gradient with a larger norm is scaled down to this norm; 0 turns it off
LABEL_SPREAD = 0.7  # standard deviation of soft labels, in grades; with many grades, more at first; 0: hard labels
AUGMENT = 1.0  # strength of augmentation; it grows from 0 to this while the network learns
PATIENCE = 0  # stop when the validation loss has not fallen for this many epochs; 0 never stops early
SEED = 0  # of the random numbers: on the same CPU, the same seed gives the same network
CACHE_GB = 2.0  # gigabytes of memory for decoded photos; photos beyond that are decoded again in each epoch
RUNS = Path("runs")  # folder for TensorBoard

# Architecture
CHANNELS = (64, 128, 256, 512, 512)  # of each block; 4 numbers leave out block 5, 6 add a block
FC_FEATURES = (2048, 1024)  # outputs of fc1 and fc2
DROPOUT = 0.5  # share of the outputs of fc1 and fc2 that is set to 0; like AUGMENT, it grows
ACTIVATION = "relu"  # a key of ACTIVATIONS

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2)}  # each makes a layer

PRESETS = {  # settings that --preset replaces; flags beside it win
    "demo": {  # to see everything work in minutes on any computer: make demo
        "image_width": 256,
        "image_height": 128,
        "channels": (16, 32, 64, 128, 128),
        "fc_features": (256, 128),
        "dropout": 0.2,
        "num_epochs": 12,
    },
    # CPU; the README says how good it is on real coins
    "narrow": {"image_width": 256, "image_height": 128, "channels": (16, 32, 64, 128, 128), "fc_features": (512, 256)},
    "small": {"image_width": 256, "image_height": 128, "batch_size": 2},  # GPU below 8 GB; works on a CPU, but slowly
    "medium": {"image_width": 512, "image_height": 256, "batch_size": 4},  # GPU of 8 to 16 GB
    "large": {"image_width": 1024, "image_height": 512, "batch_size": 8},  # GPU above 16 GB
}

# Files in --output
BEST = "coin_classifier_custom_best.pth"  # the best epoch, to predict with
LAST = "coin_classifier_custom_last.pth"  # the latest state, for --resume
PREVIOUS = "coin_classifier_custom_last.previous.pth"  # `LAST` of the run before
LABELS = "coin_classifier_custom_labels.csv"  # the training photos, the most doubtful labels first
LOCK = ".coin_classifier_custom.lock"  # held by a run, so that a second one does not write to the same files


# ---------------------------------------------------------------- the network

NORM_CHANNELS = 16  # in each group of group norm
MAX_FEATURE_MAP = (16, 8)  # width and height before fc1; a larger one is averaged down, so that fc1 does not grow


class CoinClassifier(nn.Module):
    """A VGG-style network for photos of 2:1: five blocks of convolutions, then three fully connected layers.

    Args:
        num_classes: how many grades.
        image_width, image_height: size of the photos, in pixels.
        channels: of each block; 4 numbers leave out block 5, 6 add a block.
        fc_features: outputs of fc1 and fc2.
        dropout: share of the outputs of fc1 and fc2 that is set to 0.
        activation: a key of `ACTIVATIONS`.
        residual: give each block a skip connection.
    """

    def __init__(
        self,
        num_classes: int,
        image_width: int = IMAGE_WIDTH,
        image_height: int = IMAGE_HEIGHT,
        channels: tuple[int, ...] = CHANNELS,
        fc_features: tuple[int, int] = FC_FEATURES,
        dropout: float = DROPOUT,
        activation: str = ACTIVATION,
        residual: bool = False,
    ):
        super().__init__()
        self.image_width, self.image_height = image_width, image_height

        def conv_block(in_channels: int, out_channels: int, convs: int) -> nn.Module:
            # Group norm (Wu & He 2018, arXiv 1803.08494) does not depend on the batch, which is as small as 2 here.
            # With fewer than 16 channels in a group, it is slow on a CPU, whose instructions take 16 numbers at a time.
            groups = math.gcd(max(1, out_channels // NORM_CHANNELS), out_channels)
            layers = []
            for inputs in [in_channels] + [out_channels] * (convs - 1):
                layers += [
                    StandardisedConv2d(inputs, out_channels, 3, padding=1, bias=False),
                    nn.GroupNorm(groups, out_channels),
                    ACTIVATIONS[activation](),
                ]
            self.explained = layers[-1]  # by heatmaps; each block replaces it, so the last block's stays
            block = nn.Sequential(*layers, nn.MaxPool2d(2, 2))
            return Residual(block, in_channels, out_channels) if residual else block

        # Each block halves width and height: 512x256 -> 256x128 -> 128x64 -> 64x32 -> 32x16 -> 16x8
        self.conv_block1 = conv_block(3, channels[0], convs=2)
        self.conv_block2 = conv_block(channels[0], channels[1], convs=2)
        self.conv_block3 = conv_block(channels[1], channels[2], convs=3)
        self.conv_block4 = conv_block(channels[2], channels[3], convs=3)
        self.conv_block5 = conv_block(channels[3], channels[4], convs=2) if len(channels) > 4 else nn.Identity()
        self.conv_block6 = conv_block(channels[4], channels[5], convs=2) if len(channels) > 5 else nn.Identity()

        width = min(image_width >> len(channels), MAX_FEATURE_MAP[0])
        height = min(image_height >> len(channels), MAX_FEATURE_MAP[1])
        self.pool = AveragePool((height, width))
        self.explained = self.pool if residual else self.explained  # the last activation lacks the skip connection
        self.fc1 = nn.Linear(channels[-1] * height * width, fc_features[0])
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(fc_features[0], fc_features[1])
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(fc_features[1], num_classes)
        self.activation = ACTIVATIONS[activation]()

        for layer in self.modules():
            # Weights on the meta device have no values, and PyTorch would take 2 s to import what fills them.
            if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # He et al. 2015, arXiv 1502.01852
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.fc3.weight)  # all grades are equally likely at first

    def forward(self, photos: Tensor) -> Tensor:
        """Return logits (N, num_classes) of photos (N, 3, H, W) as `normalise` returns them."""
        x = self.conv_block1(photos)
        x = self.conv_block2(x)
        x = self.conv_block3(x)
        x = self.conv_block4(x)
        x = self.conv_block5(x)
        x = self.conv_block6(x)
        x = self.pool(x).flatten(1)
        x = self.dropout1(self.activation(self.fc1(x)))
        x = self.dropout2(self.activation(self.fc2(x)))
        return self.fc3(x)


# Heatmaps explain what goes into the last max pooling, of twice the resolution; with skip connections, what fc1 gets.
BACKBONES["custom"] = Backbone(CoinClassifier, head="fc3", heatmap_layer="explained")


# ---------------------------------------------------------------- training

SAVE_EVERY = 600  # seconds between checkpoints in the middle of an epoch
TIMED_SECONDS = 20  # of the first epoch, from which the time of the whole training is told
MIN_UNREADABLE, MAX_UNREADABLE = 3, 0.02  # a run ends when more photos than both 3 and 2 % are unreadable
MAX_BAD_STEPS = 5  # after this many steps in a row without a finite loss, go back to the last checkpoint
MAX_RATE_CUTS = 2  # go back this many times, each time with a tenth of the learning rate; then give up
AUGMENTATION, SHUFFLE = 0, 1  # what a seed is derived for


class Stopped(Exception):
    """The user has asked the run to stop."""


class Exploded(Exception):
    """`MAX_BAD_STEPS` steps in a row had no finite loss."""


class Trainer:
    """One training run: the network, its optimiser, the photos, and how far the run has come."""

    def __init__(self, args: argparse.Namespace, classes: list[str], train: Split, val: Split, device: torch.device):
        self.args, self.classes, self.train, self.val, self.device = args, classes, train, val, device
        self.config = config_from_args(args, NOT_IN_CONFIG)
        self.dataset = {"train": fingerprint(train, classes), "val": fingerprint(val, classes)}
        digests, rows = file_digests(train.paths), training_rows(args.data)
        self.training_photos, self.cut_out = training_digests(digests, rows), were_cut_out(rows)
        self.has_pairs = any(row.reverse for row in rows)  # coins with a photo of each face
        self.dtype = choose_dtype(args.precision, device)
        self.memory_format = choose_memory_format(self.dtype)
        self.architecture = {name: getattr(args, name) for name in architecture_options(args.model)}
        torch.manual_seed(args.seed)
        self.model = make_model(args.model, len(classes), self.architecture)
        self.model.to(device, memory_format=self.memory_format)
        self.parallel = distributed.wrap_model(self.model)  # the same network, which averages gradients over processes
        self.optimizer = optim.make_optimizer(self.model, args.learning_rate, args.weight_decay, args.fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        max_unreadable = max(MIN_UNREADABLE, int(MAX_UNREADABLE * (len(train.paths) + len(val.paths))))
        max_unreadable = min(max_unreadable, len(train.paths) - 1)
        self.read_photo = PhotoReader(args.image_width, args.image_height, args.cache_gb, max_unreadable)
        self.pool = ThreadPoolExecutor(usable_cores())
        self.label_check = LabelCheck(digests, train.labels, len(classes))
        self.targets = soft_labels(classes, args.label_spread).to(device)  # of an epoch: `train_epoch` may widen them
        balanced = balanced_class_weights(train.labels, len(classes))
        self.class_weights = (balanced if args.class_weights else torch.ones(len(classes))).to(device)
        run_name = "-".join(filter(None, [f"coin_custom_{datetime.now():%Y%m%d-%H%M%S-%f}", args.name]))
        self.progress = Progress(relative_path(args.runs / run_name, args.output), run=secrets.token_hex(8))
        self.stop = False  # whether this process was asked to stop
        self.writer = checkpoints.CheckpointWriter(args.output / LAST, args.output / BEST)

    @property
    def log_dir(self) -> Path:
        """The folder of this run for TensorBoard."""
        return Path(relative_path(self.args.output / self.progress.log_dir, Path()))

    def fit(self) -> None:
        """Train until `finished`. The best epoch is saved in `BEST`, the latest state in `LAST`.

        Raises:
            Stopped: the user has asked for it; `LAST` is saved, and the run can be resumed.
            UserError: it cannot go on: too many unreadable photos, too little memory, or an exploding loss.
        """
        if not distributed.is_same((self.dataset, self.progress.steps)):
            raise UserError("the machines have different photos or checkpoints: they must share --data and --output.")
        if not self.args.resume:
            self.save()  # a full disk shows at once, and `go_back` has a checkpoint to go back to
        with closing(TensorBoardLog(self.log_dir)) as log:
            if distributed.IS_MAIN and not self.progress.steps:
                log.start(self.config, self.dataset)
                log.photos(self.train, self.classes, self.args.augment, self.read_photo, self.pool)
                if self.args.graph:
                    log.graph(self.model)
            while not self.finished():
                try:
                    self.train_epoch()
                    read, logits = self.validate()
                    if distributed.IS_MAIN:
                        self.end_epoch(log, read, logits)
                    self.progress = distributed.broadcast(self.progress)
                except Exploded:
                    self.go_back()
                except Stopped:
                    self.save()
                    raise
                except Exception:
                    self.writer.write_held()
                    raise
        self.writer.write_held()
        if self.progress.epochs < self.args.num_epochs:
            print(f"Stopped early (--patience): no lower validation loss since epoch {self.progress.lowest_epoch}.")

    def finished(self) -> bool:
        """Return whether the last epoch is done, or the validation loss has not fallen for `patience` epochs."""
        return self.progress.epochs >= self.progress.last_epoch(self.args.num_epochs, self.args.patience)

    def train_epoch(self) -> None:
        """Train on the photos of an epoch; after an interruption, on those that are left of it."""
        args, progress = self.args, self.progress
        share_done, is_new = progress.epochs / args.num_epochs, not args.init_from
        spread = optim.label_spread(share_done, args.label_spread, len(self.classes), is_new)
        self.targets = soft_labels(self.classes, spread).to(self.device)
        count, step_size = len(self.train.paths), args.batch_size * args.accumulate
        shuffle = torch.Generator().manual_seed(derive_seed(args.seed, progress.epochs, SHUFFLE))
        order = torch.randperm(count, generator=shuffle)[progress.seen :]
        share = distributed.BATCH_SHARE
        batches = read_batches(self.train.paths, order, step_size, self.read_photo, self.pool, share)
        self.model.train()
        before, started = progress.seconds, time.perf_counter()
        name, hidden = f"Epoch {progress.epochs + 1}/{args.num_epochs}", None if distributed.IS_MAIN else True
        with tqdm(desc=name, total=count, initial=progress.seen, unit="photo", leave=False, disable=hidden) as bar:
            for photos, indices in batches:
                photos_in_step = min(step_size, count - progress.seen)
                stop = self.train_step(photos, indices, photos_in_step)
                progress.seen += photos_in_step
                earlier, progress.seconds = progress.seconds, before + time.perf_counter() - started
                bar.update(photos_in_step)
                bar.set_postfix_str(progress.describe(count, args.num_epochs))
                if progress.epochs == 0 and earlier < TIMED_SECONDS <= progress.seconds:
                    tqdm.write(f"This takes about {format_duration(progress.seconds_left(count, args.num_epochs))}.")
                if self.writer.seconds_since() > SAVE_EVERY and self.writer.is_due() and not progress.bad_steps:
                    self.save()
                if stop:
                    raise Stopped

    def train_step(self, photos: Tensor, indices: Tensor, photos_in_step: int) -> bool:
        """Change the weights once; return whether one of the processes was asked to stop.

        Args:
            photos, indices: (N, 3, H, W), uint8, and (N,): the photos of this step that this process has read.
            photos_in_step: how many photos the step has in all processes, with those that cannot be read.

        Raises:
            Exploded: `MAX_BAD_STEPS` steps in a row had no finite loss and gradient. They changed no weights.
        """
        args, progress = self.args, self.progress
        epochs_done = progress.epochs + (progress.seen + photos_in_step / 2) / len(self.train.paths)
        share_done = epochs_done / args.num_epochs  # of the training, in the middle of this step
        rate = optim.learning_rate_factor(share_done, args.warmup) * 0.1**progress.rate_cuts
        progress.learning_rate = optim.set_learning_rate(self.optimizer, rate)
        growth = optim.regularisation_factor(share_done, progress.learned)
        optim.set_dropout(self.model, growth * args.dropout)

        labels = self.train.labels[indices].to(self.device)
        result = self.backward_within_memory(photos.to(self.device), labels, photos_in_step, growth * args.augment)
        loss_sums, logits, indices, stops = zip(*distributed.gather((*result, indices, self.stop)), strict=True)
        loss_sum, logits, indices = sum(loss_sums), torch.cat(logits), torch.cat(indices)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), args.clip_grad_norm or math.inf).item()
        progress.steps += 1
        # In fp16, infinite gradients are normal: the scaler looks for the largest scale, and skips such steps itself.
        if math.isfinite(loss_sum) and (math.isfinite(norm) or self.scaler.is_enabled()):
            self.scaler.step(self.optimizer)
            progress.learned_from += len(indices)
            progress.loss_sum += loss_sum
            progress.correct += (logits.argmax(1) == self.train.labels[indices]).sum().item()
            self.label_check.add(indices, logits)
            progress.gradient_sum += norm * len(indices) if math.isfinite(norm) else 0.0
            progress.bad_steps = 0
        else:
            progress.bad_steps += 1
        self.scaler.update()
        self.optimizer.zero_grad()
        if progress.bad_steps >= MAX_BAD_STEPS:
            raise Exploded
        return any(stops)

    def backward(self, photos: Tensor, labels: Tensor, photos_in_step: int, strength: float) -> tuple[float, Tensor]:
        """Add up the gradients of the photos of a step, `part_size` photos at a time.

        Args:
            photos, labels, photos_in_step: as `train_step` takes them, on the device.
            strength: of augmentation.

        Returns:
            The sum of the losses, and the logits (N, classes), on the CPU, in this process.
        """
        if not len(photos):  # the other processes wait for gradients of this one, so it sends zeros
            blank = torch.zeros(1, 3, self.args.image_height, self.args.image_width, device=self.device)
            self.scaler.scale(0 * self.compute_logits(blank).sum()).backward()
            return 0.0, torch.empty(0, len(self.classes))
        # Augmentation and dropout are the same again after an interruption, and differ between processes.
        torch.manual_seed(derive_seed(self.args.seed, self.progress.steps, AUGMENTATION, distributed.RANK))
        loss_sum, all_logits, done = 0.0, [], 0
        for batch in photos.split(self.args.batch_size):
            for part in augment(batch, strength).split(self.part_size()):
                part_labels = labels[done : done + len(part)]
                done += len(part)
                self.parallel.require_backward_grad_sync = done == len(photos)  # exchange gradients once a step
                logits = self.compute_logits(part)
                losses = F.cross_entropy(logits, self.targets[part_labels], reduction="none")
                loss = (losses * self.class_weights[part_labels]).sum() * distributed.WORLD_SIZE / photos_in_step
                self.scaler.scale(loss).backward()
                loss_sum += losses.sum().item()
                all_logits.append(logits.detach().cpu())
        return loss_sum, torch.cat(all_logits)

    def compute_logits(self, photos: Tensor) -> Tensor:
        """Return the logits (N, classes) of photos (N, 3, H, W), uint8 or 0.0 to 1.0."""
        network = self.parallel if self.model.training else self.model
        with autocast(self.device, self.dtype):
            return network(normalise(photos).to(memory_format=self.memory_format)).float()

    # ------------------------------------------------ validation, and the end of an epoch

    @torch.inference_mode()
    def validate(self) -> tuple[Tensor, Tensor]:
        """Return which validation photos could be read, as indices (N,), and their logits (N, classes), on the CPU.

        Raises:
            Stopped: the user has asked for it.
        """
        self.model.eval()
        distributed.sync_buffers(self.model)
        read, logits = [torch.empty(0, dtype=torch.long)], [torch.empty(0, len(self.classes))]
        order, size = torch.arange(len(self.val.paths)), self.part_size() * distributed.WORLD_SIZE
        batches = read_batches(self.val.paths, order, size, self.read_photo, self.pool, distributed.BATCH_SHARE)
        for photos, indices in batches:
            if self.stop:
                break
            if len(photos):
                read.append(indices)
                logits.append(self.compute_logits(photos.to(self.device)).cpu())
        read, logits, stops = zip(*distributed.gather((torch.cat(read), torch.cat(logits), self.stop)), strict=True)
        if any(stops):
            raise Stopped
        order = torch.cat(read).argsort()
        return torch.cat(read)[order], torch.cat(logits)[order]

    def end_epoch(self, log: TensorBoardLog, read: Tensor, logits: Tensor) -> None:
        """Log, save and print an epoch, with what `validate` returns. Pictures come last, when all else is safe."""
        args, progress = self.args, self.progress
        labels = self.val.labels[read]
        paths = [self.val.paths[index] for index in read.tolist()]
        evaluation = Evaluation(self.classes, paths, labels.numpy(), logits.softmax(dim=1).numpy(), {})
        loss = F.cross_entropy(logits, self.targets.cpu()[labels]).item()
        val = {"loss": loss, "accuracy": (logits.argmax(1) == labels).float().mean().item()}  # nan without photos
        train, is_first = progress.train_metrics(), not progress.best_epoch
        progress.learned = share_learned(train["loss"], self.targets.cpu(), self.train.labels, self.class_weights.cpu())
        estimate = estimate_temperature(self.targets.cpu(), self.train.labels, train["accuracy"])
        is_best = progress.end_epoch(logits, labels, torch.from_numpy(bands_of(self.classes).members), estimate)
        log.epoch(progress.epochs, train, val if len(labels) else {}, evaluation)
        is_last = self.finished()
        if is_last and len(labels):
            log.result(self.config, {"best accuracy": progress.best_val_acc, "lowest loss": progress.lowest_loss})

        # Broken weights are not saved: `go_back` needs those from before.
        if (is_first or is_last or self.writer.is_due()) and logits.isfinite().all():
            self.writer.write(self.checkpoint(), is_best)
        elif is_best:
            self.writer.hold_best(self.checkpoint())
        print(progress.describe_epoch(train, val, len(self.train.paths), args.num_epochs), flush=True)
        if len(labels):
            log.pictures(progress.epochs, args.num_epochs, is_last, evaluation, self.model)

    # ------------------------------------------------ saving and loading

    def save(self) -> None:
        """Write `LAST`, if this is the main process."""
        if distributed.IS_MAIN:
            self.writer.write(self.checkpoint())

    def checkpoint(self) -> dict:
        """Return all that predict.py and --resume need."""
        return {
            "format_version": checkpoints.FORMAT_VERSION,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
            "best_val_acc": self.progress.best_val_acc,
            "classes": self.classes,
            "dataset": self.dataset,
            "training_photos": self.training_photos,
            "cut_out": self.cut_out,
            "label_check": self.label_check.state_dict(),
            "model": self.args.model,
            "temperature": self.progress.temperature,
            "unsure_below": self.progress.unsure_below,
            "unsure_band_below": self.progress.unsure_band_below,
            "architecture": self.architecture,
            "config": self.config,
            "progress": asdict(self.progress),
        }

    def load(self, checkpoint: dict, path: Path) -> None:
        """Go on from a checkpoint that was loaded from `path`: from `LAST`, or from `PREVIOUS`, which takes its place.

        Raises:
            UserError: its grades or photos are not those of this run, or it is damaged.
        """
        if checkpoint["classes"] != self.classes:
            differing = ", ".join(sorted({*checkpoint["classes"]} ^ {*self.classes})) or "their order"
            raise UserError(
                f"the run to resume has other grades than {self.args.data} ({differing}): prepare the dataset with its "
                f"grades again (--grades, --classes), or begin a new run from its network: --init-from {quoted(path)}."
            )
        with checkpoints.damage_as_user_error(path):
            changes = describe_changes(checkpoint["dataset"], self.dataset)
            if changes and not self.args.accept_changes:
                raise UserError(
                    f"{self.args.data} has changed since this run began: {changes}. Go on with it all the same by "
                    "--accept-changes, or train without --resume."
                )
            self.model.load_state_dict(checkpoint["model_state_dict"])
            optim.load_optimizer_state(self.optimizer, checkpoint["optimizer_state_dict"])
            if checkpoint["scaler_state_dict"]:  # empty unless the run was in fp16
                self.scaler.load_state_dict(checkpoint["scaler_state_dict"])
            log_dir, self.progress = self.progress.log_dir, Progress.load(checkpoint["progress"])
            self.training_photos = merge_digests(self.training_photos, checkpoint)
            if "label_check" in checkpoint:  # older ones have none
                self.label_check.load_state_dict(checkpoint["label_check"])
            if self.progress.steps and not self.log_dir.is_dir():
                print(f"The curves so far are gone with {self.log_dir}. The others go to a new folder.")
            if not self.log_dir.is_dir():
                self.progress.log_dir = log_dir
        if distributed.IS_MAIN and not self.writer.bring_back(checkpoint, path):
            print(f"{self.writer.best} is not of this run. It will have the best of the epochs from here on.")
            self.progress.forget_best()
        self.progress = distributed.broadcast(self.progress)
        if changes:  # and with them the order of the photos: begin the epoch again
            self.progress.begin_epoch()
        if checkpoint["dataset"]["val"] != self.dataset["val"]:
            self.progress.forget_losses()

    def load_initial_weights(self, checkpoint: dict | None) -> None:
        """Start from a checkpoint (--init-from), or else --pretrained; not its last layer if its grades differ.

        Raises:
            UserError: there are no such weights, or they are of another architecture.
        """
        args, backbone = self.args, BACKBONES[self.args.model]
        if checkpoint:
            weights, same_classes = checkpoint["model_state_dict"], checkpoint["classes"] == self.classes
            self.training_photos = merge_digests(self.training_photos, checkpoint)
        else:
            weights, same_classes = backbone.pretrained_weights(args.pretrained), False
        source = args.init_from or args.pretrained
        checkpoints.copy_weights(weights, self.model, source, without=None if same_classes else backbone.head)
        print(f"Starting from {source}{'' if same_classes else ', all but its last layer'}")

    # ------------------------------------------------ too little memory, an exploding loss, a request to stop

    def backward_within_memory(self, *step: object) -> tuple[float, Tensor]:
        """Call `backward`; when memory runs out, halve the photos at a time and call it again.

        Raises:
            UserError: the memory is not enough for one photo at a time.
        """
        while True:
            try:
                return self.backward(*step)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # The except block has ended, so the error no longer keeps tensors in memory.
            if distributed.WORLD_SIZE > 1:  # the others wait for the gradients of this one
                raise UserError("out of memory: give a smaller --batch-size and a larger --accumulate.")
            if self.part_size() == 1:
                raise UserError(
                    "out of memory with one photo at a time: use a smaller --image-width and --image-height "
                    "(--preset small or narrow), or fewer --channels."
                )
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.progress.halvings += 1
            tqdm.write(f"Out of memory: now {self.part_size()} photos at a time. A step still uses as many as before.")

    def part_size(self) -> int:
        """Return how many photos go through the network at once."""
        return max(1, self.args.batch_size >> self.progress.halvings)

    def go_back(self) -> None:
        """Go on from the last checkpoint with a tenth of the learning rate.

        Raises:
            UserError: that has been tried `MAX_RATE_CUTS` times.
        """
        rate_cuts, rate = self.progress.rate_cuts + 1, self.progress.learning_rate
        if rate_cuts > MAX_RATE_CUTS:
            raise UserError(
                f"the loss has exploded {rate_cuts} times (NaN). Try --learning-rate {self.args.learning_rate / 10:g} "
                f"or --clip-grad-norm 0.5, and look for corrupted photos. {LAST} is from before that."
            )
        tqdm.write(f"The loss has exploded (NaN) at a rate of {rate:.6f}: back to {LAST}, with a tenth of the rate.")
        self.writer.write_held()
        distributed.broadcast(None)  # the other processes wait for it
        last = self.writer.last
        self.load(checkpoints.load_checkpoint(last, checkpoints.NEEDED_TO_RESUME, mmap=False), last)
        self.progress.rate_cuts = rate_cuts

    def ask_to_stop(self, *_: object) -> None:
        """Handle Ctrl-C and SIGTERM: stop after this step, and save. The next Ctrl-C stops at once."""
        self.stop = True
        set_stop_handler(None)


# ---------------------------------------------------------------- the command


def main() -> int | None:
    """Run the command."""
    with distributed.process_group():
        # Of several processes, only the main one prints, so that a wrong option is told once.
        with nullcontext() if distributed.IS_MAIN else redirect_stderr(sys.stdout):
            args, checkpoint = parse_arguments()
        report = args.output / "report"
        check_report(report)
        lock = exclusive_lock(args.output / LOCK, f"checkpoints to {args.output.absolute()}")
        with lock if distributed.IS_MAIN else nullcontext():
            return train_and_test(args, checkpoint, report)


def train_and_test(args: argparse.Namespace, checkpoint: dict | None, report: Path) -> int | None:
    """Train, anew or from a checkpoint, and test; return the exit status: 130 if the user has stopped it."""
    classes = find_classes(args.data)
    train, val, test = (find_split(split_folder(args.data, split), classes) for split in SPLITS)
    trainer = Trainer(args, classes, train, val, find_device(args.device))
    if args.resume:
        trainer.load(checkpoint, args.resume)
    elif checkpoint or args.pretrained:
        trainer.load_initial_weights(checkpoint)
    if checkpoint:
        checkpoint.clear()  # frees as much memory as the network and the optimiser take, and the file
    set_stop_handler(trainer.ask_to_stop)

    best, last = args.output / BEST, args.output / LAST
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(*describe_dataset(args.data, classes, train, val, test, args.image_width, args.image_height), sep="\n")
    print(f"Network: {parameters / 1e6:.1f} million parameters, in {trainer.dtype} on {trainer.device}")
    if trainer.device.type == "cpu" and max(args.channels) > max(PRESETS["narrow"]["channels"]):
        print("Without a GPU, this will take long: --preset narrow is many times as fast.")
    if args.resume:
        print(trainer.progress.describe_resumed(args.num_epochs))
    elif unfinished := checkpoints.describe_unfinished(last):
        print(unfinished)
    print(f"Watch it: tensorboard --logdir={quoted(trainer.log_dir.parent)}\n", flush=True)
    to_predict = predict_command(best, trainer.has_pairs, trainer.cut_out)
    try:
        with require_disk_space(checkpoints.bytes_to_write(parameters, resumed=bool(args.resume)), args.output):
            trainer.fit()
    except Stopped:
        to_resume = f"python coin_classifier_custom.py --resume{'' if last == Path(LAST) else f' {quoted(last)}'}"
        print(f"Stopped at {trainer.progress.place(args.num_epochs)}. To go on: {to_resume}")
        if trainer.progress.best_epoch:
            print(f"The best epoch so far, {trainer.progress.best_epoch}, can already predict: {to_predict}")
        # If another process did not exit with 0, torchrun would kill the main one, which may still be saving.
        return 130 if distributed.IS_MAIN else 0
    if not distributed.IS_MAIN:
        return 0

    set_stop_handler(None)  # the model is saved
    if not trainer.progress.best_epoch:
        raise UserError(f"no epoch is the best, so there is no {best} of this run: give a larger --num-epochs.")
    print(trainer.progress.describe_best())
    report_labels(trainer.label_check, train, classes, args.output / LABELS)
    if test.paths:
        report_training(best, train, test, args.data, trainer.progress, trainer.label_check, trainer.device, report)
    print(f"\nThe model is in {best}. Next: {to_predict}")


# Flags of one command, which are not saved: --resume does not repeat them.
NOT_IN_CONFIG = ("graph", "resume", "accept_changes", "preset")


def parse_arguments() -> tuple[argparse.Namespace, dict | None]:
    """Return the options, checked, and the checkpoint to resume or to start from, or None.

    An option comes from the command line, or else from the run to resume, or else from the preset, or else from the
    network to start from, or else from the settings at the top of this file.
    """
    parser = ArgumentParser(__doc__)
    on_or_off = argparse.BooleanOptionalAction
    add = parser.add_argument_group("photos and files").add_argument
    add("--data", type=Path, default=DATASET, help="dataset from prepare_dataset.py")
    add("--output", type=Path, default=Path(), help=f"folder for {BEST}, {LAST} and report/")
    add("--runs", type=Path, default=RUNS, help="folder for TensorBoard")
    add("--name", help="of the run in TensorBoard, after the time")
    add("--graph", action="store_true", help="show the network's graph in TensorBoard")
    resume_help = f"go on from {LAST}, or from {PREVIOUS}, with its options; its network cannot change"
    add("--resume", nargs="?", type=Path, const=Path(LAST), metavar="FILE", help=resume_help)
    add("--accept-changes", action="store_true", help="resume even if photos have been added, removed or replaced")

    add = parser.add_argument_group("training").add_argument
    add("--preset", choices=PRESETS, help="demo: to try; narrow: no GPU; small: GPU < 8 GB; medium: < 16; large: > 16")
    add("--image-width", type=int, default=IMAGE_WIDTH, help="pixels")
    add("--image-height", type=int, default=IMAGE_HEIGHT, help="pixels")
    add("--batch-size", type=int, default=BATCH_SIZE, help="photos at once; reduce if out of memory")
    add("--accumulate", type=int, default=ACCUMULATE, help="batches whose gradients are added up for one step")
    add("--num-epochs", "--epochs", type=int, default=NUM_EPOCHS, help="times to go through the training photos")
    add("--learning-rate", "--lr", type=float, default=LEARNING_RATE, help="its peak; less in layers with many inputs")
    add("--warmup", type=float, default=WARMUP, help="share of the training in which the learning rate rises")
    add("--weight-decay", type=float, default=WEIGHT_DECAY, help="how strongly AdamW pulls weights towards 0")
    add("--clip-grad-norm", type=float, default=CLIP_GRAD_NORM, help="largest norm of a gradient; 0: no limit")
    add("--label-spread", type=float, default=LABEL_SPREAD, help="final deviation of soft labels, in grades; 0: hard")
    add("--augment", type=float, default=AUGMENT, help="strength of augmentation; grows to this; 0: none")
    add("--class-weights", action=on_or_off, default=False, help="let every grade count the same, however few photos")
    add("--patience", type=int, default=PATIENCE, help="stop after this many epochs without a lower loss; 0: never")
    add("--seed", type=int, default=SEED, help="on the same CPU, the same seed gives the same network")

    add = parser.add_argument_group("network").add_argument
    add("--model", choices=sorted(BACKBONES), default="custom", help="custom: CoinClassifier; resnet50: torchvision's")
    add("--init-from", type=Path, metavar="CHECKPOINT", help="start from a trained model, of the same or other grades")
    add("--pretrained", nargs="?", const="download", metavar="FILE", help="start resnet50 from ImageNet's weights")
    add("--channels", type=int, nargs="+", default=list(CHANNELS), help="of each block; 4 drop block 5, 6 add a block")
    add("--fc-features", type=int, nargs=2, default=list(FC_FEATURES), help="outputs of fc1 and fc2")
    add("--dropout", type=float, default=DROPOUT, help="share of the outputs of fc1 and fc2 set to 0; grows to this")
    add("--activation", choices=ACTIVATIONS, default=ACTIVATION, help="after each layer")
    add("--residual", action=on_or_off, default=False, help="give each block a skip connection")

    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="auto: the fastest here")
    add("--fused", action=on_or_off, default=True, help="let AdamW change all weights in one operation")
    add("--cache-gb", type=float, default=CACHE_GB, help="gigabytes of memory for decoded photos")

    args = parser.parse_args()  # for --preset and --resume, whose options come before the user's
    checkpoint = last = None
    if args.resume and (args.init_from or args.pretrained):
        parser.error(f"--init-from and --pretrained do not go with --resume, which has the weights of {LAST}")
    options = config_to_flags(PRESETS[args.preset]) if args.preset else []
    if args.init_from:  # the same network, unless a flag or the preset says otherwise
        checkpoint = checkpoints.load_checkpoint(args.init_from)
        build_model(checkpoint, args.init_from)  # a damaged one fails here, before its options are used
        options = config_to_flags({"model": checkpoint["model"]} | checkpoint["architecture"]) + options
    if args.resume:
        last = args.output / args.resume if args.resume.parent == Path() else args.resume
        if last.name not in (LAST, PREVIOUS):
            parser.error(f"--resume takes {LAST} or {PREVIOUS}, not {last}; --init-from takes any model")
        checkpoint = checkpoints.load_checkpoint(last, checkpoints.NEEDED_TO_RESUME, mmap=False)
        build_model(checkpoint, last)
        options += config_to_flags(checkpoint["config"] | checkpoint["architecture"] | {"output": last.parent})
    args = parser.parse_args(options + sys.argv[1:])
    args.resume = last
    if last and args.output != last.parent:
        parser.error(f"--resume {last} goes on in its own folder: leave out --output")
    check_arguments(args, parser)
    if last and (difference := checkpoints.describe_other_network(checkpoint, args)):
        parser.error(f"the run to resume has another architecture: {difference}. Leave this out, or do not --resume")
    if last and (ignored := checkpoints.ignored_flags(checkpoint, args)):
        print(f"The run goes on with its own options, so this is ignored: {', '.join(ignored)}.")
    return args, checkpoint


def check_arguments(args: argparse.Namespace, parser: ArgumentParser) -> None:
    """Exit with 2 if an option has no sensible value."""
    if args.image_width % 2 or min(args.image_width, args.image_height) < 2 ** len(args.channels):
        parser.error("--image-width must be even, and both sides large enough to be halved by each block")
    if not 4 <= len(args.channels) <= 6:
        parser.error("--channels: give 4, 5 or 6 numbers")
    parser.check_minimum(args, 1, "channels", "fc_features", "batch_size", "accumulate", "num_epochs")
    parser.check_minimum(args, 0, "weight_decay", "clip_grad_norm", "label_spread", "augment")
    parser.check_minimum(args, 0, "patience", "seed", "cache_gb")
    for name in ("warmup", "dropout"):
        if not 0 <= getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 0 and below 1")
    if args.pretrained and (args.init_from or not BACKBONES[args.model].pretrained_weights):
        names = [name for name, backbone in BACKBONES.items() if backbone.pretrained_weights]
        parser.error(f"--pretrained is for --model {' or '.join(names)}, without --init-from")
    if args.batch_size * args.accumulate % distributed.WORLD_SIZE:
        parser.error(f"--batch-size times --accumulate must be a multiple of the {distributed.WORLD_SIZE} processes")
    if not args.learning_rate > 0:
        parser.error("--learning-rate must be above 0")
    if args.name and not re.fullmatch(r"[\w.+=, -]{0,80}[\w+=]", args.name):  # a file name on every system
        parser.error("--name may have up to 80 letters, digits and spaces, and .+=,_-")
    if args.seed >= 2**63:
        parser.error("--seed must be below 2**63")


if __name__ == "__main__":
    run(main)
