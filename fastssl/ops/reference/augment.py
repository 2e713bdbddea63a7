"""The oracle of augmentation: parameters by NumPy, views by plain torch, one image and one operation at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.ops.reference.auto_augment import SUB_POLICIES, value_of

COLUMNS = (4, 2, 3, 1, 6, 1, 1, 1, 1, 1, 4, 1, 1, 6, 8, 1, 1, 1, 3, 1)
RESIZED_CROP, CROP, TILE, FLIP, JITTER, GRAY, BLUR, SOLARIZE, POSTERIZE, EQUALIZE, ERASE, ROTATE, PROJECT = range(13)
AFFINE, PERSPECTIVE, SHARPNESS, AUTOCONTRAST, INVERT, AUTOMATIC, BICUBIC = range(13, 20)
LUMA = (0.2989, 0.587, 0.114)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 of counters uint32 [..., 4]."""
    c = [counter[..., i].astype(np.uint64) for i in range(4)]
    k = list(key)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            b & low,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            a & low,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, -1).astype(np.uint32)


def sample(program: np.ndarray, sizes: np.ndarray, seed: int, epoch: int, ids: np.ndarray, view: int) -> np.ndarray:
    rows = [_sample_one(program, int(h), int(w), seed, epoch, int(i), view) for (h, w), i in zip(sizes, ids)]
    width = sum(COLUMNS[int(k)] for k in program[:, 0])
    return np.array(rows, dtype=np.float64).reshape(len(ids), width)


