"""Train a CNN from scratch to grade coins: coin_dataset/ -> coin_classifier_custom_best.pth

    python coin_classifier_custom.py                          with the settings below
    python coin_classifier_custom.py --preset narrow          for a computer without a GPU
    python coin_classifier_custom.py --resume                 go on where the last run stopped
    torchrun --nproc_per_node=2 coin_classifier_custom.py     share the work out to 2 GPUs
    tensorboard --logdir=runs                                 watch it

Every setting below is a flag as well. Whatever is random in a step follows from the seed and the number of the step, so
a run that was stopped and resumed ends as if it had not been.
"""

import argparse
import inspect
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from coinkit import distributed, losses, optim
from coinkit.augment import augment
from coinkit.backbones import make_resnet50, pretrained_resnet50
from coinkit.checkpoints import (
    FORMAT_VERSION,
    NEEDED_TO_RESUME,
    damage_as_user_error,
    keep_previous,
    load_checkpoint,
    save_tensors,
)
from coinkit.cli import (
    ArgumentParser,
    UserError,
    config_from_args,
    config_to_flags,
    is_out_of_memory,
    run,
    set_stop_handler,
    usable_cores,
)
from coinkit.dataset import (
    PhotoReader,
    Split,
    derive_seed,
    describe_changes,
    find_classes,
    find_split,
    fingerprint,
    normalise,
    read_batches,
)
from coinkit.devices import choose_dtype, find_device
from coinkit.figures import photo_grid
from coinkit.files import atomic_link, exclusive_lock, require_disk_space
from coinkit.inference import Network
from coinkit.layers import Residual, StandardisedConv2d
from coinkit.metrics import score, summarise, uncalibrated
from coinkit.photos import DATASET, MAX_PIXELS, SPLITS
from coinkit.report import Evaluation, check_report, evaluate, write_report
from coinkit.tensorboard_log import TensorBoardLog
from coinkit.training_progress import Progress

# Image size (keeps 2:1 aspect ratio)
IMAGE_WIDTH = 512  # Original: 6000
IMAGE_HEIGHT = 256  # Original: 3000

# Training parameters
BATCH_SIZE = 4  # Reduce if out of memory
NUM_EPOCHS = 50  # Increase for more training
LEARNING_RATE = 0.001  # Adjust if not converging
ACCUMULATE = 1  # batches whose gradients make one step
WARMUP = 0.05  # share of the steps in which the learning rate rises; after that it falls along a cosine
WEIGHT_DECAY = 0.05
CLIP_GRAD_NORM = 1.0  # 0 leaves gradients as they are
LABEL_SPREAD = 0.7  # how far a label reaches to its neighbours, as a standard deviation in grades; 0 for hard labels
AUGMENT = 1.0  # how strongly training photos are varied; it grows over the first half, as dropout does
PATIENCE = 0  # stop after so many epochs without a lower validation loss; 0 never stops early
SEED = 0
CACHE_GB = 2.0  # memory for decoded photos; those beyond it are decoded again in each epoch

# Architecture
CHANNELS = (64, 128, 256, 512, 512)  # of each block; 4 numbers drop block 5, 6 add a block
FC_FEATURES = (2048, 1024)  # outputs of fc1 and fc2
DROPOUT = 0.5
ACTIVATION = "relu"  # a key of ACTIVATIONS

PRESETS = {
    "demo": {  # to see everything work in minutes on any computer: make demo
        "image_width": 256,
        "image_height": 128,
        "channels": (16, 32, 64, 128, 128),
        "fc_features": (256, 128),
        "dropout": 0.2,
        "num_epochs": 12,
    },
    "narrow": {  # CPU: the network that has been measured on real coins
        "image_width": 256,
        "image_height": 128,
        "batch_size": 4,
        "channels": (16, 32, 64, 128, 128),
        "fc_features": (512, 256),
    },
    "small": {"image_width": 256, "image_height": 128, "batch_size": 2},  # GPU below 8 GB, or CPU and patience
    "medium": {"image_width": 512, "image_height": 256, "batch_size": 4},  # GPU of 8 to 16 GB
    "large": {"image_width": 1024, "image_height": 512, "batch_size": 8},  # GPU above 16 GB
}
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2)}

NORM_GROUPS = 16
MAX_FEATURE_MAP = (16, 8)  # width and height; a larger last feature map is pooled to this, so that fc1 stays as it is

