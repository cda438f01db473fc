import numpy as np
import pytest
import torch

from coin_classifier_custom import make_model
from coinkit.figures import overlay
from coinkit.heatmaps import heatmaps

SIZE = {"image_width": 256, "image_height": 128}


def small_model(channels=(4, 4, 4, 4), **options):
    torch.manual_seed(0)
    model = make_model("custom", 3, SIZE | {"channels": channels, "fc_features": (8, 8)} | options).eval()
    torch.nn.init.normal_(model.fc3.weight)
    return model


@pytest.mark.parametrize(
    "make",
    [
        small_model,
        lambda: small_model(channels=(4,) * 5, residual=True),
        lambda: small_model(channels=(4,) * 6, activation="leaky_relu"),
        lambda: make_model("resnet50", 3, SIZE).eval(),
    ],
)
def test_every_network_has_heatmaps_of_the_size_of_the_photos(make):
    torch.manual_seed(0)  # with some weights, nothing speaks for a grade, and its heatmap is 0
    model, photos = make(), torch.rand(2, 3, 128, 256)
    with torch.inference_mode():  # in which nothing else has gradients
        maps = heatmaps(model, photos, [0, 2])
    assert maps.shape == (2, 128, 256)
    assert maps.min() >= 0 and maps.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert torch.allclose(heatmaps(model, photos[1:], [2]), maps[1:], atol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_heat_is_where_the_grade_is_seen():
    """A network whose first grade is what its last convolution finds in the left half, which is not flat."""
    model = small_model()
    with torch.no_grad():
        for parameter in (*model.fc1.parameters(), *model.fc2.parameters(), *model.fc3.parameters()):
            parameter.zero_()
        model.fc1.weight.unflatten(1, (4, 8, 16))[0, :, :, :8] = 1
        model.fc2.weight[0, 0] = model.fc3.weight[0, 0] = 1
    photos = torch.zeros(1, 3, 128, 256)
    photos[..., 40:72, 40:72] = torch.rand(32, 32)
    heat = heatmaps(model, photos, [0])[0]
    assert heat[40:72, 40:72].mean() > 3 * heat[:, 128:].mean()
    assert not heatmaps(model, photos, [1]).any()  # nothing speaks for the second grade


def test_heatmaps_explain_what_comes_over_a_skip_connection():
    model = small_model(residual=True)
    with torch.no_grad():
        model.fc3.weight.normal_()
        for norm in (model.conv_block4.block[-3], model.conv_block4.block[-6]):
            norm.weight.zero_()
            norm.bias.zero_()
    photos = torch.rand(1, 3, 128, 256)
    assert any(heatmaps(model, photos, [grade]).any() for grade in range(3))


def test_an_overlay_reddens_the_hot_part_and_leaves_the_cold_part():
    photo = np.full((4, 8, 3), 128, dtype=np.uint8)
    heatmap = np.zeros((4, 8))
    heatmap[:, :4] = 1
    picture = overlay(photo, heatmap)
    assert picture.shape == photo.shape and picture.dtype == np.uint8
    assert (picture[:, 4:] == photo[:, 4:]).all()
    assert (picture[:, :4, 0] > picture[:, :4, 1]).all() and (picture[:, :4, 0] > picture[:, :4, 2]).all()
