from __future__ import annotations

import pytest
import torch
from transformers import SwinModel

from models.mra import MRAConfig
from models.mra.vision import VisionEncoder, swin_config


def encoder(image_size: tuple[int, int], window: int, depths: tuple[int, ...]) -> VisionEncoder:
    torch.manual_seed(1)
    config = MRAConfig(
        image_size=image_size,
        vision_dim=8,
        depths=depths,
        vision_heads=(2,) * len(depths),
        window_size=window,
        drop_path=0.0,
    )
    model = VisionEncoder(swin_config(config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize(
    ("image_size", "window", "depths"),
    [((64, 32), 4, (2, 2)), ((96, 48), 6, (2, 2)), ((56, 56), 7, (2, 1)), ((48, 48), 6, (1, 2))],
)
@torch.no_grad()
def test_it_is_the_stock_swin_where_that_works(
    image_size: tuple[int, int], window: int, depths: tuple[int, ...]
) -> None:
    ours = encoder(image_size, window, depths)
    stock = SwinModel(ours.config, add_pooling_layer=False).eval()
    stock.load_state_dict(ours.state_dict())
    image = torch.randn(3, 3, *image_size)
    torch.testing.assert_close(
        ours(image)[:, 1:], stock(image).last_hidden_state, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_token_0_is_the_mean_of_the_normalised_tokens() -> None:
    model = encoder((48, 24), 3, (2, 2))
    tokens = model(torch.randn(2, 3, 48, 24))
    assert tokens.shape == (2, 1 + 6 * 3, 16)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))
    # LayerNorm without affine change: each token has mean 0 and variance 1.
    torch.testing.assert_close(tokens[:, 1:].mean(-1), torch.zeros(2, 18), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        tokens[:, 1:].var(-1, unbiased=False), torch.ones(2, 18), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("image_size", [(96, 48), (384, 256), (52, 28), (36, 20), (8, 4)])
@torch.no_grad()
def test_any_grid_works(image_size: tuple[int, int]) -> None:
    model = encoder(image_size, 7, (2, 2))
    tokens = model(torch.randn(1, 3, *image_size))
    rows, columns = (-(-side // 8) for side in image_size)
    assert tokens.shape == (1, 1 + rows * columns, 16)
    assert tokens.isfinite().all()


@torch.no_grad()
def test_shifted_windows_see_over_the_border_and_unshifted_ones_do_not() -> None:
    image = torch.randn(1, 3, 32, 32)
    changed = image.clone()
    changed[:, :, :, :4] += 1.0  # the first column of patches
    for depth, reaches in ((1, False), (2, True)):
        model = encoder((32, 32), 4, (depth,))
        difference = (model(image) - model(changed))[0, 1:].abs().sum(-1).view(8, 8)
        assert (difference[:, :4] > 0).all()
        assert bool((difference[:, 4] > 0).any()) is reaches
        # Nothing wraps around from the first column to the last window's far side.
        assert bool((difference[:, 6:] > 0).any()) is False


def test_it_trains_after_inference_mode() -> None:
    """The mask of shifted windows is kept: one made in inference mode must not break training."""
    model = encoder((32, 32), 4, (2,))
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(image)
    output = model(image)
    output.square().sum().backward()
    torch.testing.assert_close(output, expected)
    table = model.encoder.layers[0].blocks[1].attention.relative_position_bias
    assert table.relative_position_bias_table.grad is not None


def test_drop_path_covers_both_branches() -> None:
    model = encoder((32, 32), 4, (1, 1))
    block = model.encoder.layers[1].blocks[0]
    block.drop_path = type("Nothing", (torch.nn.Module,), {"forward": lambda _, x: 0 * x})()
    tokens = torch.randn(2, 16, 16)
    torch.testing.assert_close(block(tokens, (4, 4)), tokens)