RUNS = Path("runs")
BEST = "coin_classifier_custom_best.pth"
LAST = "coin_classifier_custom_last.pth"
LOCK = ".coin_classifier_custom.lock"
OF_ONE_CALL = ("graph", "resume", "accept_changes", "preset")  # options that are not kept for --resume
MAX_SAVING_SHARE = 0.02  # of the time may go into checkpoints that are not better than the best one
SAVE_EVERY = 600  # seconds, in the middle of an epoch
MIN_UNREADABLE, MAX_UNREADABLE = 3, 0.02  # photos, or share of them, that may go bad before a run ends
MAX_BAD_STEPS = 5  # without a finite loss, in a row: then back to the last checkpoint
MAX_RATE_CUTS = 2  # to a tenth, before a run that keeps exploding ends
SHOWN_PHOTOS = 16  # augmented training photos in TensorBoard


# ---------------------------------------------------------------- the network


class CoinClassifier(nn.Module):
    """A VGG-style network for photos of 2:1: five blocks of convolutions, then three fully connected layers.

    Args:
        num_classes: how many grades.
        image_width, image_height: size of the photos, in pixels.
        channels: of each block; 4 numbers drop block 5, 6 add a block.
        fc_features: outputs of fc1 and fc2.
        dropout: share of features dropped after fc1 and after fc2.
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
            # With fewer than 4 channels in a group it would take away how much there is of a feature: of fine detail.
            groups = math.gcd(NORM_GROUPS, max(1, out_channels // 4), out_channels)
            layers = []
            for inputs in [in_channels] + [out_channels] * (convs - 1):
                layers += [
                    StandardisedConv2d(inputs, out_channels, 3, padding=1, bias=False),
                    nn.GroupNorm(groups, out_channels),
                    ACTIVATIONS[activation](),
                ]
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
        self.pool = nn.AdaptiveAvgPool2d((height, width))
        self.fc1 = nn.Linear(channels[-1] * height * width, fc_features[0])
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(fc_features[0], fc_features[1])
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(fc_features[1], num_classes)
        self.activation = ACTIVATIONS[activation]()

        for layer in self.modules():
            # On the meta device, normal numbers come to nothing, and importing what would draw them takes 2 s.
            if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # He et al. 2015, arXiv 1502.01852
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.fc3.weight)  # start without an opinion

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


# What makes a network, and the name of its last layer, the one whose size follows from the number of classes
MODELS = {"custom": (CoinClassifier, "fc3"), "resnet50": (make_resnet50, "fc")}
# What rebuilds it, beside the number of classes: the names of options, and keys of a checkpoint
ARCHITECTURE = {name: tuple(inspect.signature(make).parameters)[1:] for name, (make, _) in MODELS.items()}


# ---------------------------------------------------------------- training


class Stopped(Exception):
    """The run was asked to stop and has saved where it is."""


class Exploded(Exception):
    """Step after step has had no finite loss."""


class Trainer:
    """One run: the network, what teaches it, and how far it has come."""

    def __init__(self, args: argparse.Namespace, classes: list[str], train: Split, val: Split, device: torch.device):
        self.args, self.classes, self.device = args, classes, device
        self.config = config_from_args(args, OF_ONE_CALL)
        self.train, self.val = train, val
        self.dataset = {"train": fingerprint(train, classes), "val": fingerprint(val, classes)}
        self.dtype = choose_dtype(args.precision, device)
        # In half precision, convolutions want the channels last; in fp32 on a CPU, they take up to twice as long so.
        self.memory_format = torch.contiguous_format if self.dtype == torch.float32 else torch.channels_last
        self.architecture = {name: getattr(args, name) for name in ARCHITECTURE[args.model]}
        torch.manual_seed(args.seed)
        self.model = MODELS[args.model][0](len(classes), **self.architecture)
        self.model.to(device, memory_format=self.memory_format)
        self.parallel = distributed.wrap_model(self.model)
        self.optimizer = optim.make_optimizer(self.model, args.learning_rate, args.weight_decay, args.fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        accepted = max(MIN_UNREADABLE, int(MAX_UNREADABLE * (len(train.paths) + len(val.paths))))
        self.read = PhotoReader(args.image_width, args.image_height, args.cache_gb, accepted)
        self.pool = ThreadPoolExecutor(usable_cores())
        self.targets = losses.soft_labels(classes, args.label_spread).to(device)
        self.class_weights = torch.ones(len(classes), device=device)
        if args.class_weights:
            self.class_weights = losses.balanced_class_weights(train.labels, len(classes)).to(device)
        self.progress = Progress(log_dir=str(args.runs / f"coin_custom_{datetime.now():%Y%m%d-%H%M%S-%f}"))
        self.stop = False
        self.saved_progress, self.last_save, self.seconds_to_save = {}, time.perf_counter(), 0.0

    def fit(self) -> None:
        """Train to the last epoch, or until it gets no better; keep the best epoch in `BEST`, the last in `LAST`.

        Raises:
            Stopped: the user asked for it; the run can go on from `LAST`.
            UserError: it cannot go on: too many photos have gone, no memory, or the loss explodes time and again.
        """
        state = (self.dataset, self.progress.steps)
        if distributed.gather(state) != [state] * distributed.WORLD_SIZE:
            raise UserError("the machines have different photos or checkpoints: they must share --data and --output.")
        if not self.saved_progress:
            self.save()  # shows that there is room, and is something to go back to
        while not self.finished():
            with (
                TensorBoardLog(self.progress.log_dir, self.progress.epochs + 1)
                if distributed.IS_MAIN
                else nullcontext() as log
            ):
                if log and not self.progress.steps:
                    log.start(self.config, self.dataset, self.example_photos())
                    if self.args.graph:
                        log.graph(self.model, self.device)
                try:
                    while not self.finished():
                        self.train_epoch()
                        read, logits = self.evaluate(self.val)
                        if log:
                            self.end_epoch(log, read, logits)
                        self.progress = distributed.broadcast(self.progress)
                    if log:
                        best = {"best accuracy": self.progress.best_val_acc, "lowest loss": self.progress.lowest_loss}
                        log.result(self.config, best)
                except Exploded:
                    self.go_back()
                except Stopped:
                    self.save()
                    raise
        if distributed.IS_MAIN and self.progress.epochs < self.args.num_epochs:
            print(f"No lower loss on validation, calibrated, since epoch {self.progress.lowest_epoch}: stopped early.")
        if asdict(self.progress) != self.saved_progress:
            self.save()

    def finished(self) -> bool:
        """Return whether the last epoch is done, or it has got no better for long enough."""
        args, progress = self.args, self.progress
        no_better = progress.epochs - progress.lowest_epoch
        return progress.epochs >= args.num_epochs or (args.patience > 0 and no_better >= args.patience)

    def train_epoch(self) -> None:
        """Go through an epoch, from the photo that the run is at."""
        args, progress = self.args, self.progress
        count = len(self.train.paths)
        shuffle = torch.Generator().manual_seed(derive_seed(args.seed, progress.epochs, 1))
        order = torch.randperm(count, generator=shuffle)[progress.seen :]
        self.model.train()
        before, started = progress.seconds, time.perf_counter()
        name, hidden = f"Epoch {progress.epochs + 1}/{args.num_epochs}", None if distributed.IS_MAIN else True
        with tqdm(desc=name, total=count, initial=progress.seen, unit="photo", leave=False, disable=hidden) as bar:
            size = args.batch_size * args.accumulate
            batches = read_batches(self.train.paths, order, size, self.read, self.pool, distributed.batch_share())
            for photos, indices in batches:
                planned = min(size, count - progress.seen)
                stop = self.train_step(photos, self.train.labels[indices], planned)
                progress.seen += planned
                progress.seconds = before + time.perf_counter() - started
                left = ((args.num_epochs - progress.epochs) * count - progress.seen) * progress.seconds / progress.seen
                bar.update(planned)
                bar.set_postfix_str(
                    f"loss {progress.loss_sum / progress.seen:.3f}, accuracy {progress.correct / progress.seen:.3f}, "
                    f"rate {progress.learning_rate:.1e}, all done in {tqdm.format_interval(left)}"
                )
                if time.perf_counter() - self.last_save > SAVE_EVERY:
                    self.save()
                if stop:
                    raise Stopped

    def train_step(self, photos: Tensor, labels: Tensor, planned: int) -> bool:
        """Learn from one batch; return whether to stop, since one of the processes was asked to.

        Args:
            photos, labels: (N, 3, H, W), uint8, and (N,): what this process has of the batch.
            planned: how many photos the batch has in all processes, those that cannot be read among them.

        Raises:
            Exploded: no step has had a finite loss and gradient for long; the weights are as they were before.
        """
        args, progress = self.args, self.progress
        middle = progress.epochs + (progress.seen + planned / 2) / len(self.train.paths)  # of this step, in epochs
        done = middle / args.num_epochs
        factor = optim.learning_rate_factor(done, args.warmup) * 0.1**progress.rate_cuts
        progress.learning_rate = optim.set_learning_rate(self.optimizer, factor)
        growth = optim.regularisation_factor(done)
        optim.set_dropout(self.model, growth * args.dropout)

        sums = self.add_up_gradients(photos.to(self.device), labels.to(self.device), planned, growth * args.augment)
        loss_sum, correct, stop = distributed.sum_over_processes(*sums, self.stop)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), args.clip_grad_norm or math.inf).item()
        progress.steps += 1
        # The scaler of fp16 tries out how far it can go, and leaves out steps with infinite gradients by itself.
        if math.isfinite(loss_sum) and (math.isfinite(norm) or self.scaler.is_enabled()):
            self.scaler.step(self.optimizer)
            progress.loss_sum += loss_sum
            progress.correct += int(correct)
            progress.gradient_sum += norm * planned if math.isfinite(norm) else 0.0
            progress.bad_steps = 0
        else:
            progress.bad_steps += 1
        self.scaler.update()
        self.optimizer.zero_grad()
        if progress.bad_steps >= MAX_BAD_STEPS:
            raise Exploded
        return stop > 0

    def add_up_gradients(self, photos: Tensor, labels: Tensor, planned: int, strength: float) -> tuple[float, int]:
        """Add up the gradients of a batch as `train_step` takes it, in smaller parts if the memory is not enough.

        Args:
            photos, labels, planned: as there.
            strength: of augmentation.

        Returns:
            The sum of the losses, and how many photos were graded right, in this process.

        Raises:
            UserError: the memory is not enough for one photo at a time.
        """
        if not len(photos):  # still, all have to take part in the mean of the gradients: a blank photo adds nothing
            blank = torch.zeros(1, 3, self.args.image_height, self.args.image_width, device=self.device)
            losses, _ = self.losses(blank, labels.new_zeros(1))
            self.scaler.scale(0 * losses.sum()).backward()
            return 0.0, 0
        while True:
            # Augmentation and dropout are the same again after an interruption, and differ between processes.
            torch.manual_seed(derive_seed(self.args.seed, self.progress.steps, 0, distributed.RANK))
            loss_sum, correct = 0.0, 0
            try:
                augmented = augment(photos, strength)
                parts = augmented.split(self.part_size()), labels.split(self.part_size())
                for number, (part, part_labels) in enumerate(zip(*parts, strict=True), start=1):
                    # The processes exchange their gradients once, with those of the last part.
                    self.parallel.require_backward_grad_sync = number == len(parts[0])
                    losses, logits = self.losses(part, part_labels)
                    loss = (losses * self.class_weights[part_labels]).sum() * distributed.WORLD_SIZE / planned
                    self.scaler.scale(loss).backward()
                    loss_sum += losses.sum().item()
                    correct += (logits.argmax(1) == part_labels).sum().item()
                return loss_sum, correct
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            if distributed.WORLD_SIZE > 1:  # the others wait for the gradients of this one
                raise UserError("out of memory: give a smaller --batch-size and a larger --accumulate.")
            self.optimizer.zero_grad()
            self.use_smaller_parts()

    def part_size(self) -> int:
        """Return how many photos go through the network at once."""
        return max(1, self.args.batch_size >> self.progress.halvings)

    def use_smaller_parts(self) -> None:
        """Halve the number of photos that go through the network at once; a step is still made of as many."""
        if self.part_size() == 1:
            raise UserError(
                "out of memory with one photo at a time: use a smaller --image-width and --image-height "
                "(--preset small or narrow), or fewer --channels."
            )
        self.progress.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        tqdm.write(
            f"Out of memory: from now on {self.part_size()} photos at once; a step still learns from as many as before."
        )

    def go_back(self) -> None:
        """After an explosion, go on from the last checkpoint with a tenth of the learning rate.

        Raises:
            UserError: that has been tried often enough.
        """
        rate_cuts, rate = self.progress.rate_cuts + 1, self.progress.learning_rate
        if rate_cuts > MAX_RATE_CUTS:
            raise UserError(
                f"the loss has exploded {rate_cuts} times (NaN). Try --learning-rate {self.args.learning_rate / 10:g} "
                f"or --clip-grad-norm 0.5, and look for corrupted photos. {LAST} is from before that."
            )
        tqdm.write(f"The loss explodes (NaN) at a rate of {rate:.1e}: back to {LAST}, with a tenth of the rate.")
        last = self.args.output / LAST
        self.load(load_checkpoint(last, NEEDED_TO_RESUME, mmap=False), last)
        self.progress.rate_cuts = rate_cuts

    def losses(self, photos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses (N,) and logits (N, classes) of photos (N, 3, H, W), bytes or 0.0 to 1.0."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            network = self.parallel if self.model.training else self.model
            logits = network(normalise(photos).to(memory_format=self.memory_format)).float()
        return F.cross_entropy(logits, self.targets[labels], reduction="none"), logits

    @torch.inference_mode()
    def evaluate(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return which photos of a split could be read, as indices (N,), and their logits (N, classes), on the CPU.

        Raises:
            Stopped: the user asked for it.
        """
        self.model.eval()
        distributed.sync_buffers(self.model)
        read, logits = [torch.empty(0, dtype=torch.long)], [torch.empty(0, len(self.classes))]
        order, size = torch.arange(len(split.paths)), self.part_size() * distributed.WORLD_SIZE
        for photos, indices in read_batches(split.paths, order, size, self.read, self.pool, distributed.batch_share()):
            if self.stop:
                break
            if len(photos):
                labels = split.labels[indices].to(self.device)
                read.append(indices)
                logits.append(self.losses(photos.to(self.device), labels)[1].cpu())
        shares = distributed.gather((torch.cat(read), torch.cat(logits), self.stop))
        read, logits, stops = zip(*shares, strict=True)
        if any(stops):
            raise Stopped
        order = torch.cat(read).argsort()
        return torch.cat(read)[order], torch.cat(logits)[order]

    def end_epoch(self, log: TensorBoardLog, read: Tensor, logits: Tensor) -> None:
        """Log an epoch and, if it is the best one, save it.

        Args:
            log: where to.
            read, logits: of the validation photos, as `evaluate` returns them.
        """
        args, progress = self.args, self.progress
        labels = self.val.labels[read]
        train = {
            "loss": progress.loss_sum / progress.seen,
            "accuracy": progress.correct / progress.seen,
            "learning rate": progress.learning_rate,
            "gradient norm": progress.gradient_sum / progress.seen,
            "photos per second": progress.seen / progress.seconds,
        }
        loss = F.cross_entropy(logits, self.targets.cpu()[labels]).item()
        val = {"loss": loss, "accuracy": (logits.argmax(1) == labels).float().mean().item()}  # nan without photos
        best = progress.end_epoch(logits, labels)
        if len(labels):
            paths = [self.val.paths[index] for index in read.tolist()]
            evaluation = Evaluation(self.classes, paths, labels.numpy(), logits.softmax(dim=1).numpy(), {})
            log.evaluation(progress.epochs, args.num_epochs, evaluation, self.model, self.device)
        log.epoch(progress.epochs, train, val if len(labels) else {})
        print(
            f"Epoch {progress.epochs:{len(str(args.num_epochs))}}/{args.num_epochs}   "
            f"loss {train['loss']:.3f} (validation {val['loss']:.3f})   "
            f"accuracy {train['accuracy']:.3f} (validation {val['accuracy']:.3f})   "
            f"rate {train['learning rate']:.1e}   {train['photos per second']:.1f} photos/s"
            f"{'   kept' if best else ''}",
            flush=True,
        )
        if best:
            if not progress.best_epoch:
                keep_previous(args.output / BEST)
            progress.best_epoch = progress.epochs
            if len(labels):
                progress.best_val_acc = val["accuracy"]
            self.save()
            self.keep_best()
        elif (time.perf_counter() - self.last_save) * MAX_SAVING_SHARE > self.seconds_to_save:
            self.save()

    def save(self) -> None:
        """Write `LAST`, if this is the first process: tensors and plain values, for predict.py and to go on from."""
        if not distributed.IS_MAIN:
            return
        started = time.perf_counter()
        if not self.saved_progress:
            keep_previous(self.args.output / LAST)
        self.saved_progress = asdict(self.progress)
        checkpoint = {
            "format_version": FORMAT_VERSION,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
            "best_val_acc": self.progress.best_val_acc,
            "classes": self.classes,
            "dataset": self.dataset,
            "model": self.args.model,
            "temperature": self.progress.temperature,
            "architecture": self.architecture,
            "config": self.config,
            "progress": self.saved_progress,
        }
        save_tensors(checkpoint, self.args.output / LAST)
        self.last_save = time.perf_counter()
        self.seconds_to_save = self.last_save - started

    def keep_best(self) -> None:
        """Make `BEST` the checkpoint that `LAST` is."""
        atomic_link(self.args.output / LAST, self.args.output / BEST)

    def load(self, checkpoint: dict, path: Path) -> None:
        """Go on from a checkpoint that was loaded from `path`.

        Raises:
            UserError: it is of other grades, photos or architecture, or parts of it do not fit together.
        """
        if checkpoint["classes"] != self.classes:
            raise UserError(
                f"the run to resume has other grades than {self.args.data}; train with --init-from {path} instead."
            )
        if (checkpoint["model"], checkpoint["architecture"]) != (self.args.model, self.architecture):
            raise UserError("the run to resume has another architecture than these options; train without --resume.")
        with damage_as_user_error(path):
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
            progress = Progress.load(checkpoint["progress"])
        self.progress, self.saved_progress = progress, checkpoint["progress"]
        if changes:  # the order of photos is another one: begin the epoch again
            progress.begin_epoch()

    def example_photos(self) -> np.ndarray:
        """Return some augmented photos with their grades, as a picture (height, width, 3), uint8."""
        torch.manual_seed(self.args.seed)
        shown = torch.randperm(len(self.train.paths))[:SHOWN_PHOTOS]
        photos, indices = next(read_batches(self.train.paths, shown, SHOWN_PHOTOS, self.read, self.pool))
        photos = (augment(photos, self.args.augment) * 255).byte().permute(0, 2, 3, 1).numpy()
        return photo_grid(photos, [self.classes[label] for label in self.train.labels[indices]])

    def ask_to_stop(self, *_: object) -> None:
        """Handle Ctrl-C and SIGTERM: save after the step at hand; the next Ctrl-C stops at once."""
        self.stop = True
        set_stop_handler(None)


