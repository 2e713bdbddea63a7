"""Networks of language methods: Hugging Face's, built from configurations with random weights (extra: text), and a
transformer of our own."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.data.tokenizer import Tokenizer
from fastssl.models.architectures import CAUSAL, MASKED, TRANSFORMERS, build_network, why_not
from fastssl.models.libraries import quiet_loading
from fastssl.models.recurrent import RecurrentNetwork
from fastssl.models.vit import Block, KeyValues
from fastssl.ops.draws import drawing_apart

log = logging.getLogger("fastssl")
OWN = ("transformer", "gru", "lstm")  # networks of our own, which need no extra


class Transformer(nn.Module):
    """A pre-norm transformer with learned positions and tied input and output embeddings, without any extra.

    Args:
        vocabulary: number of tokens.
        dim: dimensions of a token.
        depth: number of blocks.
        heads: number of attention heads.
        length: maximum number of tokens.
        causal: causal attention; else the tokens have segments, and there is a classifier of their order.

    Example:
        >>> import torch
        >>> from fastssl.models import Transformer
        >>> Transformer(100, 16, depth=1, heads=2, length=8)(torch.zeros(2, 8, dtype=torch.int64)).shape
        torch.Size([2, 8, 16])
    """

    def __init__(
        self, vocabulary: int, dim: int = 128, depth: int = 2, heads: int = 4, length: int = 64, causal: bool = True
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        if not causal:
            self.segments, self.order = nn.Embedding(2, dim), nn.Linear(dim, 2)
        for table in self.children():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, causal=causal) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(
        self,
        tokens: Tensor,
        keep: Tensor | None = None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        cache: list[KeyValues] | None = None,
    ) -> Tensor:
        """Hidden states [B, U, dim] of tokens [B, U], after those of ``cache``, to which they are added; of all these T
        tokens those with ``keep`` False, [B, T] or [B, U, T], are not attended to."""
        places = positions
        if places is None:
            before = cache[0].size if cache else 0
            places = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        if segments is not None:
            x = x + self.segments(segments)
        for number, block in enumerate(self.blocks):
            x = block(x, keep, cache[number] if cache else None)
        result: Tensor = self.norm(x)
        return result

    def cache(self) -> list[KeyValues]:
        """A cache of no tokens, for ``forward``."""
        return [KeyValues() for _ in self.blocks]


class LanguageModel(nn.Module):
    """A network with what all language methods need of it, whatever its architecture.

    Args:
        network: the network; its checkpoints are its own (``network.save_pretrained``).
        options: the options of :func:`build_language` that rebuild it.

    Attributes:
        length: maximum number of tokens.
        vocabulary: number of tokens that it knows.
        dim: dimensions of its hidden states.
        drawn: parts of the network that the model which was loaded lacks, and that were drawn at random.
        added: how many embeddings, the last ones, the model which was loaded lacks, for tokens of the tokenizer.

    Raises:
        ValueError: from ``head``, of a discriminator ("electra"), which has none on tokens.

    Example:
        >>> from fastssl.models import build_language
        >>> model = build_language({"name": "transformer", "vocabulary": 261, "width": 16, "length": 8})
        >>> model.dim, model.vocabulary
        (16, 261)
    """

    def __init__(self, network: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.kind: str = options["name"]
        self.length, self.vocabulary = options["length"], options["vocabulary"]
        self.dim: int = options["width"] * (2 if self.kind == "lstm" else 1)
        self.drawn: tuple[str, ...] = ()
        self.added = 0

    def hidden(
        self,
        tokens: Tensor,
        keep: Tensor | None = None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] of tokens [B, T]; ``keep``: bool [B, T], or per query [B, T, T] without the causal
        mask, which the network adds."""
        n: Any = self.network
        if self.kind == "transformer":
            result: Tensor = n(tokens, keep, segments, positions)
        elif self.kind in OWN:
            result = n(tokens, keep)
        elif self.kind in ("bert", "electra"):
            result = n.base_model(tokens, attention_mask=keep, token_type_ids=segments)[0]
        elif self.kind in MASKED:
            given = {"attention_mask": None if keep is None else keep.long()}  # DeBERTa subtracts it
            if TRANSFORMERS[self.kind].behind:
                places = torch.arange(tokens.shape[1], device=tokens.device) + n.config.pad_token_id + 1
                given["position_ids"] = places.expand_as(tokens)
            result = n.base_model(tokens, **given)[0]
        elif self.kind == "xlnet":
            weights = None if keep is None else keep.to(n.lm_loss.bias)
            result = n.transformer(tokens, attention_mask=weights, token_type_ids=segments, use_mems=False)[0]
        else:
            if keep is not None and keep.dim() == 3:
                causal = torch.ones(keep.shape[1:], dtype=torch.bool, device=keep.device).tril()
                keep = (keep & causal)[:, None]
                if n.config._attn_implementation == "eager":  # which adds it to the scores
                    keep = torch.zeros_like(keep, dtype=n.dtype).masked_fill(~keep, torch.finfo(n.dtype).min)
            result = n.base_model(tokens, attention_mask=keep, position_ids=positions, use_cache=False)[0]
        return result

    @property
    def bidirectional(self) -> bool:
        """Whether the states of every token see all others, as in BERT: no causal network, none with a decoder."""
        return self.kind in ("bert", *MASKED, "electra", "xlnet", "lstm") or (
            self.kind == "transformer" and not self.options.get("causal", True)
        )

    @property
    def window(self) -> int | None:
        """How many tokens, itself and those before it, a token sees in layers of sliding attention; None: all."""
        config: Any = getattr(self.network, "config", None)
        sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ("sliding_attention",))
        return getattr(config, "sliding_window", None) if sliding else None

    def opening(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens before a text that is read whole: [CLS] of networks that see both sides, the one that opens a
        document (:attr:`Tokenizer.begin`) of those that continue texts, none of those with a decoder."""
        if self.bidirectional:
            return [tokenizer.cls]
        return [tokenizer.begin] if self.continues else []

    @property
    def continues(self) -> bool:
        """Whether it continues texts: a causal network without an encoder."""
        return self.kind in (*CAUSAL, "transformer") and not self.bidirectional

    def closing(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens after a text that is read whole: [SEP], but none after one that may be continued."""
        return [] if self.continues else [tokenizer.sep]

    def states(self, tokens: Tensor, keep: Tensor, segments: Tensor | None = None) -> Tensor:
        """States [B, T, D] of padded texts [B, T] (``keep``: bool [B, T]), as features: of the encoder of "t5"; of the
        decoder of "bart", which reads the same text as the encoder (Lewis et al. 2019, section 3.1)."""
        if self.kind == "t5":
            encoded: Tensor = self.network.encoder(tokens, attention_mask=keep)[0]  # type: ignore[operator]
            return encoded
        if self.kind == "bart":
            before = torch.cat([torch.full_like(tokens[:, :1], self.options["end"]), tokens[:, :-1]], 1)
            return self.decoded(tokens, keep, before)
        if self.bidirectional:
            return self.hidden(tokens, keep, segments)
        return self.hidden(tokens)  # causal: no token sees the padding after it

    def permuted(self, tokens: Tensor, keep: Tensor, unseen: Tensor, places: Tensor) -> Tensor:
        """Hidden states [B, P, D] of the second stream of "xlnet": of the positions ``places`` [B, P], which know where
        they are but not which token is there; position i does not see the tokens j with ``unseen`` [B, i, j] True."""
        n: Any = self.network
        like = n.lm_loss.bias
        queries = torch.nn.functional.one_hot(places, tokens.shape[1]).to(like)
        options = {"perm_mask": unseen.to(like), "target_mapping": queries, "use_mems": False}
        result: Tensor = n.transformer(tokens, attention_mask=keep.to(like), **options)[0]
        return result

    def decoded(self, tokens: Tensor, keep: Tensor, before: Tensor) -> Tensor:
        """Hidden states [B, U, D] of the decoder, after the tokens ``before`` [B, U] and given the encoder's input."""
        n: Any = self.network
        if self.kind == "bart":
            result: Tensor = n.model(tokens, attention_mask=keep, decoder_input_ids=before, use_cache=False)[0]
            return result
        memory = n.encoder(tokens, attention_mask=keep)[0]
        result = n.decoder(before, encoder_hidden_states=memory, encoder_attention_mask=keep, use_cache=False)[0]
        return result * self._scale()

    def encoded(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Hidden states [B, T, D] of the encoder of "t5" or "bart"; ``keep``: bool [B, T]."""
        n: Any = self.network
        result: Tensor = (n.encoder if self.kind == "t5" else n.model.encoder)(tokens, attention_mask=keep)[0]
        return result

    def decode_next(self, tokens: Tensor, memory: Tensor, keep: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The decoder's last hidden state [B, D] after further tokens [B, U], and its cache (None at first), given the
        encoder's states and which of them count."""
        n: Any = self.network
        decoder = n.decoder if self.kind == "t5" else n.model.decoder
        name = cache_name(decoder)
        given = {"encoder_hidden_states": memory, "encoder_attention_mask": keep, name: cache}
        made = decoder(tokens, use_cache=True, **given)
        last: Tensor = made[0][:, -1]
        return last * self._scale(), made[name]

    def hidden_next(self, tokens: Tensor, keep: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
        """The last hidden state [B, D] of a causal network after further tokens [B, U], and its cache (None at first).
        Where ``keep``, bool [B, T] of all tokens so far, is False there is padding, before the text of a row."""
        n: Any = self.network
        positions = None if keep is None else (keep.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if self.kind == "transformer":
            cache = n.cache() if cache is None else cache
            if keep is not None:  # padding sees itself: over nothing, attention is not a number
                itself = torch.eye(keep.shape[1], dtype=torch.bool, device=keep.device)
                keep = keep[:, None] | itself[-tokens.shape[1] :]
            states: Tensor = n(tokens, keep, None, positions, cache)
            return states[:, -1], cache
        name = cache_name(n.base_model)
        given = {name: cache}
        if keep is not None:
            given |= {"attention_mask": keep.long(), "position_ids": positions}
        made = n.base_model(tokens, **given, use_cache=True)
        last: Tensor = made[0][:, -1]
        return last, made[name]

    def _scale(self) -> float:
        """What the decoder's states are multiplied by before the head: T5 1.0's are scaled, those of 1.1 are not, which
        transformers 4 tells by their head, a table of its own."""
        config: Any = self.network.config
        scaled = self.kind == "t5" and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return float(config.d_model**-0.5) if scaled else 1.0

    def transform(self, rows: Tensor) -> Tensor:
        """Rows of hidden states [N, D] as the head takes them."""
        transform = None if self.kind in OWN else TRANSFORMERS[self.kind].transform
        return rows if transform is None else transform(self.network, rows)

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V] of the head."""
        n: Any = self.network
        if self.kind in OWN:
            return n.tokens.weight, n.bias
        if self.kind == "electra":
            raise ValueError("network: a discriminator (electra) has no head on tokens")
        made = n.get_output_embeddings()
        return made.weight, n.final_logits_bias[0] if self.kind == "bart" else made.bias

    def order(self, hidden: Tensor) -> Tensor:
        """Scores [B, 2] of whether the second text follows the first (class 0: it does)."""
        n: Any = self.network
        result: Tensor = (
            n.order(hidden[:, 0]) if self.kind == "transformer" else n.cls.seq_relationship(n.bert.pooler(hidden))
        )
        return result

    def embeddings(self) -> nn.Embedding:
        """The embedding of tokens."""
        n: Any = self.network
        found: nn.Embedding = n.tokens if self.kind in OWN else n.get_input_embeddings()
        return found


def cache_name(network: nn.Module) -> str:
    """What a network of transformers calls its cache: the name changed in transformers 5."""
    return "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"


def select_rows(cache: Any, rows: Tensor) -> Any:
    """The cache of some rows of a batch, in their order."""
    if isinstance(cache, list):
        for seen in cache:
            seen.select(rows)
    elif isinstance(cache, tuple):  # BART's, in transformers 4
        return tuple(tuple(kept.index_select(0, rows) for kept in layer) for layer in cache)
    else:
        cache.reorder_cache(rows)
    return cache


def _transformer(o: dict[str, Any]) -> nn.Module:
    return Transformer(o["vocabulary"], o["width"], o["depth"], o["heads"], o["length"], o.get("causal", True))


def _recurrent(o: dict[str, Any]) -> nn.Module:
    return RecurrentNetwork(o["vocabulary"], o["width"], o["depth"], o["name"])


LANGUAGE_NETWORKS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "transformer": _transformer,
    "gru": _recurrent,
    "lstm": _recurrent,
    **{name: partial(build_network, name) for name in TRANSFORMERS},
}
# Tokens at most of networks whose positions are relative or rotations, unless another number is given.
_RELATIVE = 512
_DEFAULTS = {"width": 128, "depth": 4, "heads": 4, "length": 128, "dropout": 0.0, "pad": 0, "start": 2, "end": 3}


def build_language(options: dict[str, Any]) -> LanguageModel:
    """Builds a network of a language method, with random weights.

    Args:
        options: "name": "transformer", "gru" or "lstm" (in both directions), without any extra; of transformers "bert",
            "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "deberta-v2" (of v3, too), "electra" (the
            discriminator), "xlnet", "gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "phi3",
            "smollm3", "olmo2", "gpt_neox" (Pythia), "t5" or "bart"; "vocabulary"; and optionally "width" (128), "depth"
            (4), "heads" (4), "length" (128, maximum number of tokens), "dropout" (0), "causal" (of "transformer",
            True), "pad", "start" and "end" (ids of special tokens: 0, 2, 3); "config": the configuration of a network
            of transformers (:func:`as_language`), which then has its sizes.

    Raises:
        ImportError: without the extra ``text``, for all but those of our own.
        ValueError: an unknown name or option, or a number out of range.

    Example:
        >>> from fastssl.models import build_language
        >>> build_language({"name": "transformer", "vocabulary": 300, "width": 32}).length
        128
    """
    if options.get("name") not in LANGUAGE_NETWORKS:
        raise ValueError(f"network: expected one of {', '.join(LANGUAGE_NETWORKS)}, got {options.get('name')!r}")
    unknown = set(options) - {"name", "vocabulary", "causal", "config", *_DEFAULTS}
    if unknown or "vocabulary" not in options:
        known = f"expected {', '.join(_DEFAULTS)}, vocabulary, causal"
        raise ValueError(f"network: {known}, got {sorted(unknown)}" if unknown else "network: vocabulary is missing")
    filled = {**_DEFAULTS, **options}
    for key in ("vocabulary", "width", "depth", "heads", "length"):
        filled[key] = integer(key, filled[key], 1)
    if filled.get("config") is not None and filled["name"] not in TRANSFORMERS:
        raise ValueError(f"config: expected none, {filled['name']!r} is no network of transformers")
    if filled["width"] % filled["heads"] and filled.get("config") is None:
        raise ValueError(f"heads: expected a divisor of width {filled['width']}, got {filled['heads']}")
    if not 0 <= filled["dropout"] < 1:
        raise ValueError(f"dropout: expected a share in [0, 1), got {filled['dropout']}")
    return LanguageModel(LANGUAGE_NETWORKS[filled["name"]](filled), filled)


def as_language(network: nn.Module, tokenizer: Tokenizer, length: int | None = None) -> LanguageModel:
    """A network of transformers, with its weights, as one of language methods.

    Args:
        network: a BertForPreTraining, ElectraForPreTraining, XLNetLMHeadModel, GPT2LMHeadModel,
            T5ForConditionalGeneration or BartForConditionalGeneration; a ...ForMaskedLM or ...ForCausalLM of the
            architectures of :func:`build_language` (RobertaForMaskedLM, Qwen2ForCausalLM, ...); modified where the
            tokenizer has more tokens, whose embeddings are added, which is logged.
        tokenizer: the tokenizer of its tokens.
        length: maximum number of tokens; None: that of its positions, or 512 where these are relative or rotations.

    Raises:
        TypeError: another network.
        ValueError: a longer ``length`` than it has positions, a network whose loss is another (bounded logits, a
            mixture of experts), or attention that takes no mask of documents (flash_attention_2, ...).

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from fastssl.data import Tokenizer
        >>> from fastssl.models import as_language
        >>> network = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=32))
        >>> model = as_language(network, Tokenizer())
        >>> model.length, model.vocabulary
        (32, 261)
    """
    of = next((name for name, own in TRANSFORMERS.items() if own.model == type(network).__name__), None)
    n: Any = network
    why = why_not(getattr(n, "config", None))
    if of is None or why is not None:
        known = ", ".join(own.model for own in TRANSFORMERS.values())
        got = type(network).__name__ if why is None else f"{type(network).__name__}: {why}"
        raise (TypeError if of is None else ValueError)(f"network: expected one of {known}, got {got}")
    if of in CAUSAL and n.config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            "network: expected attention that takes a mask of documents (attn_implementation='sdpa' or 'eager'), got "
            f"{n.config._attn_implementation!r}"
        )
    head, table = n.get_output_embeddings(), n.get_input_embeddings()
    if head is not None and head.weight is not table.weight:  # T5 1.1's, too, whose configuration denies it
        n.config.tie_word_embeddings = False
    added = max(0, tokenizer.size - int(n.config.vocab_size))
    if added:
        lacked = f", which lacks {', '.join(tokenizer.added)}" * bool(tokenizer.added)
        log.warning(
            "%s: %d embeddings are added to its %d, for the %d tokens of the tokenizer%s; they start near the mean",
            *(
                type(network).__name__,
                added,
                n.config.vocab_size,
                tokenizer.size,
                lacked,
            ),
        )
        with drawing_apart(), quiet_loading():
            torch.manual_seed(0)
            n.resize_token_embeddings(tokenizer.size)
    get: Any = n.config
    most = None if of in ("t5", "xlnet") else int(get.max_position_embeddings)
    if TRANSFORMERS[of].behind and most is not None:
        most -= int(get.pad_token_id) + 1  # positions begin behind padding
    if length is None:
        length = min(most or _RELATIVE, _RELATIVE) if most is None or TRANSFORMERS[of].relative else most
    if most is not None and length > most:
        raise ValueError(f"length: expected at most {most}, the positions of the network, got {length}")
    kept = n.config.to_diff_dict()
    config = {
        key: value for key, value in kept.items() if key not in ("architectures", "transformers_version", "dtype")
    }
    options = {
        **_DEFAULTS,
        "name": of,
        "vocabulary": int(get.vocab_size),
        "width": int(get.hidden_size),
        "depth": int(get.num_hidden_layers),
        "heads": int(get.num_attention_heads),
        "length": length,
        "dropout": float(getattr(get, TRANSFORMERS[of].dropouts[0])),
        **{"pad": tokenizer.pad, "start": tokenizer.cls, "end": tokenizer.sep},
        "config": config,
    }
    model = LanguageModel(network, options)
    model.added = added
    return model
