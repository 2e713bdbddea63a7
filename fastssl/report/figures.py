"""Figures of the reports, as data URIs."""

from __future__ import annotations

import base64
import io
import re
import warnings
from typing import Any

import numpy as np

from fastssl.augment.images import to_show
from fastssl.data import ArraySource, Item, Source, prefetch_items
from fastssl.evaluate.features import centred, encode, pixels
from fastssl.evaluate.report import projection_of
from fastssl.models import Encoder

INK, ACCENT, SECOND, PALE = "#1d2733", "#d9480f", "#1971c2", "#adb5bd"
LACKING = r"Glyph \d+ .*missing from"  # matplotlib's warning of each character that a font lacks


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the report needs the extra: pip install fastssl[report]") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": PALE,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    return plt


def _svg(figure: Any) -> str:
    """A figure as a data URI; its texts are paths, but where a font lacks their characters (names in Chinese): then
    they are texts, which the browser draws with a font that has them."""
    plt = _pyplot()
    for kind in ("path", "none"):
        buffer = io.BytesIO()
        with warnings.catch_warnings(record=True) as met, plt.rc_context({"svg.fonttype": kind}):
            warnings.filterwarnings("always", LACKING)
            figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True)
        if not any(re.match(LACKING, str(warning.message)) for warning in met):
            break
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def png(image: np.ndarray) -> str:
    """An image [H, W, 3] as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnail(item: Item, drawing: int = 0, longest: int = 128) -> str:
    """An image of an item as a data URI, downsized if large."""
    from PIL import Image

    image = Image.fromarray(to_show((item.images or ())[drawing]))
    image.thumbnail((longest, longest))
    return png(np.asarray(image))


def learning_curve(training: dict[str, Any], loss: str = "NT-Xent") -> str:
    """Loss against steps, per run."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(training), figsize=(9, 3), squeeze=False)
    for axis, (name, run) in zip(axes[0], training.items()):
        steps, losses = np.array(run["history"]).T
        axis.plot(steps, losses, color=PALE, linewidth=1)
        window = max(1, len(losses) // 40)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axis.plot(steps[window - 1 :], smooth, color=ACCENT, linewidth=2)
        axis.set_title(f"{name}: {run['epochs']:.3g} epochs, {run['seconds'] / 60:.1f} minutes", fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylabel(loss)
    return _svg(figure)


def speed_and_memory(benchmark: dict[str, Any]) -> str:
    """Time and extra memory against the number of rows, fused and eager."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, style in (("nt_xent", "-"), ("clip_loss", "--")):
        sizes = benchmark[name]["sizes"]
        rows = [s["rows"] for s in sizes]
        label = {"nt_xent": "NT-Xent", "clip_loss": "CLIP"}[name]
        for way, color in (("eager", SECOND), ("fused", ACCENT)):
            seconds = [s["other_seconds" if way == "eager" else "fused_seconds"] * 1e3 for s in sizes]
            axes[0].plot(rows, seconds, style, marker="o", color=color, label=f"{label}, {way}")
            memory = [s["memory_mib"][way] for s in sizes]
            kept = [(r, max(m, 0.1)) for r, m in zip(rows, memory) if m is not None]
            axes[1].plot(*zip(*kept), style, marker="o", color=color)
        axes[0].annotate(
            f"{sizes[-1]['ratio']:.1f}x", (rows[-1], seconds[-1]), textcoords="offset points", xytext=(6, -4)
        )
    for axis, label in zip(axes, ("forward + backward, ms", "extra memory, MiB")):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("rows")
        axis.set_ylabel(label)
        axis.set_xticks(rows, [f"{r:,}" for r in rows])
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    return _svg(figure)


def neighbours(
    encoder: Encoder, data: ArraySource, whole: Source, whiten: int | None = None, queries: int = 8, shown: int = 7
) -> dict[str, Any]:
    """Nearest images of the other vendor to held-out emoji, by encoder features and by pixels, whitened as those of
    ``whole`` are."""
    rng = np.random.default_rng(3)
    chosen = np.sort(rng.permutation(len(data))[:queries])
    result = []
    ways = {
        "SimCLR": lambda source: encode(encoder, source),
        "pixels": lambda source: pixels(source, encoder.size),
    }
    ranked = {}
    for name, features_of in ways.items():
        projection = projection_of(features_of(whole), whiten)
        query, gallery = (centred(features_of(data.nth_image(k)), projection=projection) for k in range(2))
        ranked[name] = (query[chosen] @ gallery.T).topk(shown, dim=1).indices.numpy()
    for row, index in enumerate(chosen):
        result.append(
            {
                "name": data.names[index].replace("_", " "),
                "query": png(data.images[index, 0]),
                "ranked": {
                    name: [
                        {
                            "image": png(data.images[j, 1]),
                            "right": bool(j == index),
                            "name": data.names[j].replace("_", " "),
                        }
                        for j in order[row]
                    ]
                    for name, order in ranked.items()
                },
            }
        )
    return {"rows": result}


def map_of_embedding(encoder: Encoder, data: Source, side: int = 1800, thumbnail_side: int = 30) -> str:
    """Images of the first vendor at the t-SNE coordinates of their features."""
    from PIL import Image
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    features = centred(encode(encoder, data)).numpy()
    reduced = PCA(50, random_state=0).fit_transform(features)
    places = TSNE(2, init="pca", perplexity=25, random_state=0, max_iter=750).fit_transform(reduced)
    # Coordinates are averaged with their ranks, which spreads dense regions.
    ranks = places.argsort(0).argsort(0) / len(places)
    spread = (places - places.min(0)) / np.ptp(places, axis=0)
    at = ((0.5 * spread + 0.5 * ranks) * (side - thumbnail_side)).astype(int)
    canvas = np.full((side, side, 3), 255, np.uint8)
    for item, (x, y) in zip(prefetch_items(data), at):
        shown = Image.fromarray(to_show((item.images or ())[0]))
        small = np.asarray(shown.resize((thumbnail_side, thumbnail_side), Image.Resampling.LANCZOS))
        inside = np.abs(small.astype(int) - 236).max(-1, keepdims=True) > 6  # the background is (236, 236, 236)
        window = canvas[y : y + thumbnail_side, x : x + thumbnail_side]
        np.copyto(window, small, where=inside)
    buffer = io.BytesIO()
    Image.fromarray(canvas).quantize(128).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
