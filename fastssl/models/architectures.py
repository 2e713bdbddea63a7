"""Networks of Hugging Face transformers for language methods, from options or a configuration (extra: text)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


def _sizes(o: dict[str, Any]) -> dict[str, Any]:
    """What the configurations of BERT and of Llama share."""
    return {
        "vocab_size": o["vocabulary"],
        "hidden_size": o["width"],
        "num_hidden_layers": o["depth"],
        "num_attention_heads": o["heads"],
        "intermediate_size": 4 * o["width"],
        "max_position_embeddings": o["length"],
        "pad_token_id": o["pad"],
    }


def _check_rotary(o: dict[str, Any], share: float = 1.0) -> None:
    """Checks that the positions, which turn pairs of numbers, find pairs in the share of a head that they turn."""
    turned = int(o["width"] // o["heads"] * share)
    if turned < 2 or turned % 2:
        least = round(2 / share)
        raise ValueError(
            f"heads: expected width / heads to be a multiple of {least}, as {o['name']!r} rotates pairs of numbers, "
            f"got {o['width']} / {o['heads']}"
        )


def _modernbert_config(o: dict[str, Any]) -> dict[str, Any]:
    _check_rotary(o)
    ends = {"bos_token_id": o["start"], "eos_token_id": o["end"]}
    return {**_sizes(o), **ends, "cls_token_id": o["start"], "sep_token_id": o["end"]}


def _roberta_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        **_sizes(o),
        "max_position_embeddings": o["length"] + o["pad"] + 1,  # positions begin behind padding
        "type_vocab_size": 1,
        "bos_token_id": o["start"],
        "eos_token_id": o["end"],
    }


def _mpnet_config(o: dict[str, Any]) -> dict[str, Any]:
    if o["pad"] != 1:
        raise ValueError(
            f"network: 'mpnet' takes token 1 for padding, which is token {o['pad']} of the tokenizer; start from a "
            "model with its own (--init huggingface:PATH)"
        )
    return _roberta_config(o)


def _distilbert_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": o["vocabulary"],
        "dim": o["width"],
        "n_layers": o["depth"],
        "n_heads": o["heads"],
        "hidden_dim": 4 * o["width"],
        "max_position_embeddings": o["length"],
        "pad_token_id": o["pad"],
    }


def _deberta_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        **_sizes(o),
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    }


def _electra_config(o: dict[str, Any]) -> dict[str, Any]:
    return {"embedding_size": o["width"], **_sizes(o)}


def build_generator(o: dict[str, Any], width: int, heads: int) -> nn.Module:
    """The masked language model that replaces tokens for an "electra" network with the options ``o``."""
    own = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return build_network("electra", o, "ElectraForMaskedLM", own)


def _xlnet_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": o["vocabulary"],
        "d_model": o["width"],
        "n_layer": o["depth"],
        "n_head": o["heads"],
        "d_inner": 4 * o["width"],
        "mem_len": None,
        "use_mems_eval": False,
        "pad_token_id": o["pad"],
        "bos_token_id": o["start"],
        "eos_token_id": o["end"],
    }


def _gpt2_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": o["vocabulary"],
        "n_embd": o["width"],
        "n_layer": o["depth"],
        "n_head": o["heads"],
        "n_positions": o["length"],
        "activation_function": "gelu_pytorch_tanh",  # "gelu_new" in one operation instead of eight
        "bos_token_id": o["end"],
        "eos_token_id": o["end"],
    }


def _llama_config(o: dict[str, Any]) -> dict[str, Any]:
    _check_rotary(o)
    return {
        **_sizes(o),
        "num_key_value_heads": o["heads"],
        "head_dim": o["width"] // o["heads"],
        "bos_token_id": o["end"],
        "eos_token_id": o["end"],
        "tie_word_embeddings": True,
    }


def _gemma3_config(o: dict[str, Any]) -> dict[str, Any]:
    return {**_llama_config(o), "query_pre_attn_scalar": o["width"] // o["heads"]}


def _neox_config(o: dict[str, Any]) -> dict[str, Any]:
    _check_rotary(o, 0.25)  # its ``rotary_pct``
    return _llama_config(o)


def _t5_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": o["vocabulary"],
        "d_model": o["width"],
        "d_ff": 4 * o["width"],
        "d_kv": o["width"] // o["heads"],
        "num_layers": o["depth"],
        "num_heads": o["heads"],
        "pad_token_id": o["pad"],
        "eos_token_id": o["end"],
        "decoder_start_token_id": o["pad"],
    }


def _bart_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": o["vocabulary"],
        "d_model": o["width"],
        "encoder_layers": o["depth"],
        "decoder_layers": o["depth"],
        "encoder_attention_heads": o["heads"],
        "decoder_attention_heads": o["heads"],
        "encoder_ffn_dim": 4 * o["width"],
        "decoder_ffn_dim": 4 * o["width"],
        "max_position_embeddings": o["length"],
        "pad_token_id": o["pad"],
        "bos_token_id": o["start"],
        "eos_token_id": o["end"],
        "decoder_start_token_id": o["end"],
        "forced_eos_token_id": o["end"],
    }


def _of_bert(network: Any, rows: Tensor) -> Tensor:
    made: Tensor = network.cls.predictions.transform(rows)
    return made


def _of_roberta(network: Any, rows: Tensor) -> Tensor:
    head = network.lm_head
    made: Tensor = head.layer_norm(nn.functional.gelu(head.dense(rows)))
    return made


def _of_modernbert(network: Any, rows: Tensor) -> Tensor:
    made: Tensor = network.head(rows)
    return made


def _of_distilbert(network: Any, rows: Tensor) -> Tensor:
    made: Tensor = network.vocab_layer_norm(network.activation(network.vocab_transform(rows)))
    return made


class _Architecture(NamedTuple):
    """A network of transformers.

    Args:
        model, config: names of its classes.
        sizes: the arguments of the configuration, of the options of :func:`build_language`.
        dropouts: those of them that are shares of dropout.
        causal: it continues texts.
        masked: it fills in masked tokens, and has neither segments nor a head on the order of texts.
        relative: positions are rotations or relative: texts may be much longer than is usual in training.
        behind: numbers of positions begin behind that of padding.
        transform: what its head does before the product with the embeddings of tokens; None: nothing.
    """

    model: str
    config: str
    sizes: Callable[[dict[str, Any]], dict[str, Any]]
    dropouts: tuple[str, ...]
    causal: bool = False
    masked: bool = False
    relative: bool = False
    behind: bool = False
    transform: Callable[[Any, Tensor], Tensor] | None = None


def build_network(
    kind: str, o: dict[str, Any], model: str | None = None, own: dict[str, Any] | None = None
) -> nn.Module:
    """A network of transformers with random weights: of ``o["config"]`` where a given network had one, with the dropout
    of the options."""
    library, of = _library(), TRANSFORMERS[kind]
    config = of.sizes(o) if o.get("config") is None else {**o["config"], "vocab_size": o["vocabulary"]}
    config |= {**{name: o["dropout"] for name in of.dropouts}, **(own or {})}
    built = getattr(library, of.config)(**config)
    if not config.get("tie_word_embeddings", True):
        built.tie_word_embeddings = False  # which T5's configuration forgets
    made: nn.Module = getattr(library, model or of.model)(built)
    return made


def _causal(
    name: str,
    config: str | None = None,
    sizes: Callable[[dict[str, Any]], dict[str, Any]] = _llama_config,
    dropouts: tuple[str, ...] = ("attention_dropout",),
) -> _Architecture:
    return _Architecture(f"{name}ForCausalLM", config or f"{name}Config", sizes, dropouts, causal=True, relative=True)


def _masked(name: str, sizes: Any, transform: Any, dropouts: tuple[str, ...], **more: bool) -> _Architecture:
    return _Architecture(
        f"{name}ForMaskedLM", f"{name}Config", sizes, dropouts, masked=True, transform=transform, **more
    )


_OF_BERT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_OF_MODERNBERT = ("embedding_dropout", "attention_dropout", "mlp_dropout")
_OF_GPT2, _OF_PHI = ("embd_pdrop", "resid_pdrop", "attn_pdrop"), ("embd_pdrop", "resid_pdrop", "attention_dropout")
_OF_BART = ("dropout", "attention_dropout")
# By the names that transformers has for them (``model_type``).
TRANSFORMERS = {
    "bert": _Architecture("BertForPreTraining", "BertConfig", _sizes, _OF_BERT, transform=_of_bert),
    "roberta": _masked("Roberta", _roberta_config, _of_roberta, _OF_BERT, behind=True),
    "xlm-roberta": _masked("XLMRoberta", _roberta_config, _of_roberta, _OF_BERT, behind=True),
    "mpnet": _masked("MPNet", _mpnet_config, _of_roberta, _OF_BERT, behind=True),
    "modernbert": _masked("ModernBert", _modernbert_config, _of_modernbert, _OF_MODERNBERT, relative=True),
    "distilbert": _masked("DistilBert", _distilbert_config, _of_distilbert, _OF_BART),
    "deberta-v2": _masked("DebertaV2", _deberta_config, _of_bert, _OF_BERT),
    "electra": _Architecture("ElectraForPreTraining", "ElectraConfig", _electra_config, _OF_BERT),
    "xlnet": _Architecture("XLNetLMHeadModel", "XLNetConfig", _xlnet_config, ("dropout",), relative=True),
    "gpt2": _Architecture("GPT2LMHeadModel", "GPT2Config", _gpt2_config, _OF_GPT2, causal=True),
    "llama": _causal("Llama"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3"),
    "mistral": _causal("Mistral"),
    "gemma": _causal("Gemma"),
    "gemma3_text": _causal("Gemma3", "Gemma3TextConfig", _gemma3_config),
    "phi3": _causal("Phi3", dropouts=_OF_PHI),
    "smollm3": _causal("SmolLM3"),
    "olmo2": _causal("Olmo2"),
    "gpt_neox": _causal("GPTNeoX", sizes=_neox_config, dropouts=("hidden_dropout", "attention_dropout")),
    "t5": _Architecture("T5ForConditionalGeneration", "T5Config", _t5_config, ("dropout_rate",), relative=True),
    "bart": _Architecture("BartForConditionalGeneration", "BartConfig", _bart_config, _OF_BART),
}
CAUSAL = tuple(name for name, of in TRANSFORMERS.items() if of.causal)
MASKED = tuple(name for name, of in TRANSFORMERS.items() if of.masked)
# Settings of a configuration that ask for another training than that here, and why.
_UNLIKE = {
    "final_logit_softcapping": "its logits are bounded, and the loss here never makes them",
    "use_bidirectional_attention": "its tokens see those after them",
    "num_local_experts": "the loss of a mixture of experts balances them, too",
    "num_experts": "the loss of a mixture of experts balances them, too",
    "n_routed_experts": "the loss of a mixture of experts balances them, too",
    "text_config": "it is one of several kinds of data",
}


def why_not(config: Any) -> str | None:
    """Why a network of this configuration of transformers cannot be trained here; None: nothing is in the way."""
    for name, why in _UNLIKE.items():
        if getattr(config, name, None):
            value = getattr(config, name)
            return f"{why} ({name}{f'={value}' if isinstance(value, (int, float)) else ''})"
    if getattr(config, "model_type", "") == "deberta-v2" and not config.legacy:
        return "tokens cannot be added to its head (legacy=False)"
    return None


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "network: all but 'transformer', 'gru' and 'lstm' need the extra: pip install fastssl[text]"
        ) from error
    return transformers