# ---------------------------------------------------------------- checkpoints and machines


def build_model(checkpoint: dict, path: Path) -> nn.Module:
    """Return the trained network of a checkpoint that was loaded from `path`, ready to predict.

    Raises:
        UserError: parts of it do not fit together.
    """
    weights, classes = checkpoint["model_state_dict"], checkpoint["classes"]
    with damage_as_user_error(path):
        with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
            model = MODELS[checkpoint["model"]][0](len(classes), **checkpoint["architecture"]).eval()
        width, height = model.image_width, model.image_height
        if min(width, height) < 1 or width % 2 or width * height > MAX_PIXELS:
            raise ValueError(f"photos of {width}x{height} pixels")
        state = model.state_dict()
        if sum(tensor.numel() * weights[name].element_size() for name, tensor in state.items()) > path.stat().st_size:
            raise ValueError("a network larger than the file")
        if any(weights[name].is_floating_point() != tensor.is_floating_point() for name, tensor in state.items()):
            raise ValueError("weights of another type of number")
        if not all(isinstance(name, str) for name in classes) or not checkpoint["temperature"] > 0:
            raise ValueError("wrong grades or temperature")
        model.load_state_dict(dict(weights), assign=True)  # a copy, since torch notes in the dict that it is assigned
    return model.float()  # what is shared may be in fp16


