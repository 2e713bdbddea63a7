"""``fastssl demo | pretrain | tokenize | evaluate | generate | report | export | data | ... | doctor | info``."""

from __future__ import annotations

import io
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
from fastssl._words import amount
from fastssl.cli.once import App
from fastssl.cli.show import (
    check_file,
    console,
    describe_source,
    echo,
    item_progress,
    note_part,
    open_data,
    open_training,
    print_measures,
    run_pretraining,
)

app = App(no_args_is_help=True, rich_markup_mode=None)
USAGE_ERRORS = (ValueError, TypeError, ImportError, FileNotFoundError)
RUN_ERRORS = (RuntimeError, OSError)
# By name: fastssl.data imports torch.
UNREADABLE = ("ImageError", "PackedError", "ShardError", "AudioError", "CaptionError")
DEBUG = "--debug"
Unreadable = Annotated[str, typer.Option("--on-error", help="Unreadable items: raise, or skip.")]
UnreadableAsTrained = Annotated[
    str | None, typer.Option("--on-error", help="Unreadable items: raise, or skip; default: as in pretraining.")
]


def main() -> None:
    """Runs the command line; errors are printed as one line, or with a traceback (``--debug``)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8, or the terminal's encoding
    try:
        app()
    except (*USAGE_ERRORS, *RUN_ERRORS) as error:
        if DEBUG in sys.argv:
            raise
        echo(f"error: {' '.join(str(error).split())}{_remedy(error)}", "red")
        sys.exit(2 if isinstance(error, USAGE_ERRORS) else 1)
    except KeyboardInterrupt:
        train = sys.modules.get("fastssl.train")  # else there are no other processes
        if train is None or train.is_rank_zero():
            echo("stopped")
        sys.exit(130)


def _remedy(error: BaseException) -> str:
    """What to do about an item that cannot be read, where the command can leave it out."""
    if (
        not {"pretrain", "embed", "pack", "evaluate", "report", "augment-preview"} & set(sys.argv[1:2])
        or type(error).__name__ not in UNREADABLE
        or {"skip", "--on-error=skip"} & set(sys.argv)
    ):
        return ""
    return "; --on-error skip leaves such items out and counts them"


def _version(asked: bool) -> None:
    if asked:
        echo(f"fastssl {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
) -> None:
    """Self-supervised learning on fused kernels: losses, pretraining, evaluation.

    \b
    fastssl doctor train.py                   which losses of a script run fused, and what that saves
    fastssl pretrain simclr --data photos/    pretrain on a folder of images; methods: fastssl methods
    fastssl evaluate runs/simclr              judge an encoder
    fastssl export runs/simclr --to torch     use it elsewhere
    fastssl demo                              all of it on embedded data, in ten minutes

    In Python: fastssl.functional, fastssl.losses, fastssl.pretrain, fastssl.patch. Guides, tutorials and the API
    reference: docs/, or the site that `make docs` builds. Completion in the shell: --install-completion.
    """


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Machine readable.")] = False) -> None:
    """Show versions, usable backends, threads, memory budget."""
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
    table.add_row("bf16 rows", "multiplied as they are" if facts["bf16_dot_products"] else "converted to fp32")
    table.add_row("threads", str(facts["threads"]))
    table.add_row("memory budget", f"{facts['memory_budget'] / 2**20:.0f} MiB per call")
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
    """List the methods with their targets, losses and papers."""
    from fastssl.methods import METHODS, Word2Vec

    families: dict[str, list[tuple[str, ...]]] = {}
    for name, kind in {**METHODS, Word2Vec.name: Word2Vec}.items():
        about = kind.about()  # type: ignore[attr-defined]
        families.setdefault(about["family"], []).append((name, about["predicts"], about["loss"], about["paper"]))
    table = Table("method", "predicts", "loss", "paper")
    for family, rows in families.items():
        table.add_section()
        table.add_row(Text(family, "bold"))
        for row in rows:
            table.add_row(*row)
    console.print(table)


@app.command()
def pretrain(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="A method (simclr, byol, jigsaw, word2vec, ...): see fastssl methods.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder, a packed file, shards, a list, emoji, ...; of texts: sotu, FILE.tok, text:FOLDER, ...: see "
            "fastssl data. Default: emoji, or of texts sotu."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="small, or paper (default from 100,000 images on); other options override it.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Duration, from which the number of epochs follows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, over all processes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoint and logs; default: runs/METHOD.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --out, bit for bit.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run in --out.")] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="resnet, resnet18, vit, ..., timm:NAME, torchvision:NAME, huggingface:NAME; "
            "default: that of the method."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Image size in pixels; default: that of the recipe.")] = None,
    width: Annotated[
        int | None,
        typer.Option(
            help="Channels of the first stage (resnet, vit, ...); default: 32. Of texts: dimensions of a token."
        ),
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="Blocks per stage (resnet, vit, ...); default: 1.")] = None,
    stem: Annotated[
        str | None,
        typer.Option(help="Stem of resnet18 to resnet101: cifar or imagenet; default: imagenet from 96 pixels on."),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="Image channels of the encoder: 1 for grey, 3, or others; default: the method's.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the loss; default: that of the recipe.")
    ] = None,
    spatial: Annotated[
        bool | None,
        typer.Option("--spatial/--no-spatial", help="Project the 4 x 4 feature map instead of its mean."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Of texts: bert, roberta, modernbert, electra, xlnet, gpt2, llama, qwen3, t5, bart, transformer, ... "
            "(all: docs/language.md). "
            "Of waveforms: cpc, wavenet, wavernn."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Of texts: wordpiece, bpe or unigram (trained), bytes, or a tokenizer.json or a run."),
    ] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Of texts: tokens of a tokenizer that is trained.")] = None,
    length: Annotated[int | None, typer.Option(help="Of texts: tokens per example.")] = None,
    depth: Annotated[int | None, typer.Option(help="Of texts and waveforms: number of blocks or layers.")] = None,
    heads: Annotated[int | None, typer.Option(help="Of texts: attention heads.")] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Of texts: share of the corpus, its end, that is left out; default: 0.05.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: a run, or of images a file of weights (.pth, .safetensors), of texts "
            "huggingface:PATH; of texts also word2vec (of the tokens) or word2vec:RUN, embeddings alone."
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Of t5 and bart: spans, prefix, bert, deshuffle, infill, ...")
    ] = None,
    order: Annotated[str | None, typer.Option(help="Of bert: next, swapped (ALBERT) or none (RoBERTa).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimiser: adamw, sgd, lars or muon.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after the warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of the optimiser.")] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Epochs of linear warm-up; at most half of the run.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="After the warm-up: cosine, linear or constant.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random draws; default: 0.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="32-true, bf16-mixed, ...; auto (default): bf16-mixed where that is faster."),
    ] = None,
    accelerator: Annotated[str | None, typer.Option(help="cpu, cuda; auto (default): a GPU if available.")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes; pair losses cover the rows of all of them; default: 1.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines, each with that many processes; default: 1.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="With several processes: ddp (default), or fsdp to shard parameters.")
    ] = None,
    chunk: Annotated[
        str | None, typer.Option(help="Rows per chunk of the encoder, or auto; the loss covers the whole batch.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-batches per step, processed by the encoder in turn; default: 1.")
    ] = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="Compile the encoder (torch.compile).")] = None,
    workers: Annotated[int | None, typer.Option(help="Loader threads.")] = None,
    on_error: Annotated[
        str | None, typer.Option("--on-error", help="Unreadable items: raise (default), or skip.")
    ] = None,
    probe_every: Annotated[
        int | None,
        typer.Option(help="Epochs between evaluations on labels or scores: k-NN, a linear probe or regression."),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic/--no-deterministic",
            help="On a GPU: a run is repeated and resumed bit for bit (default); without: the fastest algorithms.",
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Of images: FILE.py[:NAME] with an augmentation of fastssl.augment, torchvision, timm or lightly, or "
            "the policy of another method (byol, dino, ...); default: the method's views."
        ),
    ] = None,
    views_on: Annotated[
        str | None, typer.Option(help="Where views are made: cpu (default), or gpu (the images are copied).")
    ] = None,
    draft: Annotated[
        bool | None,
        typer.Option("--draft/--no-draft", help="Decode JPEG at reduced size if views need no more pixels (default)."),
    ] = None,
    orientation: Annotated[
        bool | None, typer.Option("--orientation/--no-orientation", help="Apply the EXIF orientation (default).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, without training.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method or its network (repeatable): steps=5, window=10, ..."),
    ] = None,
) -> None:
    """Pretrain METHOD on images, texts or waveforms.

    Options that are neither given nor have a default here are those of the recipe of method and data, which are
    printed; --dry-run prints all of them, and trains nothing. With --resume they are those of the run.
    """
    from fastssl.cli.evaluation import data_of, leaving_out
    from fastssl.cli.plan import network_line, plan, views_of
    from fastssl.cli.recipes import (
        build_method,
        check_rate,
        encoder_for,
        method_settings,
        options_for,
        options_of_run,
        resumed_recipe,
        started_from,
        with_absolute_path,
    )
    from fastssl.methods import AudioMethod, get
    from fastssl.models.folder import holds_run, load_state
    from fastssl.train import Pretraining, check_out, is_rank_zero
    from fastssl.train import recipe as recipe_for
    from fastssl.train.options import detect_launcher
    from fastssl.train.recipe import continued
    from fastssl.train.run import replace_views

    out = out or Path("runs") / method
    if minutes is not None and epochs is not None:
        raise ValueError("minutes, epochs: give one of them, the other follows from it")
    state = load_state(out) if resume and holds_run(out) else None
    if resume and state is None and data is None:
        raise ValueError(f"out: no run to resume in {str(out)!r}; give --data as well to start one there")
    if method == "word2vec":
        from fastssl.cli.words import OPTIONS, pretrain_words, settings_of

        for name in context.params:
            if name not in OPTIONS and context.get_parameter_source(name).name != "DEFAULT":  # type: ignore[union-attr]
                raise ValueError(f"{name}: word2vec has no such option; its settings: --set NAME=VALUE")
        launch = detect_launcher()
        if launch is not None and launch.devices * launch.nodes > 1:
            raise ValueError("word2vec runs in one process, with several threads; start it without torchrun or srun")
        context.with_resource(leaving_out(on_error, [out] if state else []))
        given = settings_of(set_ or [], epochs=epochs, lr=lr, seed=seed)
        pretrain_words(data, out, given, minutes, state, resume=resume, overwrite=overwrite)
        return
    encoder = None if encoder is None else with_absolute_path(encoder)
    of_method, of_network = method_settings(method, encoder, set_ or [])
    kind = get(method)
    text, audio = "tokens" in kind.needs, issubclass(kind, AudioMethod)
    of_images = {
        **{"encoder": encoder, "size": size, "blocks": blocks, "stem": stem, "temperature": temperature},
        **{"spatial": spatial, "probe_every": probe_every, "augment": augment},
    }
    of_texts = {
        **{"network": network, "tokenizer": tokenizer, "vocabulary": vocabulary, "length": length, "depth": depth},
        **{"heads": heads, "held_out": held_out, "objective": objective, "order": order},
    }
    of_others = of_images if text else of_texts
    if audio:
        of_others = {**of_images, **{key: value for key, value in of_texts.items() if key not in ("network", "depth")}}
    for name, value in of_others.items():
        if value is not None:
            takes = "texts" if text else "waveforms" if audio else "images"
            remedy = f"; --set {name}={value} is one of its settings" if name in kind.arguments() else ""
            raise ValueError(f"{name}: {method} takes {takes}, it has no such option{remedy}")
    own_names, further = kind.arguments(), {**of_method, **of_network}
    for name, value in {**of_images, **of_texts, "width": width, "channels": channels}.items():
        if value is not None and name in further:
            raise ValueError(f"{name}: expected one value, got {value} and --set {name}={further[name]}")
        if value is not None and name in ("objective", "order") and name not in own_names:
            raise ValueError(f"{name}: {method} has no such option")
    if size is not None and size < 1:
        raise ValueError(f"size: expected at least one pixel, got {size}")
    if channels is not None and channels < 1:
        raise ValueError(f"channels: expected at least one, got {channels}")
    check_out(out, resume=resume, overwrite=overwrite or dry_run)
    init, start = started_from(out if resume else None, init)
    if text:  # which are read when they are tokenized, not by a loader
        context.with_resource(leaving_out(on_error, [out] if state else []))
    own = {
        **{"schedule": schedule, "clip": clip, "epochs": epochs, "minutes": minutes, "batch_size": batch_size},
        **{"lr": lr, "weight_decay": weight_decay, "optimizer": optimizer, "warmup_epochs": warmup_epochs},
        **{"seed": seed, "precision": precision, "accelerator": accelerator, "devices": devices, "nodes": nodes},
        **{"strategy": strategy, "chunk": int(chunk) if chunk and chunk.isdecimal() else chunk},
        **{"accumulate": accumulate, "compile": compile, "workers": workers, "on_error": on_error},
        **{"deterministic": deterministic, "views_on": views_on, "draft": draft, "probe_every": probe_every},
    }
    given = {key: value for key, value in own.items() if value is not None}
    arguments: dict[str, Any] = {"objective": objective, "order": order, **of_method}
    shape: dict[str, Any]
    if text or audio:
        shape = {"name": network, "length": length, "width": width, "depth": depth, "heads": heads}
        shape["vocabulary"] = vocabulary
    else:
        shape = {"name": encoder, "size": size, "width": width, "blocks": blocks, "stem": stem, "channels": channels}
    if state is None:
        source = open_training(data or kind.data, kind, orientation=orientation is not False)
        chosen = recipe_for(method, 0 if text else len(source), recipe, batch_size, source.embedded, of_network)
    else:
        from fastssl.cli.language import tokens_of

        asked, trained = None, state.get("source", {})
        if recipe is not None:
            asked = recipe_for(method, 0, recipe, batch_size, trained.get("embedded"), of_network)
        chosen = resumed_recipe(state, out, method, asked, {**shape, **of_network})
        turned = trained.get("orientation", True) if orientation is None else orientation
        data = data or (str(tokens_of(out, state)) if text else data_of(state))
        source = open_training(data, kind, orientation=turned)
        init = None  # the checkpoint has the weights
    if text and init is not None:
        from fastssl.cli.language import names_network

        if names_network(init):
            if vocabulary is not None:
                raise ValueError(f"vocabulary: expected none, {init} has its own tokenizer")
            chosen = replace(chosen, network={})  # the network's own sizes
    of_run: dict[str, Any] = {}
    if not (text or audio) and init is not None and Path(init).is_dir() and encoder is None:
        of_run = options_of_run(Path(init), **shape)
    fresh = chosen.options.get("lr")
    if state is None:
        parts = {"encoder": encoder or of_run.get("name"), "tower": of_method.get("text")}
        chosen = continued(chosen, init, text=text, **parts)
    known, options = chosen, chosen.options | given
    if epochs is not None:
        options.pop("minutes", None)  # of a resumed run
    of_texts = shape if text or audio else {}
    chosen = replace(
        chosen,
        options={key: value for key, value in options.items() if key != "epochs" or options.get("minutes") is None},
        method=chosen.method | {key: value for key, value in arguments.items() if value is not None},
        network=chosen.network
        | {key: value for key, value in of_texts.items() if value is not None}
        | (of_network if audio else {}),
    )  # what is printed is what runs
    settings = Pretraining(**chosen.options)
    settings.check()
    if state is None:
        check_rate(known, optimizer, lr)
    if is_rank_zero():
        echo(f"{describe_source(source)}{', the training split' if kind.held_out else ''}\n{chosen}")
        if lr is None and known.options.get("lr") != fresh:
            echo(f"pretrained weights: a learning rate of {settings.lr:g} in place of {fresh:g}, that of random ones")
        if channels not in (None, 1, 3):
            echo(f"{amount(channels, 'channel')}: augmented one by one; hue, saturation and grayscale have no effect")
    model: Any
    if text:
        import tempfile

        from fastssl.cli.language import check_vocabulary, prepare

        if state is None:
            check_vocabulary(vocabulary, source, method, network, tokenizer)
        written = tempfile.TemporaryDirectory() if dry_run and not resume else None  # a dry run leaves no files behind
        method_options = {key: None if value == "none" else value for key, value in chosen.method.items()}
        model, source, encoder_options = prepare(
            method,
            source,
            out if written is None else Path(written.name),
            dict(chosen.network),
            method_options,
            tokenizer=tokenizer,
            held_out=held_out,
            init=init,
            seed=settings.seed,
            resumed=state,
        )
    elif audio:
        if init is not None:
            raise ValueError(f"init: {method} takes waveforms, it has no such option")
        from fastssl.train.audio import build_audio_method

        method_options = chosen.method
        model, encoder_options = build_audio_method(method, chosen.network, method_options, settings.seed)
    else:
        if state is not None:
            encoder_options = known.network
        elif of_run:
            encoder_options = of_run
        else:
            encoder_options = encoder_for(method, encoder, size or chosen.size, width, blocks, stem, channels)
            encoder_options = {**chosen.network, **encoder_options, **of_network}
        arguments = {"temperature": temperature, "spatial": spatial, "settings": chosen.method}
        model = build_method(method, encoder_options, source, settings.seed, init=init, **arguments)
        replace_views(model, augment, state)
        if augment is not None and is_rank_zero() and not dry_run:
            for line in views_of(model):
                echo(line)
        method_options = options_for(method, source.embedded, **arguments)
    model.started_from = start
    if dry_run:
        for line in plan(model, source, settings, method_options, encoder_options):
            echo(line)
        return
    if is_rank_zero():
        echo(f"{network_line(model, encoder_options)}; precision {settings.resolved_precision}")
    how = {"encoder_options": encoder_options, "method_options": method_options}
    run_pretraining(model, source, settings, out, resume=resume, overwrite=overwrite, **how)
    if not is_rank_zero():
        return
    if text:
        from fastssl.train.language import remove_other_tokens

        remove_other_tokens(Path(source.file.path), out)
    judged = text or source.labels is not None or (audio and kind.generates is not None)  # by its likelihood
    following = "evaluate {}" if judged else "embed {} --out features.npz"
    echo(f"checkpoint: {out / 'checkpoint'}\nnext: fastssl {following.format(shlex.quote(str(out)))}")


@app.command()
def tokenize(
    data: Annotated[str, typer.Argument(help="A corpus: sotu, FILE.txt, text:FOLDER, hf:PATH, ...")],
    out: Annotated[Path, typer.Argument(help="The token file (.tok).")],
    tokenizer: Annotated[
        str,
        typer.Option(
            help="wordpiece, bpe or unigram (trained), bytes, or that of a tokenizer.json, a run or a token file."
        ),
    ] = "bpe",
    vocabulary: Annotated[int, typer.Option(help="Tokens of a tokenizer that is trained.")] = 8000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write the tokens of a corpus to a file.

    The file is memory-mapped by pretrain, and has the tokenizer in it.
    """
    check_file(out)
    from fastssl.cli.language import described
    from fastssl.cli.language import tokenize as write_tokens

    file = write_tokens(data, out, tokenizer, vocabulary, overwrite=overwrite)
    echo(f"{described(file)}: {out}")
    echo(f"next: fastssl pretrain gpt --data {shlex.quote(str(out))}")


