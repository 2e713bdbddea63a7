"""``fastssl.patch("transformers")``: training steps of language models without logits, equal to the library's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastssl

transformers = pytest.importorskip("transformers")
with contextlib.suppress(ImportError):
    from transformers import BertForMaskedLM  # noqa: F401  (lazily imported, and not without all that it needs)

V, D, B, T = 61, 16, 3, 10
SMALL = {"vocab_size": V, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    fastssl.unpatch()


def _bert(name: str) -> Any:
    sizes = {"hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * D}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return getattr(transformers, name)(transformers.BertConfig(**SMALL, **sizes, **dropout))


def _gpt2(**more: Any) -> Any:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SMALL, n_embd=D, n_layer=1, n_head=2, n_positions=T, **dropout, **more)
    )


def _t5() -> Any:
    sizes = {"d_model": D, "d_kv": 8, "d_ff": 2 * D, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**SMALL, **sizes, dropout_rate=0.0, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config)


def _bart() -> Any:
    sizes = {"d_model": D, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": D, "decoder_ffn_dim": D, "dropout": 0.0}
    config = transformers.BartConfig(**SMALL, **sizes, **more, decoder_start_token_id=2, max_position_embeddings=T)
    return transformers.BartForConditionalGeneration(config)


def _gemma() -> Any:
    """Its logits are bounded after the head."""
    sizes = {"hidden_size": D, "intermediate_size": D, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma2Config(**SMALL, **sizes, num_key_value_heads=1, head_dim=8)
    return transformers.Gemma2ForCausalLM(config)


MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "BertForMaskedLM": (lambda: _bert("BertForMaskedLM"), True),
    "BertForPreTraining": (lambda: _bert("BertForPreTraining"), True),
    "GPT2LMHeadModel": (_gpt2, True),
    "T5ForConditionalGeneration": (_t5, True),
    "BartForConditionalGeneration": (_bart, True),
    "Gemma2ForCausalLM": (_gemma, False),
}


def _make(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name][0]().train()


def _batch(name: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, V, (B, T), generator=g)
    masked = torch.rand(B, T, generator=g) < 0.3
    batch = {"input_ids": ids, "labels": torch.where(masked, ids, -100) if "Bert" in name else ids}
    if name == "BertForPreTraining":
        batch["next_sentence_label"] = torch.tensor([0, 1, 0])
    return batch


def _step(model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad()
    out = model(**batch)
    out.loss.backward()
    return out, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def _fused() -> int:
    return fastssl.patched()["transformers"]["PreTrainedModel"].fused


def _assert_same(model: Any, batch: dict[str, Any], tolerance: float = 2e-5) -> Any:
    right, grads = _step(model, batch)
    fastssl.patch("transformers")
    out, found = _step(model, batch)
    assert out.loss.dtype == right.loss.dtype and found.keys() == grads.keys()
    torch.testing.assert_close(out.loss, right.loss, rtol=tolerance, atol=tolerance)
    for name, grad in grads.items():
        scale = 1 + float(grad.abs().max())
        torch.testing.assert_close(found[name], grad, rtol=20 * tolerance, atol=tolerance * scale)
    return out


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_is_the_same(name: str) -> None:
    _assert_same(_make(name), _batch(name))
    assert _fused() == MODELS[name][1], fastssl.patched()


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_logits_are_computed_when_they_are_read(name: str) -> None:
    model, batch = _make(name), _batch(name)
    right = model(**batch).logits
    fastssl.patch("transformers")
    logits = model(**batch).logits
    assert isinstance(logits, Tensor) and logits.shape == right.shape and logits.dtype == right.dtype
    assert logits.device == right.device and logits.dim() == 3 and len(logits) == B and logits.size(-1) == V
    assert type(logits).__name__ == "Logits"
    torch.testing.assert_close(logits.softmax(-1), right.softmax(-1))
    assert torch.equal(logits.argmax(-1), right.argmax(-1)) and logits.requires_grad
    logits.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "weight" in n and "pooler" not in n)
    # Who reads them once reads them again: they are not put off the next time.
    assert type(model(**batch).logits) is Tensor
    assert fastssl.patched()["transformers"]["PreTrainedModel"].original["a model whose logits are read"] == 1


def test_only_rows_with_a_target_reach_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastssl.functional as F

    rows: list[int] = []
    original = F.linear_cross_entropy
    monkeypatch.setattr(F, "linear_cross_entropy", lambda h, *a, **k: rows.append(len(h)) or original(h, *a, **k))
    model, batch = _make("BertForMaskedLM"), _batch("BertForMaskedLM")
    fastssl.patch("transformers")
    model(**batch)
    assert rows == [int((batch["labels"] != -100).sum())]


@pytest.mark.parametrize(
    "change",
    [
        {"num_items_in_batch": 17},
        {"num_items_in_batch": torch.tensor(17)},
        {"attention_mask": torch.ones(B, T, dtype=torch.long)},
        {"return_dict": False},
        {"output_hidden_states": True},
    ],
    ids=str,
)
def test_other_arguments(change: dict[str, Any]) -> None:
    model, batch = _make("GPT2LMHeadModel"), {**_batch("GPT2LMHeadModel"), **change}

    def loss() -> Tensor:
        out = model(**batch)
        return out[0]

    right = loss()
    fastssl.patch("transformers")
    torch.testing.assert_close(loss(), right)
    assert _fused() == 1


def test_what_runs_the_librarys_own_code() -> None:
    model, batch = _make("BertForMaskedLM"), _batch("BertForMaskedLM")
    fastssl.patch("transformers")
    calls = fastssl.patched()["transformers"]["PreTrainedModel"]
    with torch.no_grad():
        assert type(model(**batch).logits) is Tensor
    assert type(model(input_ids=batch["input_ids"]).logits) is Tensor
    assert calls.fused == 0
    seen: list[int] = []
    handle = model.cls.predictions.decoder.register_forward_hook(lambda m, a, out: seen.append(out.numel()))
    model(**batch)
    assert seen == [B * T * V] and calls.fused == 0
    handle.remove()

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model.set_output_embeddings(Scaled(D, V))
    fastssl.unpatch()
    right = model(**batch).loss
    fastssl.patch("transformers")
    assert torch.equal(model(**batch).loss, right) and calls.fused == 0


def test_targets_that_the_library_refuses_or_has_its_own_answer_for() -> None:
    model, batch = _make("BertForMaskedLM"), _batch("BertForMaskedLM")
    none = {**batch, "labels": torch.full((B, T), -100)}
    fastssl.patch("transformers")
    assert torch.isnan(model(**none).loss)
    model, wrong = _make("BertForMaskedLM"), {**batch, "labels": torch.full((B, T), V + 3)}
    with pytest.raises(IndexError):  # the library's own error
        model(**wrong)
    assert "forward" not in vars(model.cls.predictions.decoder)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
@pytest.mark.parametrize("way", ["autocast", "bfloat16"])
def test_16_bits_err_no_more_than_the_library(name: str, way: str) -> None:
    model, batch = _make(name), _batch(name)
    if way == "bfloat16":
        model = model.bfloat16()

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
            return model(**batch).loss

    theirs = loss()
    fastssl.patch("transformers")
    ours = loss()
    assert ours.dtype == theirs.dtype and _fused() == 1
    fastssl.unpatch()
    right = float(model.double()(**batch).loss.detach())
    width = torch.finfo(torch.bfloat16).eps * abs(right)  # of what comes to the head
    assert abs(float(ours.detach()) - right) <= 1.5 * abs(float(theirs.detach()) - right) + width
    fastssl.patch("transformers", exact_dtypes=True)
    model = model.bfloat16() if way == "bfloat16" else model.float()
    loss()
    assert _fused() == 0


def test_models_are_what_they_were() -> None:
    model, batch = _make("BertForMaskedLM"), _batch("BertForMaskedLM")
    owner = transformers.PreTrainedModel
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fastssl.patch("transformers")
    model(**batch)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    fastssl.unpatch()
    assert "__call__" not in vars(owner)


class _WithPenalty(nn.Module):
    """A step whose loss has a term of the logits, which somebody else looked at first."""

    def __init__(self, look: str, distributed: dict[str, bool] | None) -> None:
        super().__init__()
        self.model = _gpt2()
        if distributed is not None:
            self.model = nn.parallel.DistributedDataParallel(self.model, **distributed)
        self.look = look

    def forward(self, ids: Tensor) -> Tensor:
        out = self.model(input_ids=ids, labels=ids)
        if self.look:
            with getattr(torch, self.look)():
                out.logits.argmax(-1)
        return out.loss + 0.1 * out.logits.logsumexp(-1).square().mean()


def _steps_with_penalty(look: str, distributed: dict[str, bool] | None) -> list[Tensor]:
    torch.manual_seed(0)
    module, ids = _WithPenalty(look, distributed), torch.randint(3, V, (B, T))
    found: list[Tensor] = []
    for _ in range(3):
        module.zero_grad()
        module(ids).backward()
        found += [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return found


@pytest.mark.parametrize("look", ["", "no_grad", "inference_mode"])
def test_logits_have_their_gradient_whoever_reads_them_first(look: str) -> None:
    wanted = _steps_with_penalty(look, None)
    fastssl.patch("transformers")
    found = _steps_with_penalty(look, None)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"find_unused_parameters": True}, {"static_graph": True}, {}], ids=str)
def test_distributed_data_parallel_leaves_logits_alone(options: dict[str, bool]) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wanted = _steps_with_penalty("", options)
        fastssl.patch("transformers")
        for a, b in zip(_steps_with_penalty("", options), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        before = fastssl.patched()["transformers"]["PreTrainedModel"].fused
        model = nn.parallel.DistributedDataParallel(_gpt2(), **options)
        ids = torch.randint(3, V, (B, T))
        for _ in range(3):
            model(input_ids=ids, labels=ids).loss.backward()
        assert fastssl.patched()["transformers"]["PreTrainedModel"].fused == before + 3
    finally:
        torch.distributed.destroy_process_group()


def test_logits_are_not_those_of_later_weights() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    for read in (lambda: out.logits.sum(), lambda: out.logits.clone().sum()):
        with pytest.raises(RuntimeError, match="before optimizer.step"):
            read()


def test_logits_that_were_edited_in_place_stay_edited() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    logits = model(input_ids=ids, labels=ids).logits
    with torch.no_grad():
        logits[..., 5] = -100.0
    for read in (logits.clone(), logits.view(-1, V), logits.float(), logits[:, 1:, :]):
        assert bool((read[..., 5] == -100).all())
    places = ids.flatten()
    wanted = nn.functional.cross_entropy(logits.view(-1, V) + 0, places)
    torch.testing.assert_close(nn.functional.cross_entropy(logits.view(-1, V), places), wanted)
