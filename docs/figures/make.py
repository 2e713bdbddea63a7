"""Draws the figures of the "how it works" pages as SVG.

python docs/figures/make.py
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .small { font-size: 11px }
.middle { text-anchor: middle } .soft { fill: #656d76 }
rect, path, line { stroke: #656d76; stroke-width: 1; fill: none } .plain { fill: #f6f8fa } .blue { fill: #b6d4fe }
.green { fill: #b7e4c7 } .orange { fill: #ffd8a8 }
.arrow { marker-end: url(#head) } .head { fill: #656d76; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9198a1 } rect, path, line { stroke: #9198a1 } .plain { fill: #21262d }
.blue { fill: #1f4b85 } .green { fill: #1d5c3a } .orange { fill: #7a4510 } .head { fill: #9198a1 } }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>"""


def text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{content}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str = "plain") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{kind}"/>'


def arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" class="arrow"/>'


def box(x: float, y: float, width: float, title: str, lines: list[str], kind: str = "plain") -> str:
    shapes = [rect(x, y, width, 26 + 16 * len(lines), kind), text(x + width / 2, y + 18, title, "middle")]
    shapes += [text(x + width / 2, y + 35 + 16 * k, line, "middle small soft") for k, line in enumerate(lines)]
    return "\n".join(shapes)


def write(name: str, title: str, width: int, height: int, shapes: list[str]) -> None:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>{title}</title>'
    (HERE / f"{name}.svg").write_text("\n".join([head, STYLE, *shapes, "</svg>"]) + "\n")


def loss() -> None:
    """NT-Xent: the pair matrix with its positives, and the passes over it."""
    n, cell, left, top = 12, 17, 60, 46
    shapes = [text(left, 24, "pair matrix of NT-Xent, n = 6, 2 n = 12 rows")]
    for i in range(n):
        for j in range(n):
            kind = "" if j > i else "blue"  # the upper triangle is the transpose of the lower one
            kind = "orange" if abs(i - j) == n // 2 and j < i else kind
            kind = "plain" if i == j else kind
            shapes.append(rect(left + j * cell, top + i * cell, cell, cell, kind))
    end = top + n * cell
    for k, (kind, label) in enumerate(
        (("blue", "negatives: computed once, used for row and column"), ("orange", "positives: fp64, O(N D)"),
         ("plain", "row with itself: left out"))
    ):  # fmt: skip
        shapes += [rect(left, end + 16 + 22 * k, 14, 14, kind), text(left + 22, end + 28 + 22 * k, label, "small")]
    x, width = 430, 250
    shapes += [
        text(x, 24, "forward pass"),
        box(x, 40, width, "pack", ["normalise rows, scale by 1 / temperature"]),
        arrow(x + width / 2, 82, x + width / 2, 98),
        box(x, 98, width, "score tile", ["S = X_I Y_J^T"], "blue"),
        arrow(x + width / 2, 140, x + width / 2, 156),
        box(x, 156, width, "epilogue", ["E = 2^S, without self and positive"], "blue"),
        arrow(x + width / 2, 198, x + width / 2, 214),
        box(x, 214, width, "statistics", ["sums of rows and columns -> log-sum-exp"]),
        arrow(x + width / 2, 256, x + width / 2, 272),
        box(x, 272, width, "loss per row", ["softplus(lse of negatives - positive)"]),
        text(x + 290, 24, "backward pass"),
        box(x + 290, 98, width, "tile again", ["kept, or recomputed"], "blue"),
        arrow(x + 290 + width / 2, 140, x + 290 + width / 2, 156),
        box(x + 290, 156, width, "weights", ["G = E (w_i + w_j), w = grad / sum"], "green"),
        arrow(x + 290 + width / 2, 198, x + 290 + width / 2, 214),
        box(x + 290, 214, width, "two products", ["dX_I += G Y_J,  dY_J += G^T X_I"], "green"),
        arrow(x + 290 + width / 2, 256, x + 290 + width / 2, 272),
        box(x + 290, 272, width, "gradient epilogue", ["positives, scale, normalisation"]),
        f'<path class="arrow" d="M{x + width} 177H{x + 270}V119H{x + 290}"/>',
        text(x + width + 2, 112, "keep E", "small soft"),
    ]
    write("loss", "How NT-Xent is computed: pair matrix, forward pass and backward pass", 1000, 350, shapes)