@app.command("data")
def show_data(
    data: Annotated[str, typer.Argument(help="As --data of pretrain.")],
    part: Annotated[str, typer.Option(help="Split, train or test, of data that has both.")] = "train",
    sample: Annotated[int, typer.Option(help="Number of evenly spaced items to read.")] = 100,
) -> None:
    """Describe DATA: items, classes, sizes, unreadable files.

    Sizes are those of a sample; files that are left out are listed with the reason.
    """
    from fastssl.data.summary import summary

    source = open_data(data, part=part)
    note_part(source, data)
    for line in summary(source, sample):
        echo(line)


@app.command()
def evaluate(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, the --out of pretrain, or huggingface:NAME.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="emoji, digits, a folder, cifar-10:FOLDER, hf:PATH; for protocols a comma-separated list; for word "
            "vectors glosses (default) and files of word pairs or analogies."
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="frozen, simclr-transfer, few-labels, layers, structure, segmentation or detection; of images with "
            "texts also zero-shot and image-text-retrieval; of texts: finetune (classes), tags (of words), answers "
            "(questions) or translation (pairs of texts)."
        ),
    ] = "frozen",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Of finetune: labels per class, such as 10,50; of tags, answers and translation: sentences, questions "
            "or pairs, such as 100,1000; of segmentation and detection: a share of the training images, such as 10%; "
            "default: all."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Of protocols that train networks: draws of labels and weights; default: 3."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Of segmentation and detection: head (default; the encoder is frozen) or all."),
    ] = None,
    head: Annotated[str | None, typer.Option(help="Of segmentation: linear (default), fcn or hypercolumn.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Of protocols that train networks: steps of each training; of fine-tunings: at most."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the images in pixels; default: that of training (dense protocols: twice that)."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Of language models without a run: tokens of a window; default: their positions, or 512."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Of texts: word2vec:RUN, for the network that starts from word vectors alone."),
    ] = None,
    readout: Annotated[
        str | None,
        typer.Option(help="spatial (4 x 4 feature map) or pooled; default: pooled for data with train/ and val/."),
    ] = None,
    whiten: Annotated[
        int | None, typer.Option(min=1, help="Whiten the features of all rows to that many components before cosines.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Of zero-shot: a text with {} for the class (repeatable); default: 'a photo of a {}', ..."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of protocols that train networks: 32-true, bf16-mixed, or auto (default): what is faster."),
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="Evaluate the pretrained encoder without baselines.")] = False,
    on_error: UnreadableAsTrained = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Of detection: also write the detections in the test images as JSON, COCO's results."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table as JSON.")] = None,
) -> None:
    """Evaluate an encoder beside a random one.

    Protocol frozen: also beside raw pixels and a colour histogram.

    A language method is evaluated on held-out text, against a unigram model and xz, a language model of transformers
    (huggingface:PATH) on --data; finetune: on labelled texts
    (glosses, glue:FOLDER, text:FOLDER), against the same network from scratch and TF-IDF; tags: on the words of
    sentences (conll:FILE, capitals:CORPUS); answers: on questions (squad:FILE); translation: on pairs of texts
    (pairs:FILE, verses-es-en). A distribution of images is evaluated also by the likelihood of held-out images, against
    mixtures, xz and PNG; one of waveforms on held-out signals, against a linear predictor and xz.
    """
    check_file(out)
    check_file(predictions, "predictions")
    from fastssl.bench.run import write_atomically
    from fastssl.cli.evaluation import DENSE_PROTOCOLS, check_model, is_named, leaving_out, note_changes, run_evaluation
    from fastssl.cli.language import PROTOCOLS as TEXT_PROTOCOLS
    from fastssl.cli.language import evaluate as evaluate_text
    from fastssl.cli.words import evaluate_words, is_word_run
    from fastssl.evaluate.protocols import TRAINING
    from fastssl.methods import AudioMethod, kind_of
    from fastssl.models.folder import load_state
    from fastssl.models.precision import automatic_precision
    from fastssl.train.options import started_by_torchrun
    from fastssl.train.starting import language_kind

    check_model(checkpoint)
    named = is_named(checkpoint)
    tuning: dict[str, Any] = {"labels": labels, "seeds": seeds, "init": init}
    dense: dict[str, Any] = {
        "labels": labels,
        "seeds": seeds,
        "train": train,
        "head": head,
        "steps": steps,
        "size": size,
    }
    for name, value in {**tuning, **dense, "precision": precision}.items():
        users = (
            TEXT_PROTOCOLS * (name in (*tuning, "steps", "precision"))
            + DENSE_PROTOCOLS * (name in (*dense, "precision"))
            + tuple(own for own, options in TRAINING.items() if name in (*options, "precision"))
            + ("frozen",) * (name == "size")
        )
        if value is not None and protocol not in users and not (name == "size" and named):
            raise ValueError(f"{name}: expected the protocol {' or '.join(map(repr, users))}, got {protocol!r}")

    if predictions is not None and protocol != "detection":
        raise ValueError(f"predictions: expected the protocol 'detection', got {protocol!r}")
    if prompt and protocol != "zero-shot":
        raise ValueError(f"prompt: expected the protocol 'zero-shot', got {protocol!r}")

    if length is not None and not (named and protocol == "frozen" and language_kind(str(checkpoint)) is not None):
        raise ValueError(f"length: expected a language model without a run (huggingface:PATH), got {str(checkpoint)!r}")

    def on_data_alone(what: str) -> None:
        if protocol != "frozen" or only or {readout, whiten, size} != {None}:
            raise ValueError(f"protocol, readout, whiten, size, only: {what} are evaluated on --data alone")

    def of_images() -> dict[str, Any]:
        tuning = {"steps": steps, "seeds": seeds}
        return run_evaluation(*(checkpoint, data, protocol, readout, only, whiten, size), tuning=tuning, prompts=prompt)

    def of_texts() -> dict[str, Any]:
        from fastssl.cli.language import evaluate_finetuned

        if whiten is not None:
            raise ValueError(f"whiten: expected the protocol 'frozen', got {protocol!r}")
        if protocol != "finetune" and readout is not None:
            raise ValueError(f"readout: expected none, {protocol} predicts words")
        default = {"finetune": "glosses", "tags": "capitals:sotu", "translation": "verses-es-en"}
        if data is None and protocol not in default:
            raise ValueError("data: expected squad:FILE or squad:FOLDER (--data)")
        asked = data or default[protocol]
        return evaluate_finetuned(checkpoint, asked, protocol, readout=readout, steps=steps, **tuning)

    if started_by_torchrun() > 1:
        raise ValueError(f"evaluate runs in one process, torchrun started {started_by_torchrun()}")
    context.with_resource(automatic_precision(precision or "auto"))
    run = [] if named or is_word_run(checkpoint) else [checkpoint]
    context.with_resource(leaving_out(on_error, run))
    if run and data is None and protocol not in DENSE_PROTOCOLS:
        note_changes(load_state(checkpoint))
    if named:
        if protocol in DENSE_PROTOCOLS:
            raise ValueError(
                f"checkpoint: {protocol} keeps its results in the folder of a run, got {str(checkpoint)!r}"
            )
        if protocol == "frozen" and language_kind(str(checkpoint)) is not None:
            on_data_alone("language methods without --protocol finetune")
            table = evaluate_text(checkpoint, data, length)
        else:
            table = of_texts() if protocol in TEXT_PROTOCOLS else of_images()
    elif is_word_run(checkpoint):
        on_data_alone("word vectors")
        table = evaluate_words(checkpoint, data)
    elif "tokens" in (kind := kind_of(load_state(checkpoint))).needs:
        if protocol not in ("frozen", *TEXT_PROTOCOLS):
            known = ", ".join(map(repr, ("frozen", *TEXT_PROTOCOLS)))
            raise ValueError(f"protocol: expected one of {known} for a language method, got {protocol!r}")
        if protocol == "frozen" or only:
            on_data_alone("language methods without --protocol finetune")
            table = evaluate_text(checkpoint, data)
        else:
            table = of_texts()
    elif issubclass(kind, AudioMethod):
        from fastssl.cli.evaluation import evaluate_waveforms

        on_data_alone("waveforms")
        table = evaluate_waveforms(checkpoint, data)
    elif protocol in DENSE_PROTOCOLS:
        from fastssl.cli.dense import evaluate_dense

        if readout is not None or whiten is not None:
            raise ValueError(f"readout, whiten: expected none, {protocol} is of feature maps")
        table = evaluate_dense(checkpoint, data or "scenes", protocol, only=only, predictions=predictions, **dense)
    else:
        table = of_images()
    print_measures(table)
    if out is not None:
        write_atomically(out, json.dumps(table, indent=1))
        echo(f"written: {out}")


