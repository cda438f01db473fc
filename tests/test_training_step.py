"""What single steps of a training do with the settings, the random numbers, and what goes wrong."""

import signal
import sys
from itertools import count

import pytest
import torch
from conftest import SMALL
from torch import nn

import coin_classifier_custom as coin
from benchmarks.training_step import make_trainer, read_batch
from coinkit.dataset import describe_changes, find_split, fingerprint
from coinkit.layers import StandardisedConv2d
from coinkit.optim import learning_rate_factor


@pytest.fixture
def make(dataset, tmp_path, monkeypatch):
    """Makes a trainer with these options, for 24 photos, which are 6 steps an epoch."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # make_trainer sets it
    return lambda *options: make_trainer(dataset, tmp_path, [*SMALL, *options])


def test_steps_have_the_learning_rate_of_the_schedule_and_a_clipped_gradient(make):
    trainer = make("--num-epochs", 2, "--warmup", 0.25, "--clip-grad-norm", 1e-3)
    rates, norms, step = [], [], trainer.optimizer.step

    def record(*args, **options):
        rates.append(max(group["lr"] for group in trainer.optimizer.param_groups))
        norms.append(nn.utils.get_total_norm([weight.grad for weight in trainer.model.parameters()]).item())
        return step(*args, **options)

    trainer.optimizer.step = record
    trainer.train_epoch()
    trainer.progress.epochs, trainer.progress.rate_cuts = 1, 1  # as after an explosion
    trainer.progress.begin_epoch()
    trainer.train_epoch()
    expected = [0.005 * learning_rate_factor((number + 0.5) / 12, 0.25) for number in range(12)]
    assert rates == pytest.approx(expected[:6] + [0.1 * rate for rate in expected[6:]])
    assert rates[0] < rates[2] > rates[5] and max(norms) == pytest.approx(1e-3, rel=0.01)


def test_a_seed_fixes_the_weights_and_the_order_of_each_epoch(make, monkeypatch):
    orders, weights = [], []
    monkeypatch.setattr(coin, "read_batches", lambda paths, order, *_: orders.append(order.tolist()) or iter(()))
    for seed in (0, 0, 1):
        trainer = make("--seed", seed)
        weights.append(trainer.model.fc1.weight)
        trainer.train_epoch()
        trainer.progress.epochs = 1
        trainer.train_epoch()
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert orders[:2] == orders[2:4] and orders[0] != orders[4] and orders[0] != orders[1]


def test_each_step_is_augmented_in_its_own_way(make, monkeypatch):
    seeds = []
    monkeypatch.setattr(coin, "augment", lambda photos, _: seeds.append(torch.initial_seed()) or photos.float() / 255)
    make().train_epoch()
    assert len(seeds) == len({*seeds}) == 6


def test_photos_of_rare_grades_weigh_more_with_class_weights(make, dataset):
    for path in sorted((dataset / "train" / "vf30").iterdir())[2:]:
        path.unlink()
    trainer = make("--class-weights")
    photos, indices = read_batch(trainer)
    labels = trainer.train.labels[indices]
    trainer.backward(photos, labels, 4, 0.0)
    probabilities = torch.full((3,), 1 / 3)  # all grades are equally likely at first
    expected = (trainer.class_weights[labels, None] * (probabilities - trainer.targets[labels])).sum(dim=0) / 4
    assert trainer.class_weights[labels[0]] != 1 and torch.allclose(trainer.model.fc3.bias.grad, expected, atol=1e-6)


def test_a_step_without_memory_leaves_no_gradient_to_the_next_try(make):
    trainer = make("--batch-size", 2, "--accumulate", 2)
    photos, indices = read_batch(trainer)
    step = torch.cat([photos, photos]), trainer.train.labels[indices].repeat(2), 4, 0.0
    trainer.backward(*step)
    expected = trainer.model.fc3.bias.grad.clone()
    trainer.optimizer.zero_grad()
    compute_logits, calls = trainer.compute_logits, count()

    def compute_without_memory(photos):
        if next(calls) == 1:  # when the first half of the step has its gradient
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute_logits(photos)

    trainer.compute_logits = compute_without_memory
    trainer.backward_within_memory(*step)
    assert trainer.progress.halvings == 1 and torch.allclose(trainer.model.fc3.bias.grad, expected, atol=1e-6)


def test_an_infinite_gradient_of_a_finite_loss_changes_nothing(make):
    trainer = make()
    compute_logits = trainer.compute_logits

    def compute_with_a_bad_gradient(photos):
        logits = compute_logits(photos)
        logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits

    trainer.compute_logits = compute_with_a_bad_gradient
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train_step(*read_batch(trainer), 4)
    assert trainer.progress.bad_steps == 1
    assert all(weight.equal(before[name]) for name, weight in trainer.model.state_dict().items())


def test_a_second_ctrl_c_stops_at_once(make, monkeypatch):
    trainer, handlers = make(), {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.update({number: handler}))
    trainer.ask_to_stop()
    assert trainer.stop and handlers[signal.SIGINT] is signal.default_int_handler


def test_a_photo_that_was_replaced_by_another_is_noticed(dataset):
    classes = ["g06", "vf30", "ms65"]
    split = find_split(dataset / "train", classes)
    before = {"train": fingerprint(split, classes)}
    assert not describe_changes(before, {"train": fingerprint(split, classes)})
    split.paths[0].write_bytes(split.paths[0].read_bytes() + b"0")
    assert describe_changes(before, {"train": fingerprint(split, classes)}) == "train/g06 (other photos)"


def test_only_weights_of_layers_decay(make):
    groups = make().optimizer.param_groups
    assert {group["weight_decay"] > 0 for group in groups} == {False, True}
    for group in groups:
        assert all((weight.dim() > 1) == (group["weight_decay"] > 0) for weight in group["params"])


def test_standardised_weights_forget_their_scale_and_mean():
    layer = StandardisedConv2d(3, 4, 3, bias=False)
    photos = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = layer(photos)
    with torch.no_grad():
        layer.weight.mul_(3).add_(1)
    assert torch.allclose(layer(photos), before, atol=1e-4)