def _sample_one(
    program: np.ndarray, height: int, width: int, seed: int, epoch: int, item: int, view: int
) -> list[float]:
    def draw(op: int, shared: bool, block: int) -> list[float]:
        counter = np.array(
            [block | op << 8 | (0xFFFF if shared else view) << 16, epoch & 0xFFFFFFFF, item & 0xFFFFFFFF, item >> 32],
            dtype=np.uint64,
        )
        bits = philox(counter & np.uint64(0xFFFFFFFF), (seed & 0xFFFFFFFF, seed >> 32))
        return [(float(b) + 0.5) / 2**32 for b in bits]

    def between(u: float, low: float, high: float) -> float:
        return low + (high - low) * u

    def index(u: float, count: float) -> float:
        return min(math.floor(u * count), count - 1)

    out: list[float] = []
    window = (height, width)
    for k, row in enumerate(program):
        kind, shared, a = int(row[0]), bool(row[1]), [float(v) for v in row[2:]]
        u = draw(k, shared, 0)
        on = u[0] < a[0]
        if kind == RESIZED_CROP:
            box = None
            for attempt in range(10):
                u = draw(k, shared, attempt)
                area = height * width * between(u[0], a[0], a[1])
                ratio = math.exp(between(u[1], math.log(a[2]), math.log(a[3])))
                w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if 0 < w <= width and 0 < h <= height:
                    box = [index(u[2], height - h + 1), index(u[3], width - w + 1), h, w]
                    break
            if box is None:
                h, w = height, width
                if width / height < a[2]:
                    h = min(height, max(1, round(width / a[2])))
                elif width / height > a[3]:
                    w = min(width, max(1, round(height * a[3])))
                box = [(height - h) // 2, (width - w) // 2, h, w]
            out += box
            window = (int(a[4]), int(a[5]))
        elif kind == CROP:
            fh, fw = (length + 2 * a[5] for length in _frame(a[0], height, width))
            out += (
                [index(u[0], fh - a[2] + 1), index(u[1], fw - a[3] + 1)]
                if a[1]
                else [round((fh - a[2]) / 2), round((fw - a[3]) / 2)]
            )
            window = (int(a[2]), int(a[3]))
        elif kind == TILE:
            cell = a[3]
            if cell < 0:
                drawn, middle = index(u[2], a[0] ** 2 - 1), a[0] ** 2 // 2
                cell = drawn if drawn < middle else drawn + 1
            room = a[1] - a[2]
            out += [cell, *([index(u[0], room + 1), index(u[1], room + 1)] if a[4] else [room // 2, room // 2])]
            window = (int(a[2]), int(a[2]))
        elif kind == JITTER:
            v = draw(k, shared, 1)
            factors = [between(v[i], a[1 + 2 * i], a[2 + 2 * i]) for i in range(4)]
            out += [float(on), index(u[1], 24), *(factors if on else [1.0, 1.0, 1.0, 0.0])]
        elif kind in (BLUR, ROTATE):
            out.append(between(u[1], a[1], a[2]) if on else 0.0)
        elif kind == AFFINE:
            v = draw(k, shared, 1)
            x, y = a[3] * window[1], a[4] * window[0]
            shift = [float(round(between(u[2], -x, x))), float(round(between(u[3], -y, y)))]
            moved = [between(u[1], *a[1:3]), *shift, *(between(v[i], *a[5 + 2 * i : 7 + 2 * i]) for i in range(3))]
            out += moved if on else [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
        elif kind == PERSPECTIVE:
            v = [*draw(k, shared, 1), *draw(k, shared, 2)]
            last = (window[1] - 1, window[0] - 1)
            for i, own in enumerate(_corners(*window)):
                for axis in (0, 1):
                    step = index(v[2 * i + axis], math.floor(a[1] * (window[1 - axis] // 2)) + 1) if on else 0
                    out.append(float(own[axis] - step if own[axis] == last[axis] and _far(i, axis) else step))
        elif kind == AUTOMATIC:
            policy, v = int(a[0]), draw(k, shared, 1)
            which, applied = int(index(u[0], 14)), True
            at = index(u[1], a[2]) if a[1] < 0 else a[1]
            if policy == 2:  # timm's
                which, applied = 1 + int(index(u[0], 15)), u[3] < a[8]
                normal = math.sqrt(-2 * math.log(v[0])) * math.cos(2 * math.pi * v[1])
                at = at * v[0] if a[9] < 0 else min(max(at + a[9] * normal, 0.0), a[2] - 1)
            elif policy > 2:
                drawn = int(index(draw(k - int(a[10]), shared, 0)[1], 25))
                which, p, at = SUB_POLICIES[policy - 3][drawn][int(a[10])]
                applied = u[3] < p
            which = which if applied else 0
            value = value_of(which, policy, at / (a[2] - 1), *window)
            interpolation = (0.0 if v[2] < 0.5 else 2.0) if a[3] == 3 else a[3]
            out += [which, -value if 1 <= which <= 9 and u[2] < 0.5 else value, interpolation]
        elif kind == ERASE:
            box = [0, 0, 0, 0]
            for attempt in range(1, 11) if on else ():
                v = draw(k, shared, attempt)
                area = window[0] * window[1] * between(v[0], a[1], a[2])
                ratio = math.exp(between(v[1], math.log(a[3]), math.log(a[4])))
                h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if 1 <= h < window[0] and 1 <= w < window[1]:
                    box = [index(v[2], window[0] - h + 1), index(v[3], window[1] - w + 1), h, w]
                    break
            out += box
        else:
            out.append(float(on))
    return out


def _far(corner: int, axis: int) -> bool:
    """Whether a corner, clockwise from the upper left one, is at the right (axis 0) or lower (1) edge."""
    return corner in ((1, 2), (2, 3))[axis]


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    return [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]


def _frame(resize: float, height: int, width: int) -> tuple[int, int]:
    if not resize:
        return height, width
    longer = math.floor(resize * max(height, width) / min(height, width))
    return (int(resize), longer) if height <= width else (longer, int(resize))


def view(
    program: np.ndarray,
    image: Tensor,
    params: np.ndarray,
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """One view of a uint8 image [C, H, W]: float [3, height, width]."""
    with image.device:  # not the one of torch.set_default_device
        if image.shape[0] == 1:
            image = image.expand(3, -1, -1)
        x = image[:3].float() / 255
        at = 0
        for k, row in enumerate(program):
            kind, a = int(row[0]), [float(v) for v in row[2:]]
            p = [float(v) for v in params[at : at + COLUMNS[kind]]]
            at += COLUMNS[kind]
            if k + 1 < len(program) and program[k + 1][0] == BICUBIC:
                a[6] = float(params[at])
            x = _OPERATIONS[kind](x, a, p)
        if tuple(x.shape) != (3, height, width):
            raise ValueError(f"params: expected views of {height} x {width} pixels, got {tuple(x.shape)}")
        return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _resize(x: Tensor, height: int, width: int, bicubic: float) -> Tensor:
    if width == 1 and height > 1:  # torch 2.13 gives all rows the first one's value
        return _resize(x.transpose(1, 2), width, height, bicubic).transpose(1, 2)
    mode = "bicubic" if bicubic else "bilinear"
    return TF.interpolate(x[None], (height, width), mode=mode, antialias=True, align_corners=False)[0]


def _box(x: Tensor, top: float, left: float, height: float, width: float) -> Tensor:
    y, z, h, w = (int(v) for v in (top, left, height, width))
    if min(y, z) < 0 or min(h, w) < 1 or y + h > x.shape[1] or z + w > x.shape[2]:
        raise ValueError(f"params: the box {(y, z, h, w)} does not fit an image of {tuple(x.shape[1:])} pixels")
    return x[:, y : y + h, z : z + w]


def _resized_crop(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return _resize(_box(x, *p), int(a[4]), int(a[5]), a[6])


def _crop(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    if a[0]:
        x = _resize(x, *_frame(a[0], x.shape[1], x.shape[2]), a[4])
    return _box(TF.pad(x, (int(a[5]),) * 4), p[0], p[1], a[2], a[3])


def _tile(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return _box(x, p[0] // a[0] * a[1] + p[1], p[0] % a[0] * a[1] + p[2], a[2], a[2])


def _flip(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return x.flip(1 if a[1] else 2) if p[0] else x


def _gray_of(x: Tensor) -> Tensor:
    return x[0] * LUMA[0] + x[1] * LUMA[1] + x[2] * LUMA[2]


def _blend(x: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _hue(x: Tensor, turns: float) -> Tensor:
    top, low = x.amax(0), x.amin(0)
    chroma = top - low
    safe = torch.where(chroma > 0, chroma, 1)
    r, g, b = x
    sixths = torch.where(top == r, (g - b) / safe, torch.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4))
    hue = (sixths / 6 + turns) % 1.0
    saturation = chroma / torch.where(top > 0, top, 1)
    whole = torch.floor(hue * 6)
    rest = hue * 6 - whole
    p, q, t = top * (1 - saturation), top * (1 - rest * saturation), top * (1 - (1 - rest) * saturation)
    case = whole.long() % 6
    table = torch.stack([top, q, p, t])
    choose = torch.tensor([[0, 1, 2, 2, 3, 0], [3, 0, 0, 1, 2, 2], [2, 2, 3, 0, 0, 1]])[:, case]
    return torch.where(chroma > 0, table.gather(0, choose), x)


def jitter_order(number: int) -> list[int]:
    """Brightness, contrast, saturation and hue (0 to 3) in the order that a number from 0 to 23 stands for."""
    left, order = [0, 1, 2, 3], []
    for size in (6, 2, 1, 1):
        order.append(left.pop(number // size if len(left) > 1 else 0))
        number %= size
    return order


def _jitter(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    if not p[0]:
        return x
    for which in jitter_order(int(p[1])):
        factor = p[2 + which]
        if a[1 + 2 * which] == a[2 + 2 * which] == factor == (0 if which == 3 else 1):
            continue
        if which == 0:
            x = (x * factor).clamp(0, 1)
        elif which == 1:
            x = _blend(x, _gray_of(x).mean(), factor)
        elif which == 2:
            x = _blend(x, _gray_of(x), factor)
        else:
            x = _hue(x, factor)
    return x


def _grayscale(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return _gray_of(x).expand(3, -1, -1) if p[0] else x


def _blur(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    if not p[0]:
        return x
    taps = int(a[3])
    d = torch.arange(taps, dtype=torch.float64) - taps // 2
    w = torch.exp(-0.5 * (d / p[0]) ** 2)
    w = (w / w.sum()).float()
    for dim in (1, 2):
        n = x.shape[dim]
        places = torch.arange(-(taps // 2), n + taps // 2)
        if n == 1:
            places = places * 0
        else:
            places = places.remainder(2 * (n - 1))
            places = torch.where(places >= n, 2 * (n - 1) - places, places)
        wide = x.index_select(dim, places)
        parts = [wide.narrow(dim, k, n) * w[k] for k in range(taps)]
        x = torch.stack(parts).sum(0)
    return x


def _solarize(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return torch.where(x >= a[1], 1 - x, x) if p[0] else x


def _posterize(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    levels = 2 ** int(a[1])
    return torch.floor(x * levels).clamp(0, levels - 1) / levels if p[0] else x


def _equalize(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    if not p[0]:
        return x
    bytes_of = torch.floor(x.clamp(0, 1) * 255.999).long()
    channels = []
    for channel in bytes_of:
        histogram = torch.bincount(channel.flatten(), minlength=256)
        last = int(histogram.nonzero().max())
        step = int(channel.numel() - histogram[last]) // 255
        if step == 0:
            channels.append(channel / 255)
            continue
        before = histogram.cumsum(0) - histogram
        lookup = ((before + step // 2) // step).clamp(max=255)
        lookup[0] = 0
        channels.append(lookup[channel] / 255)
    return torch.stack(channels).float()


def _erase(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    top, left, height, width = (int(v) for v in p)
    if height and width:
        x = x.clone()
        x[:, top : top + height, left : left + width] = torch.tensor(a[5:8]).view(3, 1, 1)
    return x


def _warp(x: Tensor, matrix: np.ndarray, outside: list[float]) -> Tensor:
    """``matrix`` [3, 3] takes output pixels to input pixels, both from the middle of the image."""
    height, width = x.shape[1:]
    y, z = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    m = torch.from_numpy(matrix).float().to(x.device)
    u, v, rest = (row[0] * z + row[1] * y + row[2] for row in m)
    grid = torch.stack([u / rest * 2 / width, v / rest * 2 / height], -1)
    interpolation, mirrored, *fill = outside
    if not mirrored:
        grid = grid.nan_to_num(-9.0).clamp(-9.0, 9.0)  # all outside
    if interpolation == 2:
        return _cubic(x, u / rest + (width - 1) / 2, v / rest + (height - 1) / 2, bool(mirrored), fill)
    known = x if mirrored else torch.cat([x, torch.ones_like(x[:1])])
    mode, padding = ("nearest" if interpolation == 1 else "bilinear"), ("reflection" if mirrored else "zeros")
    made = TF.grid_sample(known[None], grid[None], mode=mode, padding_mode=padding, align_corners=False)[0]
    if mirrored:
        return made
    color = torch.tensor(fill).view(3, 1, 1)
    return (made[:3] - color) * made[3] + color


def _cubic(x: Tensor, u: Tensor, v: Tensor, mirrored: bool, fill: list[float]) -> Tensor:
    """Interpolation by Pillow's cubic kernel at columns ``u`` and rows ``v``; the edge stands for what is beyond."""
    height, width = x.shape[1:]
    if mirrored:
        u, v = (
            (((t + 0.5) % (2 * n)).minimum(2 * n - (t + 0.5) % (2 * n)) - 0.5).clamp(0, n - 1)
            for t, n in ((u, width), (v, height))
        )
    inside = (u >= -0.5) & (v >= -0.5) & (u < width - 0.5) & (v < height - 0.5)
    total = torch.zeros(x.shape)
    for i in range(-1, 3):
        for j in range(-1, 3):
            row, column = v.floor() + i, u.floor() + j
            pixel = x[:, row.clamp(0, height - 1).nan_to_num().long(), column.clamp(0, width - 1).nan_to_num().long()]
            total += pixel * _keys((v - row).abs()) * _keys((u - column).abs())
    return torch.where(inside, total.clamp(0, 1), torch.tensor(fill).view(3, 1, 1))


def _keys(d: Tensor) -> Tensor:
    """Keys' kernel with a = -1."""
    return torch.where(d <= 1, d**3 - 2 * d**2 + 1, (-(d**3) + 5 * d**2 - 8 * d + 4) * (d < 2))


def _inverse(degrees: float, shift: Sequence[float], scale: float, shear: Sequence[float]) -> np.ndarray:
    """The inverse of: shear along x and then y, scale, turn clockwise, shift."""
    turn, along_x, along_y = (math.radians(v) for v in (degrees, *shear))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    whole = np.eye(3)
    y, x = np.array([[1, 0], [-math.tan(along_y), 1]]), np.array([[1, -math.tan(along_x)], [0, 1]])
    whole[:2, :2] = scale * rotation @ y @ x
    whole[:2, 2] = shift
    inverse: np.ndarray = np.linalg.inv(whole)
    return inverse


def _rotate(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return _warp(x, _inverse(-p[0], (0, 0), 1, (0, 0)), a[3:8]) if p[0] else x


def _affine(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return x if p == [0, 0, 0, 1, 0, 0] else _warp(x, _inverse(p[0], p[1:3], p[3], p[4:]), a[11:16])


def _perspective(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    height, width = x.shape[1:]
    own = _corners(height, width)
    if p == [float(v) for corner in own for v in corner]:
        return x
    rows = []
    for k, (to_x, to_y) in enumerate(own):
        at = [p[2 * k], p[2 * k + 1], 1.0]
        rows += [[*at, 0, 0, 0, *(-to_x * v for v in at)], [0, 0, 0, *at, *(-to_y * v for v in at)]]
    points = np.array(p).reshape(4, 2)
    for k in range(4):
        (ux, uy), (vx, vy) = (points[(k + i) % 4] - points[k] for i in (1, 2))
        if ux * vy == vx * uy:
            return x  # three corners on a line
    matrix = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)  # but for a factor
    middle = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    matrix = np.linalg.inv(middle) @ matrix @ middle
    return x if abs(matrix[2, 2]) < 1e-12 else _warp(x, matrix / matrix[2, 2], a[2:7])


def _sharpness(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return _sharpened(x, a[1]) if p[0] else x


def _sharpened(x: Tensor, factor: float) -> Tensor:
    if min(x.shape[1:]) < 3:
        return x
    kernel = torch.ones(3, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    x = x.clone()
    x[:, 1:-1, 1:-1] = _blend(x[:, 1:-1, 1:-1], TF.conv2d(x[None], kernel / 13, groups=3)[0], factor)
    return x


def _autocontrast(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    low, high = x.amin((1, 2), True), x.amax((1, 2), True)
    return torch.where(high > low, (x - low) / (high - low), x).clamp(0, 1) if p[0] else x


def _invert(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return 1 - x if p[0] else x


def _automatic(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    which, v, outside = int(p[0]), p[1], [p[2], *a[4:8]]
    if 1 <= which <= 2:  # about the upper left corner
        height, width = x.shape[1:]
        corner = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
        angle = math.degrees(math.atan(v))
        sheared = _inverse(0, (0, 0), 1, (angle, 0) if which == 1 else (0, angle))
        return _warp(x, corner @ sheared @ np.linalg.inv(corner), outside)
    if 3 <= which <= 5:
        shift = (v, 0) if which == 3 else (0, v) if which == 4 else (0, 0)
        return _warp(x, _inverse(-v if which == 5 else 0, shift, 1, (0, 0)), outside)
    if 6 <= which <= 8:
        other = (torch.zeros_like(x), _gray_of(x), _gray_of(x).mean())[which - 6]
        return _blend(x, other, 1 + v)
    if which in (9, 10, 11):
        return (_sharpened(x, 1 + v), _posterize(x, [1, v], [1]), _solarize(x, [1, v], [1]))[which - 9]
    if which == 15:
        return torch.where(x < 0.5, (x + v).clamp(max=1), x)
    return x if which == 0 else (_autocontrast, _equalize, _invert)[which - 12](x, a, [1])


def _as_it_is(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    return x


def _project(x: Tensor, a: list[float], p: list[float]) -> Tensor:
    if not p[0]:
        return x
    along = torch.tensor([-1.0, 2.0, -1.0])
    return x - along.view(3, 1, 1) * torch.einsum("c,chw->hw", along, x) / 6


_OPERATIONS: tuple[Callable[[Tensor, list[float], list[float]], Tensor], ...] = (
    _resized_crop, _crop, _tile, _flip, _jitter, _grayscale, _blur,
    _solarize, _posterize, _equalize, _erase, _rotate, _project,
    _affine, _perspective, _sharpness, _autocontrast, _invert, _automatic, _as_it_is,
)  # fmt: skip
