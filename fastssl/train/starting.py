"""Weights that pretraining starts from: those of a run, of a file of weights, or of a model of Hugging Face."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.data.tokenizer import FILE, Tokenizer, tokenizer_of
from fastssl.data.tokens import load_tokenizer
from fastssl.methods import kind_of
from fastssl.models import Backbone, Encoder, LanguageModel, as_language, build_language
from fastssl.models.architectures import TRANSFORMERS, why_not
from fastssl.models.folder import find_checkpoint, load_checkpoint
from fastssl.models.libraries import quiet_loading
from fastssl.ops.draws import drawing_apart
from fastssl.train.checkpoint import load_weights

log = logging.getLogger("fastssl")
WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")
_VOCABULARIES = ("vocab.txt", "vocab.json", "spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model")
_NESTED = ("state_dict", "model", "teacher", "student", "module")  # under which files keep their weights


def load_language(where: str | Path, length: int | None = None) -> tuple[LanguageModel, Tokenizer]:
    """The network kept after pretraining on texts, and its tokenizer.

    Args:
        where: folder of a run or of its checkpoint; "huggingface:PATH": a folder of a model of transformers (or the
            name of one in its cache; nothing is downloaded) of an architecture that
            :func:`fastssl.models.build_language` has, with its tokenizer. Embeddings that are added for tokens which
            the model lacks, and heads that start at random, are logged.
        length: tokens at most that its texts have, of networks of transformers; None: those of the run, or the
            positions of the model.

    Raises:
        FileNotFoundError: no such folder, or no such model of transformers.
        ImportError: without the extra ``text``.
        ValueError: no checkpoint, one of another kind of method, an unknown architecture, a greater length, or a model
            of transformers without a tokenizer or without some of its parameters.

    Example:
        >>> import tempfile
        >>> from fastssl.train import Pretraining, load_language, pretrain
        >>> out, network = tempfile.mkdtemp(), {"name": "transformer", "width": 16, "depth": 1, "length": 16}
        >>> from fastssl.data import Corpus, Tokenizer, tokenize_corpus
        >>> from fastssl.methods import GPT
        >>> from fastssl.models import build_language
        >>> tokens = tokenize_corpus(Corpus(["A rose is a rose."] * 40), Tokenizer(), out + "/rose.tok")
        >>> method = GPT(build_language({**network, "vocabulary": 261}), Tokenizer())
        >>> options = {**network, "vocabulary": 261}
        >>> _ = pretrain(method, tokens, Pretraining(epochs=1, batch_size=8), out=out, encoder_options=options)
        >>> load_language(out)[0].length
        16
    """
    network, tokenizer = read_language(where, length)
    if network.drawn:
        log.warning("init: %s lacks parts that start at random: %s", where, ", ".join(network.drawn))
    return network, tokenizer


def read_language(where: str | Path, length: int | None = None) -> tuple[LanguageModel, Tokenizer]:
    """:func:`load_language` for those who need no head, or check :attr:`LanguageModel.drawn` themselves."""
    kind, _, place = str(where).partition(":")
    if kind == "huggingface" and place:
        return _of_transformers(place, length)
    known = f"a run of a language method or huggingface:PATH (a model of {', '.join(TRANSFORMERS)})"
    tensors, state = load_checkpoint(checkpoint_of(where, known))
    if "tokens" not in kind_of(state).needs or state["encoder"] is None:
        raise ValueError(f"init: expected a run of a language method, {where} is one of {state['method']}")
    network, tokenizer = build_language(state["encoder"]), load_tokenizer(where)
    load_weights(network, tensors, "model.network.")  # also of a method of the user's own
    if length is None or length == network.length:
        return network, tokenizer
    if network.kind not in TRANSFORMERS:
        raise ValueError(f"length: expected that of {where}, {network.length}, got {length}")
    return as_language(network.network, tokenizer, length), tokenizer


def checkpoint_of(where: str | Path, expected: str = f"a run or a file of weights ({', '.join(WEIGHTS)})") -> Path:
    """The folder of the checkpoint of a run to start from.

    Raises:
        FileNotFoundError: there is none, but something else than ``expected``.
    """
    path = Path(where).expanduser()
    try:
        return find_checkpoint(path)
    except ValueError as error:
        raise FileNotFoundError(f"init: expected {expected}, got {str(where)!r}") from error


def language_kind(name: str) -> str | None:
    """The architecture of ``huggingface:PATH``, if it is one of language methods."""
    kind, _, place = name.partition(":")
    if kind != "huggingface":
        return None
    try:
        import transformers

        config = transformers.AutoConfig.from_pretrained(Path(place).expanduser(), local_files_only=True)
    except (ImportError, OSError, ValueError):
        return None  # an error of those who load it
    return config.model_type if config.model_type in TRANSFORMERS else None


def _of_transformers(place: str, length: int | None) -> tuple[LanguageModel, Tokenizer]:
    try:
        import transformers
        from transformers.utils import cached_file
    except ImportError as error:
        raise ImportError("models of transformers need the extra: pip install fastssl[text]") from error
    folder, local = Path(place).expanduser(), {"local_files_only": True}
    if folder.is_dir():
        place = str(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(place, **local)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            reason = str(error).partition("\n")[0]
            raise ValueError(f"init: {place!r} cannot be read as a model of transformers ({reason})") from error
        raise FileNotFoundError(
            f"init: expected the folder of a model of transformers, or the name of one in its cache (nothing is "
            f"downloaded), got {place!r}"
        ) from error
    kind, why = config.model_type, why_not(config)
    if kind not in TRANSFORMERS or why is not None:
        known = f"init: expected a model of {', '.join(TRANSFORMERS)}"
        raise ValueError(f"{known}, {place!r} is one of {kind}{'' if why is None else f': {why}'}")
    loaded = getattr(transformers, TRANSFORMERS[kind].model)
    with quiet_loading(), drawing_apart():
        torch.manual_seed(0)  # for parts that are not in it: a run that is repeated has the same
        network, report = loaded.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **local)
    body = "" if network.base_model is network else f"{network.base_model_prefix}."  # T5 names no body
    new = [
        name
        for name in sorted(report["missing_keys"])
        if name.startswith("lm_head.") or not name.startswith(body) or ".pooler." in name
    ]
    missing = sorted(set(report["missing_keys"]) - set(new))
    if missing:  # transformers draws them at random
        raise ValueError(f"init: {place!r} lacks {len(missing)} parameters of {loaded.__name__}, such as {missing[0]}")
    path = cached_file(place, FILE, _raise_exceptions_for_missing_entries=False, **local)
    if path is not None:
        tokenizer = load_tokenizer(path)
    else:  # vocab.txt, or merges and a vocabulary
        if not any(
            cached_file(place, name, _raise_exceptions_for_missing_entries=False, **local) for name in _VOCABULARIES
        ):
            raise ValueError(f"init: expected a tokenizer in {place!r} ({FILE}, {', '.join(_VOCABULARIES)}), got none")
        tokenizer = tokenizer_of(transformers.AutoTokenizer.from_pretrained(place, **local).backend_tokenizer.to_str())
    made = as_language(network, tokenizer, length)
    made.drawn = tuple(dict.fromkeys(".".join(name.split(".")[:2]) for name in new))
    return made, tokenizer


def start_language(network: LanguageModel, start: LanguageModel) -> None:
    """Copies the weights of a network to another of the same options, which may know more tokens.

    Raises:
        ValueError: weights of another network.
    """
    given: Any = start.network
    if network.vocabulary > start.vocabulary and start.kind in TRANSFORMERS:
        more, there = network.vocabulary - start.vocabulary, start.vocabulary
        log.warning("init: %d embeddings are added to the %d of the network, for tokens of the method", more, there)
        with quiet_loading():
            given.resize_token_embeddings(network.vocabulary)
    try:
        network.network.load_state_dict(given.state_dict())
    except RuntimeError as error:
        raise ValueError(f"init: weights of another network: {error}") from error


def start_encoder(encoder: Encoder, where: str | Path) -> None:
    """Loads the weights of an encoder from a run, or from a file of weights.

    Args:
        encoder: changed in place.
        where: folder of a run or of its checkpoint; or a file that ``torch.save`` or safetensors have written, with the
            parameters of the network under their own names, also within ``state_dict``, ``model`` or ``teacher``, and
            behind a prefix (``module.encoder_q.``, ``backbone.``). Others in it, such as a classifier, are left out.

    Raises:
        FileNotFoundError: neither exists.
        ValueError: weights of another network.

    Example:
        >>> import tempfile, torch
        >>> from fastssl.models import build_encoder
        >>> from fastssl.train import start_encoder
        >>> options = {"name": "resnet18", "size": 32, "width": 8}
        >>> trained, path = build_encoder(options), tempfile.mkdtemp() + "/weights.pth"
        >>> torch.save({"state_dict": trained.network.state_dict(prefix="module.encoder_q.")}, path)
        >>> start_encoder(build_encoder(options), path)
    """
    path = Path(where).expanduser()
    if path.is_file():
        _load_file(encoder, path)
    else:
        _load_run(encoder, path)


def _load_run(encoder: Encoder, path: Path) -> None:
    tensors, state = load_checkpoint(checkpoint_of(path))
    prefix = "model.encoder."
    if not any(name.startswith(prefix) for name in tensors):
        raise ValueError(f"init: {state.get('method', 'the run')} in {str(path)!r} has no encoder of images")
    _copy(encoder, tensors, prefix, path)


def _load_file(encoder: Encoder, path: Path) -> None:
    if path.suffix not in WEIGHTS:
        raise ValueError(f"init: expected a file with {', '.join(WEIGHTS)}, got {str(path)!r}")
    target = encoder.network.model if isinstance(encoder.network, Backbone) else encoder.network
    tensors, names = _tensors(path, _read(path)), [name for name in target.state_dict() if not _is_count(name)]
    prefixes = dict.fromkeys(
        there[: len(there) - len(own)] for own in names for there in tensors if there.endswith(own)
    )
    prefix = max(prefixes, key=lambda start: sum(start + name in tensors for name in names), default="")
    _copy(target, tensors, prefix, path)


def _is_count(name: str) -> bool:
    """Whether a buffer counts the batches of a batch norm, which files of weights may lack."""
    return name.endswith("num_batches_tracked")


def _copy(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Loads the tensors of the module's names behind a prefix."""
    own = module.state_dict()
    found = {name: tensors[prefix + name] for name in own if prefix + name in tensors}
    missing = [name for name in own if name not in found and not _is_count(name)]
    other = next((name for name, value in found.items() if value.shape != own[name].shape), None)
    why = ""
    if missing:
        there = ", ".join(list(tensors)[:3])
        why = f"{len(missing)} of {len(own)} parameters are not in it, such as {missing[0]}; it has {there}, ..."
    elif other is not None:
        why = f"{other} is {list(found[other].shape)}, expected {list(own[other].shape)}"
    if why:
        raise ValueError(f"init: {str(path)!r} has weights of another network: {why}")
    wrong = next((name for name, value in found.items() if not bool(torch.isfinite(value).all())), None)
    if wrong is not None:
        raise ValueError(f"init: {str(path)!r} has numbers that are not finite, in {wrong}")
    module.load_state_dict({**own, **found})


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"init: {str(path)!r} cannot be read as a file of weights ({error})") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many kinds
        raise ValueError(f"init: {str(path)!r} cannot be read as a file of weights ({error})") from error


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The parameters by name, of the first of the places where files keep them."""
    if isinstance(content, Mapping):
        for name in _NESTED:
            if isinstance(content.get(name), Mapping):
                return _tensors(path, content[name])
        found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if found:
            return found
    raise ValueError(f"init: expected parameters by name in {str(path)!r}, got {type(content).__name__}")