def start_from_other(trainer: Trainer) -> None:
    """Give the network the weights of a trained one; the last layer only where the grades are the same.

    Raises:
        UserError: there are no such weights, or they are of another architecture.
    """
    args = trainer.args
    if args.init_from:
        checkpoint = load_checkpoint(args.init_from)
        weights, same_classes = checkpoint["model_state_dict"], checkpoint["classes"] == trainer.classes
    else:
        weights, same_classes = pretrained_resnet50(args.pretrained), False
    source = args.init_from or args.pretrained
    with damage_as_user_error(source):
        for name, tensor in trainer.model.state_dict().items():
            if same_classes or not name.startswith(f"{MODELS[args.model][1]}."):
                if name not in weights or weights[name].shape != tensor.shape:
                    raise UserError(f"{source} is of another architecture (see {name}): give its training's options.")
                tensor.copy_(weights[name])
    print(f"Starting from {source}{'' if same_classes else ', all but its last layer'}")


# ---------------------------------------------------------------- the command


def main() -> int | None:
    """Run the command."""
    with distributed.process_group():
        with nullcontext() if distributed.IS_MAIN else redirect_stderr(sys.stdout):  # a wrong option is told once
            args, checkpoint = parse_arguments()
        report = args.output / "report"
        check_report(report)
        lock = exclusive_lock(args.output / LOCK, f"checkpoints to {args.output.resolve()}")
        with lock if distributed.IS_MAIN else nullcontext():
            return train_and_test(args, checkpoint, report)