@app.command()
def generate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint, the --out of pretrain, or huggingface:PATH (of texts).")
    ],
    prompt: Annotated[
        list[str] | None, typer.Argument(help="Of texts: what to continue, one or several; default: nothing.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Of texts: a file of prompts, one per line, or .jsonl with the key prompt.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Number of samples (of each prompt); default: 1 text, 64 images, 4 waveforms.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed; each sample has draws of its own.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of images, audio (.wav) or texts (.jsonl: with prompts); default: samples in CHECKPOINT."
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0: the most probable value; default: 1.")] = None,
    label: Annotated[int | None, typer.Option(help="The class, of a method that is conditioned on classes.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Of waveforms: duration; default: 1.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Of texts: tokens to add; default: 100.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Of texts: sample among this many tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Of texts: sample among the tokens that make up this probability.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A further option of the method's generate (repeatable).")
    ] = None,
) -> None:
    """Draw samples of a method: texts, images or audio.

    Continuations of PROMPT (gpt), a contact sheet of images, or WAV files.
    """
    from fastssl.cli.generation import generate as draw
    from fastssl.cli.generation import parse_settings, read_prompts, write_texts

    if prompt and prompts is not None:
        raise ValueError("prompt, prompts: expected one of them, got both")
    asked = (prompt or []) if prompts is None else read_prompts(prompts)
    options = {"count": count, "temperature": temperature, "label": label, "seconds": seconds}
    options |= {"tokens": tokens, "top_k": top_k, "top_p": top_p}
    samples = draw(checkpoint, seed, {**options, **parse_settings(set_ or [])}, asked)
    if samples.kind == "texts":
        for text in samples.values:
            echo(text)
        if out is not None:
            write_texts(samples, asked or [""], out)
            echo(f"{amount(len(samples.values), 'text')}: {out}")
        return
    files = samples.save(out or checkpoint / "samples")
    made = amount(len(samples.values), "waveform" if samples.kind == "audio" else "image")
    echo(f"{made}: {files[0]}" + (f" to {files[-1].name}" if len(files) > 1 else ""))


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="A checkpoint, the --out of pretrain, or huggingface:NAME.")],
    out: Annotated[Path, typer.Option(help="A file: .npz, .safetensors or .parquet.")],
    data: Annotated[
        str | None,
        typer.Option(help="As --data of pretrain; default: the run's training data (a run on texts needs it)."),
    ] = None,
    readout: Annotated[str, typer.Option(help="pooled, or spatial (4 x 4 feature map).")] = "pooled",
    part: Annotated[str, typer.Option(help="Split, train or test, of data that has both.")] = "train",
    size: Annotated[
        int | None, typer.Option(help="Image size in pixels; default: that of training (huggingface:NAME has none).")
    ] = None,
    on_error: Unreadable = "raise",
    devices: Annotated[int, typer.Option(help="Processes on this machine; or start them with torchrun.")] = 1,
) -> None:
    """Write the features of all items of DATA to a file.

    Names and labels are in it, too. Interrupted on images, the same command resumes.
    """
    check_file(out)
    from fastssl.cli.embed import Embedding
    from fastssl.cli.embed import embed as write_features

    write_features(Embedding(model, out, data, readout, part, size, on_error, devices))


