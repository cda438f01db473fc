import math

import pytest
import torch
from torch.nn import functional as F

from coin_classifier_custom import CoinClassifier
from coinkit.calibration import fit_temperature
from coinkit.losses import balanced_class_weights, share_learned, soft_labels
from coinkit.optim import (
    label_spread,
    learning_rate_factor,
    load_optimizer_state,
    make_optimizer,
    regularisation_factor,
)


def shapes(model, width, height):
    """The (channels, width, height) that each block puts out; on the meta device nothing is computed."""
    outputs = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, x, name=name: outputs.update({name: tuple(x.shape)}))
    with torch.no_grad():
        logits = model(torch.empty(2, 3, height, width, device="meta"))
    blocks = [(c, w, h) for name, (_, c, h, w) in ((n, s) for n, s in outputs.items() if n.startswith("conv_block"))]
    return blocks, tuple(logits.shape)


def build(*arguments, **options):
    with torch.device("meta"):
        return CoinClassifier(*arguments, **options)


def test_the_default_network_is_the_one_in_the_guide():
    model = build(7)
    blocks, logits = shapes(model, 512, 256)
    assert blocks[:5] == [(64, 256, 128), (128, 128, 64), (256, 64, 32), (512, 32, 16), (512, 16, 8)]
    assert logits == (2, 7)
    convolutions = [
        sum(isinstance(layer, torch.nn.Conv2d) for layer in getattr(model, f"conv_block{number}").modules())
        for number in range(1, 6)
    ]
    assert convolutions == [2, 2, 3, 3, 2]
    assert (model.fc1.in_features, model.fc1.out_features) == (65536, 2048)
    assert (model.fc2.in_features, model.fc2.out_features) == (2048, 1024)
    assert (model.fc3.in_features, model.fc3.out_features) == (1024, 7)
    assert (model.dropout1.p, model.dropout2.p) == (0.5, 0.5)
    convolution_weights = 9 * (
        3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256**2 + 256 * 512 + 4 * 512**2
    )
    fc_parameters = 65537 * 2048 + 2049 * 1024 + 1025 * 7
    norms = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 5 * 512)
    assert sum(parameter.numel() for parameter in model.parameters()) == convolution_weights + fc_parameters + norms


@pytest.mark.parametrize(
    ("size", "options", "last_block"),
    [
        ((1024, 512), {}, (512, 32, 16)),
        ((256, 128), {}, (512, 8, 4)),
        ((512, 256), {"channels": (8, 8, 8, 16)}, (16, 32, 16)),
        ((512, 256), {"channels": (8, 8, 8, 8, 8, 24)}, (24, 8, 4)),
        ((512, 256), {"channels": (8, 8, 8, 8, 12), "residual": True}, (12, 16, 8)),
    ],
)
def test_sizes_and_blocks_can_be_chosen(size, options, last_block):
    model = build(4, *size, **options)
    blocks, logits = shapes(model, *size)
    channels = options.get("channels", (0,) * 5)
    assert blocks[len(channels) - 1] == last_block
    assert logits == (2, 4)
    if size == (1024, 512):
        assert model.fc1.in_features == 65536


def test_labels_are_soft_along_the_scale_only():
    rows = soft_labels(["g04", "vf20", "ms65", "details"], spread=0.7)
    assert torch.allclose(rows.sum(dim=1), torch.ones(4))
    assert rows[0, 0] > rows[0, 1] > rows[0, 2] > 0 and rows[1, 0] == rows[1, 2]
    assert rows[3].tolist() == [0, 0, 0, 1] and rows[0, 3] == 0
    assert torch.equal(soft_labels(["g04", "vf20"], spread=0), torch.eye(2))


def test_layers_with_many_inputs_learn_more_slowly():
    model = build(4)
    rates = {
        id(parameter): group["lr"]
        for group in make_optimizer(model, 0.001, 0.1, fused=False).param_groups
        for parameter in group["params"]
    }
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.conv_block1[0].weight)] == rates[id(model.fc1.bias)] == 0.001
    assert rates[id(model.fc1.weight)] == pytest.approx(0.001 * 576 / 65536)


def test_averages_follow_the_memory_format_of_their_weights():
    """A run in bf16 has the channels last; one in fp32, which goes on with it, has not."""

    def optimizer(memory_format):
        layer = torch.nn.Conv2d(2, 4, 3).to(memory_format=memory_format)
        return layer, make_optimizer(layer, 0.1, 0, fused=True)

    layer, saved = optimizer(torch.channels_last)
    layer(torch.rand(1, 2, 8, 8)).square().sum().backward()
    saved.step()
    other, loaded = optimizer(torch.contiguous_format)
    load_optimizer_state(loaded, saved.state_dict())
    averages, expected = (state.state[model.weight] for state, model in ((loaded, other), (saved, layer)))
    for name in ("exp_avg", "exp_avg_sq"):
        assert averages[name].stride() == other.weight.stride() != expected[name].stride()
        assert torch.equal(averages[name], expected[name])


def test_the_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(step / 100, warmup=0.1) for step in range(101)]
    assert max(factors) == factors[10] == 1
    assert factors[:11] == sorted(factors[:11]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0)


def test_regularisation_grows_no_faster_than_the_network_learns():
    assert regularisation_factor(0, learned=0.9) == 0 < regularisation_factor(0.9, learned=0) < 0.05
    assert regularisation_factor(0.9, learned=0.2) == regularisation_factor(0.2, learned=0.9) == 0.4
    assert regularisation_factor(0.6, learned=0.6) == 1


def test_labels_of_many_grades_are_wide_at_first():
    assert label_spread(0, 0.7, 25) == 4 > label_spread(0.25, 0.7, 25) > label_spread(0.5, 0.7, 25) == 0.7
    assert label_spread(1, 0.7, 25) == label_spread(0, 0.7, 5) == 0.7
    assert label_spread(0, 0.0, 25) == 0


def test_what_is_learned_lies_between_a_guess_and_the_lowest_loss():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    targets = soft_labels(["f12", "vf20", "ef40"], spread=0.7)
    of_photos = targets[labels]
    guess = F.cross_entropy(of_photos.mean(dim=0).log().expand(100, 3), of_photos).item()
    lowest = F.cross_entropy(of_photos.log(), of_photos).item()
    for loss, learned in ((guess, 0), ((guess + lowest) / 2, 0.5), (lowest, 1), (2 * guess, 0), (math.nan, 0)):
        assert share_learned(loss, targets, labels, torch.ones(3)) == pytest.approx(learned, abs=1e-5)
    weights = balanced_class_weights(labels, 3)  # with these, the best guess says that all three are as likely
    guess = F.cross_entropy(targets.mean(dim=0).log().expand(100, 3), of_photos).item()
    assert share_learned(guess, targets, labels, weights) == pytest.approx(0, abs=1e-5)


def test_the_temperature_makes_the_confidence_right():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, abs=0.15)
    assert 1 < fit_temperature(3 * logits[:2], labels[:2]) < 2.5  # two photos do not decide