def train_and_test(args: argparse.Namespace, checkpoint: dict | None, report: Path) -> int | None:
    """Train, from the start or from a checkpoint, and test; the exit status is 130 if the user stopped it."""
    classes = find_classes(args.data)
    train, val, test = (find_split(args.data / split, classes) for split in SPLITS)
    trainer = Trainer(args, classes, train, val, find_device(args.device))
    if checkpoint:
        trainer.load(checkpoint, args.output / LAST)
        checkpoint.clear()  # as large as the network and the optimiser
        saved = trainer.saved_progress
        if distributed.IS_MAIN and 0 < saved["best_epoch"] == saved["epochs"] and not saved["seen"]:
            trainer.keep_best()  # the run may have been killed just before it did
    elif args.init_from or args.pretrained:
        start_from_other(trainer)
    set_stop_handler(trainer.ask_to_stop)

    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"Photos: {len(train.paths)} for training, {len(val.paths)} for validation, {len(test.paths)} for the test")
    if not val.paths:
        print("Without validation photos, the last epoch is kept, and its confidence is not calibrated.")
    print(f"Grades: {', '.join(classes)}")
    print(f"Network: {parameters / 1e6:.1f} million parameters, in {trainer.dtype} on {trainer.device}")
    if trainer.device.type == "cpu" and max(args.channels) > max(PRESETS["narrow"]["channels"]):
        print("Without a GPU, this will take long: --preset narrow is many times as fast.")
    if trainer.progress.epochs >= args.num_epochs:
        print(f"This run has finished its {args.num_epochs} epochs; a larger --num-epochs trains it further.")
    elif args.resume:
        print(f"Going on after step {trainer.progress.steps}, in epoch {trainer.progress.epochs + 1}")
    print(f"Watch it: tensorboard --logdir={args.runs}\n", flush=True)
    copies = 2 if args.resume else 3  # at once there are BEST, LAST and the next one, of weights and two averages each
    try:
        with require_disk_space(copies * 3 * 4 * parameters, args.output):
            trainer.fit()
    except Stopped:
        print(f"Stopped at step {trainer.progress.steps}. To go on, give the same command with --resume.")
        return (
            130 if distributed.IS_MAIN else 0
        )  # where another failed, torchrun would end the first, which may be saving
    if not distributed.IS_MAIN:
        return 0

    best = args.output / BEST
    set_stop_handler(None)  # the model is saved
    if test.paths:
        checkpoint = load_checkpoint(best)
        trainer.model.load_state_dict(checkpoint["model_state_dict"])
        network = Network(trainer.model.eval(), checkpoint["temperature"])
        evaluation = evaluate([network], classes, test, trainer.device)
        predictions = evaluation.predictions
        print(f"\nTest, with the best weights (epoch {trainer.progress.best_epoch}): {summarise(predictions)}")
        if val.paths:
            before = uncalibrated(predictions, network.temperature)
            print(
                f"ECE {score(predictions)['ece']:.3f}, and {score(before)['ece']:.3f} without the temperature "
                f"{network.temperature:.2f}, which was fitted on the validation photos"
            )
        about = {"checkpoint": str(best), "data": str(args.data / "test")}
        write_report(evaluation, trainer.model, trainer.device, about, report)
        print(f"\nThe report is in {report / 'index.html'}.")
    name = "" if best == Path(BEST) else f" --checkpoint {best}"
    print(f"\nThe model is in {best}. Next: python predict.py{name} photo.jpg")