@app.command()
def nearest(
    run: Annotated[Path, typer.Argument(help="The --out of pretrain word2vec, or a file of vectors (.txt, .bin).")],
    words: Annotated[list[str], typer.Argument(help="One word, or several, whose mean is taken.")],
    minus: Annotated[list[str] | None, typer.Option(help="A word to subtract (repeatable).")] = None,
    k: Annotated[int, typer.Option(help="Number of words.")] = 10,
) -> None:
    """List the words nearest to WORDS by cosine similarity.

    king woman --minus man: an analogy.
    """
    from fastssl.cli.words import nearest_words

    for word, cosine in nearest_words(run, words, minus or [], k):
        echo(f"{cosine:.3f}  {word}")


@app.command()
def neighbors(
    features: Annotated[Path, typer.Argument(help="A file written by fastssl embed, or features as .npy (--data).")],
    query: Annotated[
        list[str] | None,
        typer.Option(help="A name or a part of one (repeatable); or a feature file of other images."),
    ] = None,
    k: Annotated[int, typer.Option(help="Neighbours per query.")] = 8,
    count: Annotated[int, typer.Option(help="Number of random queries, without --query.")] = 8,
    data: Annotated[str | None, typer.Option(help="The images; default: their original location.")] = None,
    out: Annotated[Path, typer.Option(help="The sheet: .png or .html.")] = Path("runs/neighbors.png"),
    seed: Annotated[int, typer.Option(help="Seed of the random queries.")] = 0,
) -> None:
    """Draw a contact sheet of nearest neighbours.

    They are those by cosine similarity of features that embed has written.
    """
    check_file(out)
    from fastssl.cli.neighbors import draw_neighbors

    queries, each = draw_neighbors(features, query or [], k, count, data, out, seed)
    echo(f"{amount(queries, 'query')}, {amount(each, 'neighbour')} each: {out}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; runs that differ only in seed form a group.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("runs/report.html"),
    data: Annotated[
        str | None, typer.Option(help="Evaluation data: emoji, digits, or a folder; default: the runs' training data.")
    ] = None,
    on_error: UnreadableAsTrained = None,
) -> None:
    """Compare runs on one page of HTML.

    Learning curves, tables over seeds, embeddings, neighbours, confusions, predictions.
    """
    check_file(out)
    from fastssl.cli.evaluation import common_data, leaving_out
    from fastssl.cli.recipes import views_for
    from fastssl.cli.show import item_progress
    from fastssl.cli.words import is_word_run
    from fastssl.evaluate.features import progress_bars
    from fastssl.methods import ImageMethod, kind_of
    from fastssl.models.folder import load_state
    from fastssl.report.compare import compare_runs

    for run in runs:
        kind = kind_of(load_state(run)) if not is_word_run(run) else None
        if kind is None or not issubclass(kind, ImageMethod):
            raise ValueError(f"runs: expected runs on images, {run} is none; evaluate it instead (fastssl evaluate)")
    with progress_bars(item_progress), leaving_out(on_error, runs):
        page = compare_runs(runs, out, data or common_data(runs), echo, views_for)
    echo(f"report: {page.resolve()}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, or the --out of pretrain.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="torch (exported program; the default), onnx (extra: export), huggingface, torchvision or timm; of "
            "texts huggingface; of word vectors word2vec."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File (of word vectors .txt or .bin), or folder for huggingface; default: in CHECKPOINT."),
    ] = None,
) -> None:
    """Export the encoder for other programs.

    The result is loaded back and its features are compared.

    With --to huggingface, a run of images and texts (clip, align, siglip) is exported with its text tower.
    """
    from fastssl.cli.words import export_words, is_word_run
    from fastssl.methods import kind_of
    from fastssl.models.export import FILES, export_encoder, loading
    from fastssl.models.folder import load_state
    from fastssl.train import load_encoder, load_method

    if is_word_run(checkpoint):
        path = export_words(checkpoint, to, out)
        echo(
            f"written: {path}\ngensim: KeyedVectors.load_word2vec_format({str(path)!r}, binary={path.suffix == '.bin'})"
        )
        return
    kind = kind_of(load_state(checkpoint))
    if "tokens" in kind.needs:
        from fastssl.cli.language import load
        from fastssl.models.language_export import export_language
        from fastssl.models.language_export import loading as loading_language

        if to not in (None, "huggingface"):
            raise ValueError(f"to: expected huggingface for a language method, got {to!r}")
        method = load(checkpoint)[0]
        path = export_language(method.network, method.tokenizer, out or checkpoint / FILES["huggingface"])
        echo(f"written, and loaded back with the same scores: {path}")
        echo(loading_language(path))
        return
    encoder, state = load_encoder(checkpoint)
    to = to or "torch"
    path = out or checkpoint / FILES.get(to, to)
    if to == "huggingface" and hasattr(kind, "encode_texts"):
        from fastssl.models import image_text_export

        image_text_export.export_image_text(load_method(checkpoint), state["encoder"], path)
        echo(f"both towers written, and loaded back with the same embeddings: {path}\nimages of {encoder.size} pixels:")
        echo(image_text_export.loading(path))
        return
    if hasattr(kind, "encode_texts"):
        echo(
            f"{to}: the image encoder alone; --to huggingface also writes the text tower and the projections", "yellow"
        )
    export_encoder(encoder, state["encoder"], to, path)
    echo(f"written, and loaded back with the same features: {path}\nimages in [-1, 1], of {encoder.size} pixels:")
    echo(loading(encoder, state["encoder"], to, path))


