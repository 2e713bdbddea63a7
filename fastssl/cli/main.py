"""``fastssl demo | methods | pretrain | evaluate | report | export | data | augment-preview | pack | bench | info``."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fastssl._version import __version__
from fastssl.cli.show import (
    console,
    counting,
    describe_source,
    open_data,
    print_measures,
    run_pretraining,
    say,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
MISTAKES = (ValueError, TypeError, ImportError, FileNotFoundError)
TROUBLE = (RuntimeError, OSError)
DEBUG = "--debug"


def main() -> None:
    """Runs the command line; what goes wrong is one line, not a traceback (``--debug`` shows it)."""
    try:
        app()
    except (*MISTAKES, *TROUBLE) as error:
        if DEBUG in sys.argv:
            raise
        say(f"error: {' '.join(str(error).split())}", "red")
        sys.exit(2 if isinstance(error, MISTAKES) else 1)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)


def _version(asked: bool) -> None:
    if asked:
        say(f"fastssl {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
) -> None:
    """Self-supervised learning on fused kernels."""


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Machine readable.")] = False) -> None:
    """Show versions, backends and why each is usable or not, instruction set, threads, memory budget."""
    import fastssl

    facts = fastssl.info()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("fastssl", facts["fastssl"])
    table.add_row("torch", facts["torch"])
    table.add_row(
        "instruction set", f"{facts['instruction_set'] or '-'} (usable: {', '.join(facts['instruction_sets']) or '-'})"
    )
    table.add_row("bf16 rows", "dot products" if facts["bf16_dot_products"] else "converted to fp32")
    table.add_row("threads", str(facts["threads"]))
    table.add_row("memory budget", f"{facts['memory_budget'] / 2**20:.0f} MiB a call")
    if facts["forced_backend"]:
        table.add_row("forced backend", facts["forced_backend"])
    console.print(table)
    backends = Table("backend", "usable", "why")
    for name, state in facts["backends"].items():
        usable = Text("yes", "green") if state["usable"] else Text("no", "red")
        backends.add_row(name, usable, state["why"])
    console.print(backends)


@app.command()
def methods() -> None:
    """List the methods: what each predicts, with which loss, from which paper."""
    from fastssl.methods import METHODS

    table = Table("method", "family", "predicts", "loss", "paper")
    for name, kind in METHODS.items():
        about = kind.about()
        table.add_row(name, about["family"], about["predicts"], about["loss"], about["paper"])
    console.print(table)


@app.command()
def pretrain(
    method: Annotated[str, typer.Argument(help="simclr, byol, jigsaw, ...: see fastssl methods.")],
    data: Annotated[
        str, typer.Option(help="A folder, a packed file, shards, a list, emoji, digits, ...: see fastssl data.")
    ] = "emoji",
    recipe: Annotated[
        str | None, typer.Option(help="small, or paper (default from 100,000 images on); options below go before it.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Choose the epochs so that it takes about this long.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of checkpoint and logs; default: runs/METHOD.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --out, bit for bit.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="resnet, resnet18, vit, ..., timm:NAME, torchvision:NAME, huggingface:NAME; "
            "default: what the method needs."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Image size, pixels; default: the recipe's.")] = None,
    width: Annotated[int | None, typer.Option(help="Of networks of our own: channels of the first stage; 32.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Of networks of our own: blocks a stage; 1.")] = None,
    stem: Annotated[
        str | None,
        typer.Option(help="Of resnet18 to resnet101: cifar or imagenet; default: imagenet from 96 pixels on."),
    ] = None,
    channels: Annotated[int, typer.Option(help="Of the images that the encoder takes: 1 for grey, 3, or others.")] = 3,
    temperature: Annotated[float | None, typer.Option(help="Of the loss; default: the recipe's.")] = None,
    spatial: Annotated[
        bool | None,
        typer.Option("--spatial/--no-spatial", help="Project the 4 x 4 feature map instead of its mean."),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, sgd or lars.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after the warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the optimiser.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="In which the learning rate rises.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, ...; auto: bf16 on a GPU that has it.")] = "auto",
    accelerator: Annotated[str, typer.Option(help="cpu, cuda; auto: a GPU where there is one.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes; pair losses see the rows of all.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines, each with so many processes.")] = 1,
    strategy: Annotated[str, typer.Option(help="Of several processes: ddp, or fsdp to shard parameters too.")] = "ddp",
    chunk: Annotated[
        str | None, typer.Option(help="Rows that the encoder sees at a time, or auto; the loss sees the whole batch.")
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Parts of a batch that the encoder sees one after the other.")] = 1,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the encoder (torch.compile).")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads that read and augment.")] = None,
    on_error: Annotated[str, typer.Option(help="Of images that cannot be read: raise, or skip and count.")] = "raise",
    probe_every: Annotated[
        int | None, typer.Option(help="Epochs between looks at the features by k-NN and a linear probe, on labels.")
    ] = None,
    draft: Annotated[bool, typer.Option(help="Let JPEG decoders make fewer pixels where views need no more.")] = True,
    orientation: Annotated[bool, typer.Option(help="Turn images as EXIF says.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and train nothing.")] = False,
) -> None:
    """Pretrain METHOD on images without their labels."""
    from fastssl.cli.plan import plan
    from fastssl.cli.recipes import build_method, encoder_for, options_for
    from fastssl.methods import get
    from fastssl.train import Pretraining, check_out, is_first
    from fastssl.train import recipe as recipe_for

    out = out or Path("runs") / method
    get(method)
    if size is not None and size < 1:
        raise ValueError(f"size: expected at least one pixel, got {size}")
    check_out(out, resume=resume, overwrite=overwrite or dry_run)
    source = open_data(data, orientation=orientation)
    chosen = recipe_for(method, len(source), recipe, batch_size, source.embedded)
    own = {
        "epochs": epochs,
        "lr": lr,
        "weight_decay": weight_decay,
        "optimizer": optimizer,
        "warmup_epochs": warmup_epochs,
    }
    given = {key: value for key, value in own.items() if value is not None}
    chosen = replace(chosen, options=chosen.options | given)  # what is printed is what runs
    settings = Pretraining(
        **chosen.options,
        minutes=minutes,
        seed=seed,
        precision=precision,
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        strategy=strategy,
        chunk=int(chunk) if chunk and chunk.isdecimal() else chunk,
        accumulate=accumulate,
        compile=compile,
        workers=workers,
        on_error=on_error,
        draft=draft,
        probe_every=probe_every,
    )
    settings.check()
    if is_first():
        say(f"{describe_source(source)}\n{chosen}")
        if channels not in (1, 3):
            say(f"{channels} channels: each is augmented by itself; hue, saturation and grayscale change nothing")
    encoder_options = encoder_for(method, encoder, size or chosen.size, width, blocks, stem, channels)
    arguments: dict[str, Any] = {"temperature": temperature, "spatial": spatial, "settings": chosen.method}
    model = build_method(method, encoder_options, source, seed, **arguments)
    kept = options_for(method, source.embedded, **arguments)
    if dry_run:
        for line in plan(model, source, settings, kept, encoder_options):
            say(line)
        return
    more = {"encoder_options": encoder_options, "method_options": kept, "resume": resume, "overwrite": overwrite}
    run_pretraining(model, source, settings, out, **more)
    if is_first():
        following = "evaluate {}" if source.labels is not None else "embed {} --out features.npz"
        say(f"checkpoint: {out / 'checkpoint'}\nnext: fastssl {following.format(shlex.quote(str(out)))}")


@app.command("data")
def show_data(
    data: Annotated[str, typer.Argument(help="What pretrain takes as --data.")],
    part: Annotated[str, typer.Option(help="train or test, of data that has both.")] = "train",
    sample: Annotated[int, typer.Option(help="Items that are read, spread over all.")] = 100,
) -> None:
    """Say what DATA is: items, classes, sizes of a sample, what cannot be read or was left out."""
    from fastssl.data.summary import summary

    for line in summary(open_data(data, part=part), sample):
        say(line)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, or the --out of pretrain.")],
    data: Annotated[
        str | None,
        typer.Option(help="emoji, digits, a folder, cifar-10:FOLDER, hf:PATH; protocols take several, with commas."),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="frozen, simclr-transfer, few-labels, layers, structure or zero-shot.")
    ] = "frozen",
    readout: Annotated[
        str | None,
        typer.Option(help="spatial (4 x 4 feature map) or pooled; default: pooled for data with train/ and val/."),
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="The pretrained encoder alone; else others beside it.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the table as JSON.")] = None,
) -> None:
    """Judge an encoder beside a random one; frozen: also beside raw pixels and a colour histogram."""
    from fastssl.bench.run import write_atomically
    from fastssl.cli.judge import judge

    table = judge(checkpoint, data, protocol, readout, only)
    print_measures(table)
    if out is not None:
        write_atomically(out, json.dumps(table, indent=1))
        say(f"written: {out}")


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="A checkpoint, the --out of pretrain, or huggingface:NAME.")],
    out: Annotated[Path, typer.Option(help="A file: .npz, .safetensors or .parquet.")],
    data: Annotated[str | None, typer.Option(help="What pretrain takes as --data; default: the run's own.")] = None,
    readout: Annotated[str, typer.Option(help="pooled, or spatial (4 x 4 feature map).")] = "pooled",
    part: Annotated[str, typer.Option(help="train or test, of data that has both.")] = "train",
    size: Annotated[int | None, typer.Option(help="Image size, pixels, of a model that is no run.")] = None,
    on_error: Annotated[str, typer.Option(help="Of images that cannot be read: raise, or skip and count.")] = "raise",
    devices: Annotated[int, typer.Option(help="Processes on this machine; or start them by torchrun.")] = 1,
) -> None:
    """Write the features of all items of DATA, with their names and labels; a second call goes on after a kill."""
    from fastssl.cli.embed import Embedding
    from fastssl.cli.embed import embed as write_features

    count = write_features(Embedding(model, out, data, readout, part, size, on_error, devices))
    if count:
        say(f"{count:,} rows of features: {out}\nnext: fastssl neighbors {shlex.quote(str(out))}")


@app.command()
def neighbors(
    features: Annotated[Path, typer.Argument(help="What fastssl embed wrote.")],
    query: Annotated[
        list[str] | None,
        typer.Option(help="A name or a part of one, several times; or a file of features of other images."),
    ] = None,
    k: Annotated[int, typer.Option(help="Neighbours of each.")] = 8,
    count: Annotated[int, typer.Option(help="Queries, drawn at random, where none are named.")] = 8,
    data: Annotated[str | None, typer.Option(help="Where the images are; default: where they were.")] = None,
    out: Annotated[Path, typer.Option(help="The sheet: .png or .html.")] = Path("runs/neighbors.png"),
    seed: Annotated[int, typer.Option(help="Of which queries are drawn.")] = 0,
) -> None:
    """Draw the nearest images of some images, by the cosine of their features, as a contact sheet."""
    from fastssl.cli.neighbors import draw_neighbors

    shown = draw_neighbors(features, query or [], k, count, data, out, seed)
    say(f"{shown} queries, {k} neighbours each: {out}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; seeds of one method are one line.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("runs/report.html"),
    data: Annotated[str, typer.Option(help="What the runs are compared on: emoji, digits, or a folder.")] = "emoji",
) -> None:
    """Compare runs on one page: curves, tables over seeds, maps, neighbours, confusions, and what was predicted."""
    from fastssl.cli.recipes import views_for
    from fastssl.cli.show import passing
    from fastssl.evaluate.features import watched_passes
    from fastssl.report.compare import compare_runs

    with watched_passes(passing):
        page = compare_runs(runs, out, data, say, views_for)
    say(f"report: {page.resolve()}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, or the --out of pretrain.")],
    to: Annotated[
        str, typer.Option(help="torch (exported program), onnx (extra: export), huggingface, torchvision or timm.")
    ] = "torch",
    out: Annotated[Path | None, typer.Option(help="File, or folder for huggingface; default: beside it.")] = None,
) -> None:
    """Write the encoder for others to load; it is loaded back and must give the same features."""
    from fastssl.models.export import FILES, export_encoder, loading
    from fastssl.train import load_encoder

    encoder, state = load_encoder(checkpoint)
    path = out or checkpoint / FILES.get(to, to)
    export_encoder(encoder, state["encoder"], to, path)
    say(f"written, and loaded back with the same features: {path}\nimages in [-1, 1], of {encoder.size} pixels:")
    say(loading(encoder, state["encoder"], to, path))


@app.command("augment-preview")
def augment_preview(
    images: Annotated[str, typer.Argument(help="A file, a folder, a packed file, emoji or digits.")],
    policy: Annotated[str, typer.Option(help="simclr, byol, dino, jigsaw, ...: whose views.")] = "simclr",
    size: Annotated[int | None, typer.Option(help="Of the views, pixels; default: the paper's.")] = None,
    count: Annotated[int, typer.Option(help="Images.")] = 4,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("runs/preview.png"),
) -> None:
    """Draw a contact sheet of images, their views and what was drawn for each."""
    from fastssl.augment import policy as views_of
    from fastssl.cli.preview import contact_sheet, find_images

    if count < 1:
        raise ValueError(f"count: expected at least one image, got {count}")
    views = views_of(policy, size)
    pictures, names = find_images(images, count)
    sheet = contact_sheet(pictures, names, views, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    sheet.save(temporary, "PNG")
    temporary.replace(out)
    say(f"{len(pictures)} images, {len(views.programs)} views each: {out}")


@app.command("pack")
def pack_images(
    images: Annotated[str, typer.Argument(help="A folder of images, a list, tar shards: whatever pretrain takes.")],
    out: Annotated[Path, typer.Argument(help="The packed file.")],
    size: Annotated[int | None, typer.Option(help="Bring the shorter side to this many pixels; default: keep.")] = None,
) -> None:
    """Decode images once into one file that is mapped into memory."""
    from fastssl.data import pack_source

    source = open_data(images)
    with counting(f"{out}: images packed of {len(source):,}") as show:
        pack_source(source, out, size=size, progress=show)
    say(f"{len(source)} items, {out.stat().st_size / 2**20:.0f} MiB: {out}")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A minute instead of half an hour.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/bench"),
) -> None:
    """Measure the losses against eager PyTorch, torch.compile and other libraries."""
    from fastssl.bench.run import run, write_atomically

    results = run(quick, say)
    write_atomically(out / "results.json", json.dumps(results, indent=1))
    say(f"written: {out / 'results.json'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of report, checkpoints and logs.")] = Path("runs/demo"),
    emoji_minutes: Annotated[float, typer.Option(help="Pretraining on emoji.")] = 4.0,
    digits_minutes: Annotated[float, typer.Option(help="Pretraining on digits.")] = 1.0,
    bench_minutes: Annotated[float, typer.Option(help="Benchmark of fused against eager.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Benchmark, pretrain on emoji and digits, evaluate, and write one report with pictures."""
    from fastssl.cli.demo import run_demo

    run_demo(out, emoji_minutes, digits_minutes, bench_minutes, seed)