def parse_arguments() -> tuple[argparse.Namespace, dict | None]:
    """Return the options of the command line, checked, and the checkpoint to resume.

    What is not given on the command line comes from that checkpoint, or else from the preset.
    """
    parser = ArgumentParser(__doc__)
    on_or_off = argparse.BooleanOptionalAction
    add = parser.add_argument_group("photos and files").add_argument
    add("--data", type=Path, default=DATASET, help="dataset that prepare_dataset.py has made")
    add("--output", type=Path, default=Path(), help=f"folder for {BEST}, {LAST} and report/")
    add("--runs", type=Path, default=RUNS, help="folder for TensorBoard")
    add("--graph", action="store_true", help="show the network's graph in TensorBoard")
    add("--resume", action="store_true", help=f"go on from {LAST}, with its options")
    add("--accept-changes", action="store_true", help="resume though photos have been added, removed or replaced")

    add = parser.add_argument_group("training").add_argument
    add(
        "--preset",
        choices=PRESETS,
        help="narrow: no GPU; small: GPU below 8 GB; medium: to 16 GB; large: above; demo: to try",
    )
    add("--image-width", type=int, default=IMAGE_WIDTH, help="pixels")
    add("--image-height", type=int, default=IMAGE_HEIGHT, help="pixels")
    add("--batch-size", type=int, default=BATCH_SIZE, help="photos at once; reduce if out of memory")
    add("--accumulate", type=int, default=ACCUMULATE, help="batches whose gradients make one step")
    add("--num-epochs", "--epochs", type=int, default=NUM_EPOCHS, help="times to go through the training photos")
    add("--learning-rate", type=float, default=LEARNING_RATE, help="the highest; layers of many inputs get less")
    add("--warmup", type=float, default=WARMUP, help="share of the steps in which the learning rate rises")
    add("--weight-decay", type=float, default=WEIGHT_DECAY, help="how strongly weights are pulled towards 0 (AdamW)")
    add("--clip-grad-norm", type=float, default=CLIP_GRAD_NORM, help="longer gradients are shortened; 0: never")
    add("--label-spread", type=float, default=LABEL_SPREAD, help="grades that a label reaches to both sides; 0: none")
    add("--augment", type=float, default=AUGMENT, help="how strongly training photos are varied; 0: not at all")
    add("--class-weights", action=on_or_off, default=False, help="let every grade count the same, however few photos")
    add("--patience", type=int, default=PATIENCE, help="stop after so many epochs that are no better; 0: never")
    add("--seed", type=int, default=SEED, help="the same seed gives the same model on the same machine")

    add = parser.add_argument_group("network").add_argument
    add("--model", choices=MODELS, default="custom", help="custom: the flags below shape it; resnet50: torchvision's")
    add("--init-from", type=Path, metavar="CHECKPOINT", help="start from a trained model, of the same or other grades")
    add("--pretrained", nargs="?", const="download", metavar="FILE", help="start resnet50 from ImageNet's weights")
    add("--channels", type=int, nargs="+", default=CHANNELS, help="of each block; 4 drop block 5, 6 add a block")
    add("--fc-features", type=int, nargs=2, default=FC_FEATURES, help="outputs of fc1 and fc2")
    add("--dropout", type=float, default=DROPOUT, help="share of features dropped after fc1 and fc2, in the end")
    add("--activation", choices=ACTIVATIONS, default=ACTIVATION, help="after each layer")
    add("--residual", action=on_or_off, default=False, help="a skip connection for each block")

    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="auto: the fastest here")
    add("--fused", action=on_or_off, default=True, help="take a step over all weights in one operation")
    add("--cache-gb", type=float, default=CACHE_GB, help="memory for decoded photos")

    args, checkpoint = parser.parse_args(), None
    options = config_to_flags(PRESETS[args.preset]) if args.preset else []
    if args.resume:
        checkpoint = load_checkpoint(args.output / LAST, NEEDED_TO_RESUME, mmap=False)
        build_model(checkpoint, args.output / LAST)  # before its options are used to make a network of any size
        options += config_to_flags(checkpoint["config"] | checkpoint["architecture"] | {"output": args.output})
    args = parser.parse_args(options + sys.argv[1:])
    args.channels, args.fc_features = list(args.channels), list(args.fc_features)

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
    if args.pretrained and (args.model != "resnet50" or args.init_from):
        parser.error("--pretrained is for --model resnet50, without --init-from")
    if args.batch_size * args.accumulate % distributed.WORLD_SIZE:
        parser.error(f"--batch-size times --accumulate must be a multiple of the {distributed.WORLD_SIZE} processes")
    if not args.learning_rate > 0:
        parser.error("--learning-rate must be above 0")
    if args.seed >= 2**63:
        parser.error("--seed must be below 2**63")
    return args, checkpoint


if __name__ == "__main__":
    run(main)
