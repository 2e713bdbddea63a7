"""PixelRNN: every pixel is predicted from those before it, by LSTMs on rows or diagonals (van den Oord et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.models.drawing import condition
from fastssl.models.pixels import Drawn, MaskedConv2d, PixelNetwork, check_layers

LSTMS = ("row", "diagonal")


class _States:
    """Hidden and cell states of an LSTM as far as they are known, [B, width, S + 1, S + 2] each: with zeros above the
    first row, and before and behind the columns."""

    def __init__(self, like: Tensor, width: int) -> None:
        count, _, size, _ = like.shape
        self.hidden, self.cells = like.new_zeros(2, count, width, size + 1, size + 2)


def _lstm(gates: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden and cell states of gates [B, 4 width, ...] and the cell states before."""
    keep, write, show, new = gates.chunk(4, 1)
    cells = torch.sigmoid(keep) * cells + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(show) * torch.tanh(cells), cells


class _RowLSTM(nn.Module):
    """Row by row: the states of a pixel depend on those of the three pixels above it, and on its row up to it."""

    def __init__(self, inputs: int, width: int, colors: int) -> None:
        super().__init__()
        self.width = width
        self.inputs = MaskedConv2d(inputs, 4 * width, (1, 3), "B", colors, split=4)
        self.states = nn.Conv1d(width, 4 * width, 3, padding=1, bias=False)

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        gates = _added(self.inputs(x), given)
        hidden = cells = gates.new_zeros(x.shape[0], self.width, x.shape[3])
        rows = []
        for row in range(x.shape[2]):
            hidden, cells = _lstm(gates[:, :, row] + self.states(hidden), cells)
            rows.append(hidden)
        return torch.stack(rows, 2)

    def begin(self, x: Tensor) -> list[_States]:
        return [_States(x, self.width)]

    def begin_row(self, x: Tensor, given: Tensor | None, states: list[_States], row: int) -> Tensor:
        """What the gates of a row get from the row above, [B, 4 width, S]."""
        result: Tensor = self.states(states[0].hidden[:, :, row, 1:-1])
        return result

    def at(
        self, x: Tensor, given: Tensor | None, states: list[_States], above: Tensor, row: int, column: int
    ) -> Tensor:
        """The hidden state of a pixel, [B, width]."""
        gates = _added(self.inputs.at(x, row, column), given)[:, :, 0, 0] + above[:, :, column]
        one = states[0]
        hidden, cells = _lstm(gates, one.cells[:, :, row, column + 1])
        one.hidden[:, :, row + 1, column + 1], one.cells[:, :, row + 1, column + 1] = hidden, cells
        return hidden


def _skewed(x: Tensor) -> Tensor:
    """Row r of maps [B, C, H, W] r columns to the right, [B, C, H, H + W - 1]: diagonals become columns."""
    high, wide = x.shape[2:]
    return TF.pad(x, (0, high)).flatten(2)[:, :, : high * (high + wide - 1)].unflatten(2, (high, high + wide - 1))


def _unskewed(x: Tensor) -> Tensor:
    high, wide = x.shape[2:]
    return TF.pad(x.flatten(2), (0, high)).unflatten(2, (high, wide + 1))[:, :, :, : wide + 1 - high]


class _Diagonal(nn.Module):
    """From the upper left to the lower right: a pixel's states depend on those of the pixels to the left and above."""

    def __init__(self, inputs: int, width: int, colors: int) -> None:
        super().__init__()
        self.width = width
        self.inputs = MaskedConv2d(inputs, 4 * width, (1, 1), "B", colors, split=4)
        self.states = nn.Conv1d(width, 4 * width, 2, bias=False)  # of the pixel above, then of that to the left

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        gates = _skewed(
            _added(self.inputs(x), given)
        )  # zeros outside of the image, where the states stay 0 on the left
        hidden = cells = gates.new_zeros(x.shape[0], self.width, x.shape[2])
        columns = []
        for column in range(gates.shape[3]):
            hidden, cells = _lstm(gates[:, :, :, column] + self.states(TF.pad(hidden, (1, 0))), cells)
            columns.append(hidden)
        return _unskewed(torch.stack(columns, 3))

    def step(self, x: Tensor, given: Tensor | None, states: _States, row: int, column: int, way: int = 1) -> Tensor:
        """The hidden state [B, width] of a pixel with inputs [B, inputs, 1, 1]; ``way`` -1: from the upper right."""
        before = column + 1 - way
        around = torch.stack([states.hidden[:, :, row, column + 1], states.hidden[:, :, row + 1, before]], 2)
        gates = _added(self.inputs(x), given)[:, :, 0, 0] + self.states(around)[:, :, 0]
        hidden, cells = _lstm(gates, states.cells[:, :, row + 1, before])
        states.hidden[:, :, row + 1, column + 1], states.cells[:, :, row + 1, column + 1] = hidden, cells
        return hidden