@app.command("augment-preview")
def augment_preview(
    images: Annotated[str, typer.Argument(help="A file, a folder, a packed file, emoji or digits.")],
    policy: Annotated[
        str, typer.Option(help="Policy of a method (simclr, byol, jigsaw, ...), or FILE.py[:NAME].")
    ] = "simclr",
    size: Annotated[int | None, typer.Option(help="Size of the views in pixels; default: the paper's.")] = None,
    count: Annotated[int, typer.Option(help="Number of images.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the random parameters.")] = 0,
    on_error: Unreadable = "raise",
    out: Annotated[Path, typer.Option(help="The sheet, a PNG file.")] = Path("runs/preview.png"),
) -> None:
    """Draw a contact sheet of images and their views.

    Each view has its random parameters below it.
    """
    check_file(out)
    from fastssl._files import replacing
    from fastssl.augment import as_views
    from fastssl.cli.evaluation import leaving_out
    from fastssl.cli.preview import contact_sheet, find_images

    if count < 1:
        raise ValueError(f"count: expected at least one image, got {count}")
    views = as_views(policy, size)
    with leaving_out(on_error):
        pictures, names = find_images(images, count)
    sheet = contact_sheet(pictures, names, views, seed)
    with replacing(out) as file:
        sheet.save(file, "PNG")
    echo(f"{amount(len(pictures), 'image')}, {amount(len(views.programs), 'view')} each: {out}")


