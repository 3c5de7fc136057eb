"""Stubs of the loops of an LSTM; the docstrings stand in recurrent.pyx."""

from ..engine.graph import Tensor

def lstm_forward(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...
def lstm_backward(
    g: Tensor,
    g_last: Tensor,
    x: Tensor,
    h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    y: Tensor,
    kept: Tensor,
    cells: Tensor,
    of_x: bool,
    of_bias: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor | None]: ...