class _DiagonalBiLSTM(nn.Module):
    """Both ways: the states from the upper right are those of the row above, so that they see no pixel to come."""

    def __init__(self, inputs: int, width: int, colors: int) -> None:
        super().__init__()
        self.width = width
        self.left, self.right = (_Diagonal(inputs, width, colors) for _ in range(2))

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        right = self.right(x.flip(3), given).flip(3)
        result: Tensor = self.left(x, given) + TF.pad(right, (0, 0, 1, -1))
        return result

    def begin(self, x: Tensor) -> list[_States]:
        return [_States(x, self.width), _States(x, self.width)]

    def begin_row(self, x: Tensor, given: Tensor | None, states: list[_States], row: int) -> Tensor:
        """The states of the row above from the upper right, [B, width, S]."""
        above = row - 1
        for column in reversed(range(x.shape[3] if row else 0)):
            pixel = x[:, :, above:row, column : column + 1]
            self.right.step(pixel, given, states[1], above, column, way=-1)
        return states[1].hidden[:, :, row, 1:-1]

    def at(
        self, x: Tensor, given: Tensor | None, states: list[_States], above: Tensor, row: int, column: int
    ) -> Tensor:
        """The hidden state of a pixel, [B, width]."""
        pixel = x[:, :, row : row + 1, column : column + 1]
        return self.left.step(pixel, given, states[0], row, column) + above[:, :, column]


def _added(gates: Tensor, given: Tensor | None) -> Tensor:
    """Gates [B, 4 width, ...] with what the labels add to them."""
    return gates if given is None else gates + given[:, :, None, None]


class _Layer(nn.Module):
    """An LSTM of half the channels, whose states are added to its inputs."""

    def __init__(self, lstm: str, width: int, colors: int, classes: int, dropout: float) -> None:
        super().__init__()
        half = width // 2
        kind: Any = _RowLSTM if lstm == "row" else _DiagonalBiLSTM
        self.lstm = kind(width, half, colors)
        self.up = MaskedConv2d(half, width, (1, 1), "B", colors)
        self.dropout = nn.Dropout(dropout)
        self.table = nn.Embedding(classes + 1, 4 * half) if classes else None

    def given(self, labels: Tensor | None, x: Tensor) -> Tensor | None:
        return condition(self.table, labels, x.shape[0], x.device)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        result: Tensor = x + self.up(self.dropout(self.lstm(x, self.given(labels, x))))
        return result


class PixelRNNNetwork(PixelNetwork):
    """PixelRNN: a masked convolution, then LSTMs with residual connections, over rows or diagonals.

    The Row LSTM computes a row at once and has the blind spot of one stack of convolutions; the Diagonal BiLSTM
    computes a diagonal at once, in both directions, and sees all pixels before a pixel but the last one of the row
    above where that is beyond the reach of the first kernel.

    Args:
        size: height and width of the images.
        channels: colours of a pixel.
        levels: values of a colour, 2 to 256.
        width: channels between the layers, a multiple of twice ``channels``; an LSTM has half of them.
        blocks: number of LSTMs.
        kernel: size of the first kernel, odd.
        lstm: "diagonal" or "row".
        classes: number of labels to be conditioned on; 0: none.
        dropout: share of the states that are dropped in training.

    Raises:
        ValueError: a number out of range, or an unknown LSTM.

    Example:
        >>> import torch
        >>> from fastssl.models import PixelRNNNetwork
        >>> network = PixelRNNNetwork(4, levels=2, width=8, blocks=1, lstm="row")
        >>> network.log_likelihood(torch.ones(3, 1, 4, 4)).kind, network.sample(5).shape
        ('exact', torch.Size([5, 1, 4, 4]))

    Source: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016.
    """

    def __init__(
        self,
        size: int,
        channels: int = 1,
        levels: int = 2,
        width: int = 32,
        blocks: int = 2,
        kernel: int = 7,
        lstm: str = "diagonal",
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(size, channels, levels, width, classes)
        check_layers(blocks, kernel, dropout)
        if lstm not in LSTMS:
            raise ValueError(f"lstm: expected one of {', '.join(LSTMS)}, got {lstm!r}")
        if width % (2 * channels):
            raise ValueError(f"width: expected a multiple of {2 * channels}, twice the channels, got {width}")
        self.first = MaskedConv2d(channels, width, (kernel, kernel), "A", channels)
        self.place = nn.Parameter(torch.zeros(width, size, size))
        self.layers = nn.ModuleList(_Layer(lstm, width, channels, classes, dropout) for _ in range(blocks))

    def hidden(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x: Tensor = self.first(images) + self.place
        for layer in self.layers:
            x = layer(x, labels)
        return x

    def begin(self, count: int, labels: Tensor | None) -> Drawn:
        drawn = Drawn(self, count, labels, len(self.layers))
        drawn.states = [layer.lstm.begin(x) for layer, x in zip(self.layers, drawn.maps)]  # type: ignore[union-attr,operator]
        return drawn

    def predict(self, drawn: Drawn, row: int, column: int, color: int) -> Tensor:
        layers: Any = self.layers
        known = list(zip(layers, drawn.maps, drawn.states, strict=True))
        if column == color == 0:  # what a row needs of the rows above
            drawn.above = [
                layer.lstm.begin_row(before, layer.given(drawn.labels, before), states, row)
                for layer, before, states in known
            ]
        x = self.first.at(drawn.images, row, column) + self.place[:, row, column, None, None]
        for (layer, before, states), above in zip(known, drawn.above, strict=True):
            before[:, :, row, column] = x[:, :, 0, 0]
            state = layer.lstm.at(before, layer.given(drawn.labels, before), states, above, row, column)
            x = x + layer.up(state[:, :, None, None])
        return x
