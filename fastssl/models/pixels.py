"""Networks of images that predict every pixel from those before it, and PixelCNN (van den Oord et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.models.drawing import checked, condition
from fastssl.models.raster import Choose, RasterNetwork


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees the pixels above and left of each pixel, and of the pixel itself the earlier channels.

    Channels belong to the colours of a pixel in equal parts. Mask "A" hides the pixel's own colour, "B" shows it.

    Args:
        inputs, outputs: numbers of channels.
        kernel: height and width, odd; the output's pixel is in the middle.
        mask: "A", for the input image, or "B".
        colors: number of colours.
        split: equal parts that the outputs consist of, each with all colours: 2 for a gate.

    Source: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016.
    """

    mask: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], mask: str, colors: int = 1, split: int = 1
    ) -> None:
        high, wide = kernel
        super().__init__(inputs, outputs, kernel, padding=(high // 2, wide // 2))
        seen = torch.zeros(outputs, inputs, high, wide)
        seen[:, :, : high // 2] = 1
        seen[:, :, high // 2, : wide // 2] = 1
        part = outputs // split
        of_output = torch.arange(outputs) % part * colors // part
        of_input = torch.arange(inputs) * colors // inputs
        earlier = of_input[None] < of_output[:, None] if mask == "A" else of_input[None] <= of_output[:, None]
        seen[:, :, high // 2, wide // 2] = earlier.float()
        self.register_buffer("mask", seen, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)

    def at(self, x: Tensor, row: int, column: int) -> Tensor:
        """The output at one pixel, [B, outputs, 1, 1]."""
        window = _window(x, row, column, self.kernel_size[0] // 2, 0, self.kernel_size[1] // 2)
        above = self.kernel_size[0] // 2 + 1  # the rows of the kernel below are masked
        return TF.conv2d(window, (self.weight * self.mask)[:, :, :above], self.bias)


def _window(x: Tensor, row: int, column: int, above: int, below: int, aside: int) -> Tensor:
    """The pixels around one, with zeros beyond the borders."""
    high, wide = x.shape[2:]
    top, left = max(0, row - above), max(0, column - aside)
    part = x[:, :, top : min(high, row + below + 1), left : min(wide, column + aside + 1)]
    pads = (aside - (column - left), aside + 1 - (min(wide, column + aside + 1) - column))
    return TF.pad(part, (*pads, above - (row - top), below + 1 - (min(high, row + below + 1) - row)))


def check_layers(blocks: int, kernel: int, dropout: float) -> None:
    """Raises ValueError for a number of layers, a size of the first kernel or a share of dropout out of range."""
    checked("blocks", blocks, 1, 1024)
    if checked("kernel", kernel, 3, 63) % 2 == 0:
        raise ValueError(f"kernel: expected an odd number, got {kernel}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a share in [0, 1), got {dropout}")


class PixelNetwork(RasterNetwork):
    """Base class of networks that predict each pixel from those before it in raster order, colour after colour.

    Subclasses define ``hidden``, and for sampling ``begin`` and ``predict``.

    Args:
        size: height and width of the images.
        channels: colours of a pixel.
        levels: values of a colour, 2 to 256.
        width: channels of the hidden states, a multiple of ``channels``.
        classes: number of labels to be conditioned on; 0: none.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> from fastssl.models import PixelCNNNetwork, PixelNetwork
        >>> issubclass(PixelCNNNetwork, PixelNetwork)
        True
    """

    levels: int

    def __init__(self, size: int, channels: int, levels: int, width: int, classes: int) -> None:
        super().__init__(size, channels, checked("levels", levels, 2, 256), classes)
        self.width = checked("width", width, 1)
        if width % channels:
            raise ValueError(f"width: expected a multiple of the {channels} channels, got {width}")
        self.out = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(width, width, (1, 1), "B", channels),
            nn.ReLU(),
            MaskedConv2d(width, channels * levels, (1, 1), "B", channels),
        )

    def hidden(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Hidden states [B, width, S, S] of images in [-1, 1]; labels [B] of a conditioned network, -1: unknown."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.hidden(self.to_images(self.quantize(images)))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [B, levels, channels, ...] of hidden states [B, width, ...]."""
        logits: Tensor = self.out(hidden)
        return logits.unflatten(1, (self.channels, self.levels)).transpose(1, 2)

    def nats(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        levels = self.quantize(images)
        logits = self.head(self.hidden(self.to_images(levels).to(images), labels))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return TF.cross_entropy(logits.to(dtype), levels, reduction="none").flatten(1).sum(1)

    def predict(self, drawn: Drawn, row: int, column: int, color: int) -> Tensor:
        """Hidden states [B, width, 1, 1] of a pixel, after its first ``color`` colours."""
        raise NotImplementedError

    def draw_pixel(self, drawn: Drawn, place: int, choose: Choose) -> None:
        row, column = divmod(place, self.size)
        for color in range(self.channels):
            logits = self.head(self.predict(drawn, row, column, color))[:, :, color, 0, 0]
            levels = choose(logits, place * self.channels + color)
            drawn.images[:, color, row, column] = self.to_images(levels).to(drawn.images)

    def finish(self, drawn: Drawn) -> Tensor:
        return drawn.images


class Drawn:
    """Images in the making, and the maps of each layer as far as they are known.

    Attributes:
        images: [B, channels, S, S] in [-1, 1], 0 where they are not known yet.
        labels: int64 [B] or None.
        maps: ``count`` maps [B, width, S, S].
        above: what a row gets from the rows above it, layer after layer.
        states: those of recurrent layers.
    """

    def __init__(self, network: PixelNetwork, count: int, labels: Tensor | None, maps: int = 0) -> None:
        parameter = next(network.parameters())
        self.images = parameter.new_zeros(count, network.channels, network.size, network.size)
        self.labels = labels
        shape = (count, network.width, network.size, network.size)
        self.maps = [parameter.new_zeros(shape) for _ in range(maps)]
        self.above: list[Tensor] = []
        self.states: list[Any] = []


class _MaskedStack(nn.Module):
    """Masked convolutions with residual connections: the PixelCNN of 2016."""

    def __init__(
        self, size: int, channels: int, width: int, depth: int, kernel: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = MaskedConv2d(channels, width, (kernel, kernel), "A", channels)
        self.blocks = nn.ModuleList(MaskedConv2d(width, width, (3, 3), "B", channels) for _ in range(depth))
        self.place = nn.Parameter(torch.zeros(width, size, size))
        self.table = nn.Embedding(classes + 1, width) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.maps = depth

    def _conditioned(self, x: Tensor, labels: Tensor | None) -> Tensor:
        given = condition(self.table, labels, x.shape[0], x.device)
        return x if given is None else x + given[:, :, None, None]

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        x = self._conditioned(self.first(images) + self.place, labels)
        for block in self.blocks:
            x = x + block(self.dropout(torch.relu(x)))
        return x

    def predict(self, drawn: Drawn, row: int, column: int, color: int) -> Tensor:
        place = self.place[:, row, column, None, None]
        x = self._conditioned(self.first.at(drawn.images, row, column) + place, drawn.labels)
        for block, before in zip(self.blocks, drawn.maps):
            before[:, :, row, column] = x[:, :, 0, 0]
            x = x + block.at(torch.relu(_window(before, row, column, 1, 1, 1)), 1, 1)  # type: ignore[operator]
        return x


class _GatedLayer(nn.Module):
    """A layer of both stacks: the vertical one sees the rows above, the horizontal one the pixels to the left and,
    through it, the rows above."""

    def __init__(
        self, inputs: int, width: int, kernel: int, colors: int, size: int, first: bool, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.reach, self.first = kernel // 2, first
        # Of a pixel's row the vertical stack sees nothing in the first layer, and what the first layer made after it.
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.reach + (not first), kernel))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = MaskedConv2d(inputs, 2 * width, (1, kernel), "A" if first else "B", colors, split=2)
        self.merge = MaskedConv2d(width, width, (1, 1), "B", colors)
        self.dropout = nn.Dropout(dropout)
        self.table = nn.Embedding(classes + 1, 4 * width) if classes else None
        self.place = nn.Parameter(torch.zeros(2, 2 * width, size, size)) if first else None

    def _placed(self, x: Tensor, stack: int, row: int | None = None, column: int | None = None) -> Tensor:
        """Adds what the first layer learns of each position, for a row and a column or all."""
        if self.place is None:
            return x
        rows, columns = (slice(None) if k is None else slice(k, k + 1) for k in (row, column))
        return x + self.place[stack][:, rows, columns]

    def forward(self, v: Tensor, h: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        up = TF.pad(v, (self.reach, self.reach, self.reach, -1 if self.first else 0))
        across = self._placed(self.horizontal(h), 1)
        return self.merged(self._placed(self.vertical(up), 0), across, None if self.first else h, labels)

    def rows(self, v: Tensor, row: int) -> Tensor:
        """The vertical convolution at one row, [B, 2 width, 1, S]."""
        high = self.vertical.kernel_size[0]
        end = row + 1 - self.first
        above = v[:, :, max(0, end - high) : end]
        return self._placed(self.vertical(TF.pad(above, (self.reach, self.reach, high - above.shape[2], 0))), 0, row)

    def at(self, h: Tensor, row: int, column: int) -> Tensor:
        """The horizontal convolution at one pixel, [B, 2 width, 1, 1]."""
        return self._placed(self.horizontal.at(h, row, column), 1, row, column)

    def merged(
        self, v: Tensor, across: Tensor | None, h: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the convolutions of both stacks become; ``h``: the residual connection."""
        across = self.across(v) if across is None else across + self.across(v)
        given = condition(self.table, labels, v.shape[0], v.device)
        if given is not None:
            one, two = given[:, :, None, None].chunk(2, 1)
            v, across = v + one, across + two
        new = self.merge(self.dropout(_gate(across)))
        return self.dropout(_gate(v)), new if h is None else h + new


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class _GatedStack(nn.Module):
    """A vertical and a horizontal stack of gated convolutions, which together see all pixels before a pixel."""

    def __init__(
        self, size: int, channels: int, width: int, depth: int, kernel: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _GatedLayer(width if k else channels, width, 3 if k else kernel, channels, size, k == 0, classes, dropout)
            for k in range(depth)
        )
        self.maps = 2 * depth  # of the vertical stack, layer after layer, then of the horizontal one

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        v = h = images
        for layer in self.layers:
            v, h = layer(v, h, labels)
        return h

    def predict(self, drawn: Drawn, row: int, column: int, color: int) -> Tensor:
        if column == color == 0:  # of a row, the vertical stack depends on the rows above alone
            drawn.above = []
            v = drawn.images
            for k, layer in enumerate(self.layers):
                drawn.above.append(layer.rows(v, row))  # type: ignore[operator]
                v = drawn.maps[k]
                v[:, :, row : row + 1] = layer.merged(drawn.above[k], None, None, drawn.labels)[0]  # type: ignore[operator]
        h = drawn.images
        for k, layer in enumerate(self.layers):
            across = layer.at(h, row, column)  # type: ignore[operator]
            residual = h[:, :, row : row + 1, column : column + 1] if k else None
            new = layer.merged(drawn.above[k][:, :, :, column : column + 1], across, residual, drawn.labels)[1]  # type: ignore[operator]
            h = drawn.maps[len(self.layers) + k]
            h[:, :, row : row + 1, column : column + 1] = new
        return h[:, :, row : row + 1, column : column + 1]


class PixelCNNNetwork(PixelNetwork):
    """PixelCNN: masked convolutions; gated, in two stacks, or with residual connections, in one.

    The single stack never sees some pixels to the upper right of a pixel, its blind spot; the two stacks see all
    pixels before it that are in reach.

    Args:
        size: height and width of the images.
        channels: colours of a pixel.
        levels: values of a colour, 2 to 256.
        width: channels of a layer, a multiple of ``channels``.
        blocks: number of layers behind the first.
        kernel: size of the first kernel, odd; that of the others is 3.
        gated: the two stacks of 2016b; else the one of 2016a.
        classes: number of labels to be conditioned on; 0: none.
        dropout: share of the activations that are dropped in training.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import PixelCNNNetwork
        >>> network = PixelCNNNetwork(4, levels=2, width=8, blocks=1)
        >>> network.log_likelihood(torch.ones(3, 1, 4, 4)).kind, network.sample(5).shape
        ('exact', torch.Size([5, 1, 4, 4]))

    Source: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016a; van den Oord et al.,
    Conditional Image Generation with PixelCNN Decoders, 2016b.
    """

    def __init__(
        self,
        size: int,
        channels: int = 1,
        levels: int = 2,
        width: int = 32,
        blocks: int = 5,
        kernel: int = 7,
        gated: bool = True,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(size, channels, levels, width, classes)
        check_layers(blocks, kernel, dropout)
        stack: Any = _GatedStack if gated else _MaskedStack
        self.stack = stack(size, channels, width, blocks + gated, kernel, classes, dropout)

    def hidden(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        result: Tensor = self.stack(images, labels)
        return result

    def begin(self, count: int, labels: Tensor | None) -> Drawn:
        return Drawn(self, count, labels, self.stack.maps)

    def predict(self, drawn: Drawn, row: int, column: int, color: int) -> Tensor:
        result: Tensor = self.stack.predict(drawn, row, column, color)
        return result
