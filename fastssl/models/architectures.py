"""Networks of Hugging Face transformers for language methods, from options or a configuration (extra: text)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

ROTARY = ("llama", "qwen3")  # whose positions are rotations
CAUSAL = ("gpt2", *ROTARY)  # those that continue texts
ROBERTA = ("roberta", "xlm-roberta")  # BERT without segments, the order of texts and a pooler


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


def _bert_config(o: dict[str, Any]) -> dict[str, Any]:
    return {**_sizes(o), "hidden_dropout_prob": o["dropout"], "attention_probs_dropout_prob": o["dropout"]}


def _roberta_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        **_bert_config(o),
        "max_position_embeddings": o["length"] + o["pad"] + 1,  # positions begin behind padding
        "type_vocab_size": 1,
        "bos_token_id": o["start"],
        "eos_token_id": o["end"],
    }


def _electra_config(o: dict[str, Any]) -> dict[str, Any]:
    return {"embedding_size": o["width"], **_bert_config(o)}


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
        "dropout": o["dropout"],
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
        "embd_pdrop": o["dropout"],
        "resid_pdrop": o["dropout"],
        "attn_pdrop": o["dropout"],
        "bos_token_id": o["end"],
        "eos_token_id": o["end"],
    }


def _llama_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        **_sizes(o),
        "num_key_value_heads": o["heads"],
        "head_dim": o["width"] // o["heads"],
        "attention_dropout": o["dropout"],
        "bos_token_id": o["end"],
        "eos_token_id": o["end"],
        "tie_word_embeddings": True,
    }


def _t5_config(o: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": o["vocabulary"],
        "d_model": o["width"],
        "d_ff": 4 * o["width"],
        "d_kv": o["width"] // o["heads"],
        "num_layers": o["depth"],
        "num_heads": o["heads"],
        "dropout_rate": o["dropout"],
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
        "dropout": o["dropout"],
        "attention_dropout": o["dropout"],
        "pad_token_id": o["pad"],
        "bos_token_id": o["start"],
        "eos_token_id": o["end"],
        "decoder_start_token_id": o["end"],
        "forced_eos_token_id": o["end"],
    }


class _Architecture(NamedTuple):
    """A network of transformers.

    Args:
        model, config: names of its classes.
        sizes: the arguments of the configuration, of the options of :func:`build_language`.
        dropouts: those of them that are shares of dropout.
    """

    model: str
    config: str
    sizes: Callable[[dict[str, Any]], dict[str, Any]]
    dropouts: tuple[str, ...]


def build_network(
    kind: str, o: dict[str, Any], model: str | None = None, own: dict[str, Any] | None = None
) -> nn.Module:
    """A network of transformers with random weights: of ``o["config"]`` where a given network had one, with the dropout
    of the options."""
    library, of = _library(), TRANSFORMERS[kind]
    config = of.sizes(o)
    if o.get("config") is not None:
        config = {**o["config"], "vocab_size": o["vocabulary"], **{name: o["dropout"] for name in of.dropouts}}
    made: nn.Module = getattr(library, model or of.model)(getattr(library, of.config)(**{**config, **(own or {})}))
    return made


_OF_BERT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
TRANSFORMERS = {
    "bert": _Architecture("BertForPreTraining", "BertConfig", _bert_config, _OF_BERT),
    "roberta": _Architecture("RobertaForMaskedLM", "RobertaConfig", _roberta_config, _OF_BERT),
    "xlm-roberta": _Architecture("XLMRobertaForMaskedLM", "XLMRobertaConfig", _roberta_config, _OF_BERT),
    "electra": _Architecture("ElectraForPreTraining", "ElectraConfig", _electra_config, _OF_BERT),
    "xlnet": _Architecture("XLNetLMHeadModel", "XLNetConfig", _xlnet_config, ("dropout",)),
    "gpt2": _Architecture("GPT2LMHeadModel", "GPT2Config", _gpt2_config, ("embd_pdrop", "resid_pdrop", "attn_pdrop")),
    "llama": _Architecture("LlamaForCausalLM", "LlamaConfig", _llama_config, ("attention_dropout",)),
    "qwen3": _Architecture("Qwen3ForCausalLM", "Qwen3Config", _llama_config, ("attention_dropout",)),
    "t5": _Architecture("T5ForConditionalGeneration", "T5Config", _t5_config, ("dropout_rate",)),
    "bart": _Architecture("BartForConditionalGeneration", "BartConfig", _bart_config, ("dropout", "attention_dropout")),
}


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "network: all but 'transformer', 'gru' and 'lstm' need the extra: pip install fastssl[text]"
        ) from error
    return transformers
