"""Recipe "small" beside lightly and LightlyTrain: the same encoders, processor time and readout, each with its defaults.

    python benchmarks/small_peers.py export FOLDER [emoji digits spectrograms]
    PEER/bin/python benchmarks/small_peers.py train FOLDER lightly|lightly-train emoji [--seed 0] [--seconds 600]
    python benchmarks/small_peers.py score FOLDER

``train`` runs in an environment of the peers (lightly, lightly-train, torchvision; no fastssl). lightly: its example of
SimCLR (SGD with 0.06, batches of 256, no blur, NTXentLoss() with its temperature of 0.5). LightlyTrain: pretrain with
method="simclr" and its defaults; its default, distillation, downloads weights. Both train on every image as one item:
they have no pairs of drawings. Epochs are as many as take ``--seconds`` of processor time, workers included, on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "small_peers.json"
WIDTHS = {"emoji": (32, 32, 2), "digits": (16, 16, 1), "spectrograms": (32, 32, 2)}  # size, width, stride of the stem


def network_of(data: str) -> Any:
    """The encoder's network, from its file alone: the peers' environment has no fastssl."""
    path = ROOT / "fastssl" / "models" / "resnet.py"
    spec = importlib.util.spec_from_file_location("resnet", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault("resnet", importlib.util.module_from_spec(spec))  # checkpoints pickle it
    spec.loader.exec_module(module)
    _, width, stride = WIDTHS[data]
    return module.SmallResNet(width, 1, stride)


def export(folder: Path, names: list[str]) -> None:
    from five_minutes import source_of
    from PIL import Image

    for data in names:
        (folder / data).mkdir(parents=True, exist_ok=True)
        source = source_of(data)
        for k in range(len(source)):
            for n, image in enumerate(source.read(k).images):
                pixels = np.asarray(image)[..., :3]
                picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
                picture.save(folder / data / f"{k:05}-{n}.png")


def processor_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def lightly(folder: Path, data: str, epochs: int) -> nn.Module:
    import torchvision
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    size = WIDTHS[data][0]
    network = network_of(data)
    head = SimCLRProjectionHead(network.channels, network.channels, 128)
    model = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).train()
    images = LightlyDataset(str(folder / data), transform=SimCLRTransform(input_size=size, gaussian_blur=0.0))
    loader = torch.utils.data.DataLoader(images, 256, shuffle=True, drop_last=True, num_workers=1)
    loss, optimizer = NTXentLoss(), torch.optim.SGD(model.parameters(), lr=0.06)
    assert torchvision.__version__
    for _ in range(epochs):
        for (first, second), *_ in loader:
            value = loss(model(first), model(second))
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
    return network


class Wrapper(nn.Module):
    """A network as LightlyTrain takes it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.pool = network, nn.AdaptiveAvgPool2d(1)

    def forward_features(self, x: Tensor, masks: Any = None) -> dict[str, Tensor]:
        return {"features": self.network(x)}

    def forward_pool(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"pooled_features": self.pool(x["features"])}

    def feature_dim(self) -> int:
        return int(self.network.channels)

    def get_model(self) -> nn.Module:
        return self.network  # type: ignore[no-any-return]


def lightly_train(folder: Path, data: str, epochs: int) -> nn.Module:
    import lightly_train as library

    network, size = network_of(data), WIDTHS[data][0]
    library.pretrain(
        out=str(folder / f"out-{data}-{epochs}"),
        data=str(folder / data),
        model=Wrapper(network),
        method="simclr",
        epochs=epochs,
        transform_args={"image_size": (size, size)},
        accelerator="cpu",
        num_workers=1,
        overwrite=True,
        seed=torch.initial_seed() % 2**31,
    )
    return network


PEERS = {"lightly": lightly, "lightly-train": lightly_train}


def train(folder: Path, peer: str, data: str, seed: int, seconds: float) -> None:
    torch.set_num_threads(1)
    costs = []
    for epochs in (1, 1, 5):  # what an epoch takes, without what comes before it; the first loads the libraries
        torch.manual_seed(seed)
        begin = processor_seconds()
        PEERS[peer](folder, data, epochs)
        costs.append(processor_seconds() - begin)
    epochs = max(1, round(seconds * 4 / (costs[2] - costs[1])))
    torch.manual_seed(seed)
    begin, wall = processor_seconds(), time.perf_counter()
    network = PEERS[peer](folder, data, epochs)
    about = {"peer": peer, "data": data, "seed": seed, "epochs": epochs, "torch": str(torch.__version__)}
    about |= {"processor_seconds": processor_seconds() - begin, "minutes": (time.perf_counter() - wall) / 60}
    about["version"] = importlib.import_module(peer.replace("-", "_")).__version__
    torch.save({"about": about, "network": network.state_dict()}, folder / f"{peer}.{data}.{seed}.pt")
    print(json.dumps(about), flush=True)


def score(folder: Path) -> None:
    from five_minutes import ENCODERS, scores

    from fastssl.bench.harness import machine
    from fastssl.bench.run import write_atomically
    from fastssl.models import build_encoder

    runs = []
    for path in sorted(folder.glob("*.pt")):
        kept = torch.load(path, weights_only=True)
        data = kept["about"]["data"]
        encoder = build_encoder(ENCODERS[data])
        encoder.network.load_state_dict(kept["network"])
        runs.append({**kept["about"], "scores": scores(data, encoder.eval(), ("pretrained",))})
        print(
            json.dumps({k: v for k, v in runs[-1].items() if k != "scores"}), runs[-1]["scores"]["readout"], flush=True
        )
    write_atomically(RESULTS, json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["export", "train", "score"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if options.what == "export":
        export(options.folder, options.names or list(WIDTHS))
    elif options.what == "train":
        train(options.folder, *options.names, options.seed, options.seconds)
    else:
        score(options.folder)


if __name__ == "__main__":
    main()
