"""Linear maps by oneDNN: the same numbers, and only where no gradient is wanted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.linear import by_onednn, linear


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 130])
@pytest.mark.parametrize("bias", [False, True])
def test_the_same_numbers_as_torch(rows, gelu, bias):
    torch.manual_seed(rows)
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(rows, 24)
    with torch.inference_mode():
        assert by_onednn(x)
        found = linear(layer, x, gelu=gelu)
    expected = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, F.gelu(expected) if gelu else expected)


def test_gradients_types_and_no_rows_go_the_ordinary_way():
    layer = nn.Linear(4, 3)
    x = torch.randn(2, 4, requires_grad=True)
    linear(layer, x, gelu=True).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    with torch.inference_mode():
        assert linear(layer, torch.zeros(0, 4)).shape == (0, 3)
        assert linear(layer.bfloat16(), torch.zeros(1, 4).bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(nn.Linear(4, 3), torch.zeros(1, 4)).dtype == torch.bfloat16