@app.command("pack")
def pack_images(
    images: Annotated[str, typer.Argument(help="As --data of pretrain.")],
    out: Annotated[Path, typer.Argument(help="The packed file.")],
    size: Annotated[int | None, typer.Option(help="Downsize the shorter side to this many pixels.")] = None,
    part: Annotated[str, typer.Option(help="Of data with train/ and val/: train, or test.")] = "train",
    on_error: Unreadable = "raise",
) -> None:
    """Decode images once into a memory-mapped file."""
    check_file(out)
    from fastssl.data import PackedImages, pack_source

    source = open_data(images, part=part)
    note_part(source, images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with item_progress(f"{out}: images packed of {len(source):,}") as show:
        pack_source(source, out, size=size, on_error=on_error, progress=show)
    made = len(PackedImages(out))
    if made < len(source):
        echo(f"{len(source) - made:,} unreadable images were skipped", "yellow")
    echo(f"{amount(made, 'item')}, {out.stat().st_size / 2**20:,.1f} MiB: {out}")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Run for a minute instead of half an hour.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/bench"),
) -> None:
    """Measure the losses against other implementations.

    Those are eager PyTorch, torch.compile and the libraries that are installed.
    """
    from fastssl.bench.run import run, write_atomically

    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, {str(out)!r} is a file")
    out.mkdir(parents=True, exist_ok=True)
    results = run(quick, echo)
    write_atomically(out / "results.json", json.dumps(results, indent=1))
    echo(f"written: {out / 'results.json'}")


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def doctor(
    script: Annotated[Path, typer.Argument(help="A Python file that trains with another library's losses.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of SCRIPT.")] = None,
    library: Annotated[
        list[str] | None,
        typer.Option(help="A library to patch (repeatable), before SCRIPT; default: all that are installed."),
    ] = None,
) -> None:
    """Run SCRIPT with other libraries patched, and report.

    Per loss: how many calls ran fused, why others did not, time and memory.

    After the script, the library's own code is timed on the last inputs, or on the first rows of them.
    """
    from fastssl.cli.doctor import doctor as run_script

    raise typer.Exit(run_script(script, arguments or [], library or []))


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for report, checkpoints and logs; default: runs/demo or runs/demo-text.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Texts: Word2Vec, BERT and GPT, in five minutes.")] = False,
    text_minutes: Annotated[float, typer.Option(help="Of --text: minutes of pretraining.")] = 4.5,
    emoji_minutes: Annotated[float, typer.Option(help="Minutes of pretraining on emoji.")] = 5.0,
    digits_minutes: Annotated[float, typer.Option(help="Minutes of pretraining on digits.")] = 1.5,
    bench_minutes: Annotated[float, typer.Option(help="Minutes of the benchmark against eager PyTorch.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
) -> None:
    """Benchmark, pretrain, evaluate, report on embedded data.

    On emoji and digits; --text: on texts.
    """
    if text:
        from fastssl.cli.demo_text import run_text_demo

        run_text_demo(out or Path("runs/demo-text"), text_minutes, seed)
        return
    from fastssl.cli.demo import run_demo

    run_demo(out or Path("runs/demo"), emoji_minutes, digits_minutes, bench_minutes, seed)