def method() -> None:
    """SimCLR, from the source to the network kept after pretraining."""
    shapes, y = [], 40
    row = [
        ("Source", ["read(i) -> Item", "uint8 image [H, W, 3]"], "plain"),
        ("Loader", ["threads, prefetch", "epoch order, shares"], "plain"),
        ("Views", ["examples(items, ...)", "2 x [B, 3, S, S]"], "blue"),
        ("Encoder", ["embed: [2 B, C]", "kept after pretraining"], "green"),
        ("Projection head", ["represent: [2 B, D]", "dropped afterwards"], "orange"),
        ("Loss", ["objective: NT-Xent", "a scalar"], "orange"),
    ]
    for k, (title, lines, kind) in enumerate(row):
        x = 10 + 164 * k
        shapes.append(box(x, y, 144, title, lines, kind))
        if k:
            shapes.append(arrow(x - 20, y + 29, x, y + 29))
    shapes += [
        text(10, 24, "fastssl.data", "small soft"), text(338, 24, "fastssl.augment", "small soft"),
        text(502, 24, "fastssl.models", "small soft"), text(830, 24, "fastssl.functional", "small soft"),
        '<path class="arrow" d="M902 98V130H574V98"/>',
        text(738, 124, "gradients, optimiser: fastssl.train.Trainer", "middle small soft"),
        '<path class="arrow" d="M540 98V160"/>',
        box(440, 160, 200, "checkpoint", ["load_encoder: encoder only", "evaluate, embed, export"], "green"),
    ]  # fmt: skip
    write("method", "SimCLR: source, loader, views, encoder, projection head, loss", 1000, 230, shapes)


def tile_of(round_: int, task: int, tiles: int) -> tuple[int, int]:
    """The circle method for an even number of tiles, as in csrc/pair/grid.h."""
    circle = tiles - 1
    if round_ == tiles - 1:
        return task, task
    pair = (circle, round_) if task == 0 else ((round_ + task) % circle, (round_ - task) % circle)
    return max(pair), min(pair)


def tiles() -> None:
    """The rounds of a triangular grid of tiles, and what a tile keeps."""
    count, cell, left, top = 8, 34, 60, 60
    rounds = {tile_of(r, t, count): r for r in range(count) for t in range(count if r == count - 1 else count // 2)}
    shapes = [text(left, 24, "tiles of X X^T, numbered by round"), text(left, 44, "J", "small soft")]
    for (i, j), r in rounds.items():
        kind = "orange" if r == 2 else "plain" if i == j else "blue"
        shapes.append(rect(left + j * cell, top + i * cell, cell, cell, kind))
        shapes.append(text(left + (j + 0.5) * cell, top + (i + 0.65) * cell, str(r), "middle small"))
    shapes += [text(left - 18, top + 20, "I", "small soft")]
    end = top + count * cell
    shapes += [
        rect(left, end + 14, 14, 14, "orange"),
        text(left + 22, end + 26, "round 2: no two tiles share a block of rows", "small"),
        text(left, end + 48, "the upper triangle is never computed", "small soft"),
    ]
    x = 420
    shapes += [
        text(x, 24, "a tile: 8 x 8 blocks of 32 x 32"),
        *(rect(x + 22 * j, top + 22 * i, 22, 22, "plain" if (i * 5 + j * 3) % 7 < 3 else "green")
          for i in range(8) for j in range(8)),
        rect(x, end - 76, 14, 14, "green"), text(x + 22, end - 64, "backward: block enters both products", "small"),
        rect(x, end - 54, 14, 14, "plain"), text(x + 22, end - 42, "all weights below the floor: skipped", "small"),
    ]  # fmt: skip
    x = 690
    shapes += [
        text(x, 24, "block tickets: two threads, tiles in claiming order"),
        text(x, 78, "thread 0", "small"),
        text(x, 118, "thread 1", "small"),
    ]
    for y, start, end_, label in (
        (62, 60, 134, "(7, 0)"),
        (62, 136, 250, "(5, 2)"),
        (62, 252, 304, "(6, 3)"),
        (102, 60, 128, "(6, 1)"),
        (102, 130, 176, "(4, 3)"),
        (102, 178, 222, "(7, 1)"),
        (102, 224, 250, "wait"),
        (102, 252, 304, "(2, 0)"),
    ):
        shapes.append(rect(x + start, y, end_ - start, 26, "" if label == "wait" else "blue"))
        shapes.append(text(x + (start + end_) / 2, y + 17, label, "middle small"))
    shapes += [
        text(x, 156, "A tile waits for earlier tiles on its blocks of rows,", "small"),
        text(x, 172, "not for its whole round: sums have a fixed order.", "small"),
    ]  # fmt: skip
    shapes += [
        text(x, 214, "kept for backward (one of)"),
        text(x, 236, "tiles: E or S, packed, within the memory budget", "small"),
        text(x, 254, "attention: E Y, if only x needs a gradient", "small"),
        text(x, 272, "gradients: of a scalar loss of a small batch", "small"),
        text(x, 290, "nothing: tiles are recomputed", "small"),
        text(x, 314, "always: log-sum-exp per row, O(N)", "small soft"),
    ]
    write("tiles", "Tiles, rounds, tickets and kept data of the pair engine", 1010, 390, shapes)


if __name__ == "__main__":
    loss()
    method()
    tiles()
