"""``fastssl.patch("transformers")``: training steps of language models without logits, equal to the library's own."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastssl
from fastssl.distributed.gloo_shutdown import let_go
from fastssl.models import build_language
from fastssl.models.architectures import TRANSFORMERS

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


OWN_SIZES = ("bert", "electra", "xlnet", "gpt2", "t5", "bart")  # above, or without a loss of tokens alone


def _of_table(kind: str) -> Any:
    """One of the architectures that language methods know."""
    sizes = {"vocabulary": V, "width": D, "depth": 2, "heads": 2, "length": T, "dropout": 0.0}
    return build_language({**sizes, "name": kind, "pad": int(kind == "mpnet"), "start": 2, "end": 2}).network


MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "BertForMaskedLM": (lambda: _bert("BertForMaskedLM"), True),
    "BertForPreTraining": (lambda: _bert("BertForPreTraining"), True),
    "GPT2LMHeadModel": (_gpt2, True),
    "T5ForConditionalGeneration": (_t5, True),
    "BartForConditionalGeneration": (_bart, True),
    "Gemma2ForCausalLM": (_gemma, False),
    **{of.model: (partial(_of_table, kind), True) for kind, of in TRANSFORMERS.items() if kind not in OWN_SIZES},
}


def _make(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name][0]().train()


def _batch(name: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, V, (B, T), generator=g)
    masked = torch.rand(B, T, generator=g) < 0.3
    batch = {"input_ids": ids, "labels": torch.where(masked, ids, -100) if "MaskedLM" in name else ids}
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
    calls = fastssl.patched()["transformers"]["PreTrainedModel"]
    assert calls.fused + sum(calls.original.values()) == 1, "the models within a model are no calls of their own"


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("Gemma2ForCausalLM", "MPNetForMaskedLM")])
def test_checkpointed_training_steps_are_the_same(name: str) -> None:
    model = _make(name)
    model.gradient_checkpointing_enable()
    _assert_same(model, _batch(name))
    assert _fused() == 1, fastssl.patched()


def test_the_trainer_of_the_library_trains_the_same(tmp_path: Any) -> None:
    pytest.importorskip("accelerate")
    rows = [{key: value[0] for key, value in _batch("Qwen2ForCausalLM").items()}] * 12
    sizes = {"max_steps": 4, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "logging_steps": 1}
    losses = []
    for patched in (False, True):
        given = transformers.TrainingArguments(str(tmp_path), **sizes, report_to=[], use_cpu=True, save_strategy="no")
        model = _make("Qwen2ForCausalLM")
        model.gradient_checkpointing_enable()
        if patched:
            fastssl.patch("transformers")
        trainer = transformers.Trainer(model, given, train_dataset=rows)
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 4 and _fused() == 8


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
        let_go()  # else the model may hold the interpreter while it waits for a thread of gloo that wants it
        torch.distributed.destroy_process_group()


def test_logits_are_not_those_of_later_weights() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # those of the first step are kept
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        optimizer.step()
    for read in (lambda: out.logits.sum(), lambda: out.logits.clone().sum()):
        with pytest.raises(RuntimeError, match="before optimizer.step"):
            read()


class _ThroughData(torch.optim.Optimizer):
    """Writes to `p.data`, whose version is its own."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-0.1)


def _by_hand(model: Any) -> None:
    for p in model.parameters():
        p.data -= 0.1 * p.grad


def _assigned(model: Any) -> None:
    for p in model.parameters():
        p.data = p.data - 0.1 * p.grad


OPTIMIZERS: dict[str, tuple[bool, Callable[[Any], Callable[[], Any]]]] = {  # whether logits of the first step are kept
    "fused": (True, lambda model: torch.optim.AdamW(model.parameters(), fused=True).step),
    "through p.data": (True, lambda model: _ThroughData(model.parameters()).step),
    "by hand": (False, lambda model: lambda: _by_hand(model)),
    "assigned": (False, lambda model: lambda: _assigned(model)),
}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("way", OPTIMIZERS)
def test_logits_are_not_those_of_weights_changed_behind_autograd(way: str, steps: int) -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    kept, make = OPTIMIZERS[way]
    step = make(model)
    for _ in range(steps):
        with torch.no_grad():
            right = model(input_ids=ids).logits
        model.zero_grad()
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        step()
    if kept and steps == 1:
        torch.testing.assert_close(out.logits.detach(), right)
        return
    with pytest.raises(RuntimeError, match="before optimizer.step"):
        out.logits.sum()


def test_logits_of_a_head_that_an_optimizer_leaves_alone_can_be_read_after_it() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    head = model.lm_head.weight
    others = torch.optim.SGD([p for p in model.parameters() if p is not head], 0.1)
    own = torch.optim.SGD([head], 0.1)
    for k in range(3):
        with torch.no_grad():
            right = model(input_ids=ids).logits
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        others.step()
        if k == 2:
            torch.testing.assert_close(out.logits.detach(), right)
        own.step()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_logits_may_be_read_after_the_optimizers_step_in_every_step(accumulate: int) -> None:
    def accuracies() -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(0)
        model, ids, found = _gpt2(), torch.randint(3, V, (B, T)), []
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for k in range(6):
            out = model(input_ids=ids, labels=ids)
            early = out.logits.float()
            out.loss.backward()
            if k % accumulate == accumulate - 1:
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    early.sub_(early.amax(-1, keepdim=True))
                found += [out.logits.detach().clone(), early.detach().clone()]
        return found, model.transformer.wte.weight.detach()

    (wanted, weights), calls = accuracies(), fastssl.patched()
    fastssl.patch("transformers")
    found, patched = accuracies()
    for a, b in zip([*found, patched], [*wanted, weights], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert not calls and fastssl.patched()["transformers"]["PreTrainedModel"].original


@pytest.mark.parametrize("hold", [False, True])
def test_steps_without_an_optimizer_hold_no_logits(hold: bool) -> None:
    from fastssl.compat.transformers import _waiting

    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    for _ in range(4):
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        if not hold:
            del out
    assert len(_waiting[model]) <= 2


def test_contrastive_losses_say_why_they_are_not_fused() -> None:
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": V, "max_position_embeddings": T, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config={**tower, "image_size": 8, "patch_size": 4})
    model = transformers.CLIPModel(config)
    fastssl.patch("transformers")
    model(input_ids=torch.randint(3, V, (B, T)), pixel_values=torch.randn(B, 3, 8, 8), return_loss=True)
    reasons = fastssl.patched()["transformers"]["PreTrainedModel"].original
    assert any("contrastive loss of CLIPModel has no kernel" in reason for reason in reasons)


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


class _Negated(torch.autograd.Function):
    """Its gradient is not that of its formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def _penalty(logits: Tensor) -> Tensor:
    return logits.square().mean() * 100


def _edited(logits: Tensor) -> Tensor:
    """Views see an edit of their base, copies do not."""
    view, copy = logits.view(-1, V)[:, : V - 1], logits.clone()
    logits[..., : V // 2] = -5.0
    return view.square().sum() + copy.sum()


USES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": _penalty,
    "a custom function": lambda logits: _penalty(_Negated.apply(logits)),
    "a custom function of a view": lambda logits: _penalty(_Negated.apply(logits[:, :-1].float())),
    "a reentrant checkpoint": lambda logits: checkpoint(_penalty, logits, use_reentrant=True),
    "a checkpoint": lambda logits: checkpoint(_penalty, logits, use_reentrant=False),
    "vmap": lambda logits: torch.vmap(_penalty)(logits).sum(),
    "an edit in place": _edited,
    "an edit of a view": lambda logits: logits.view(-1, V).mul_(2).sum() + logits.logsumexp(-1).sum(),
    "detached": lambda logits: logits.detach().argmax(-1).sum() + _penalty(logits),
    "options": lambda logits: _penalty(torch.add(logits, torch.ones(V), alpha=2)) + logits.add(1, alpha=3).sum(),
    "keywords": lambda logits: _penalty(logits.view(size=(-1, V))),
    "other types": lambda logits: _penalty(logits.view(torch.int32).view(torch.float32)) + logits.double().mean(),
    "numpy": lambda logits: _penalty(logits) * float(logits.detach().numpy().mean()),
    "a pickle": lambda logits: pickle.loads(pickle.dumps(logits.detach())).sum() + _penalty(logits),
    "a gradient of its own": lambda logits: torch.autograd.grad(_penalty(logits), logits, create_graph=True)[0].sum(),
    "lists": lambda logits: torch.stack(list(logits)).sum() + len(logits.tolist()),
    "a hook of its own": lambda logits: _hooked(logits * 2),
}  # fmt: skip


def _hooked(logits: Tensor) -> Tensor:
    logits.register_hook(lambda grad: grad * 3)
    return _penalty(logits)


@pytest.mark.parametrize("use", USES)
def test_logits_are_used_as_any_tensor(use: str) -> None:
    def step() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model, ids = _gpt2(), torch.randint(3, V, (B, T))
        out = model(input_ids=ids, labels=ids)
        loss = out.loss + USES[use](out.logits)
        loss.backward()
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    right, wanted = step()
    fastssl.patch("transformers")
    loss, found = step()
    assert _fused() == 1
    torch.testing.assert_close(loss, right, rtol=1e-5, atol=1e-5)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * (1 + float(b.abs().max())))


class _OwnLoss(transformers.GPT2LMHeadModel):
    """A model whose forward pass does something with its logits and their views before the loss."""

    how: Callable[[Tensor], tuple[Tensor, Tensor]]

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        logits, penalty = type(self).how(self.lm_head(self.transformer(input_ids)[0]))
        loss = nn.functional.cross_entropy(logits.reshape(-1, V), labels[:, : logits.shape[1]].reshape(-1))
        return {"loss": loss + penalty}


def _edit(view: Callable[[Tensor], Tensor], edit: Callable[[Tensor], Any], of_view: bool = False) -> Any:
    def how(logits: Tensor) -> tuple[Tensor, Tensor]:
        seen = view(logits)
        edit(seen if of_view else logits)
        return (logits if of_view else seen), logits.sum() * 1e-3

    return how


def _watched(logits: Tensor) -> tuple[Tensor, Tensor]:
    logits.register_hook(lambda grad: grad * 2)
    return logits, logits.new_zeros(())


def _forgets(logits: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        copy = logits.clone()
    return copy, logits.logsumexp(-1).mean()


def _view_without_gradient(logits: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        seen = logits.view(-1, V)
    return seen.view(B, T, V), logits.logsumexp(-1).mean()


WITHIN = {
    "nothing": lambda logits: (logits, logits.new_zeros(())),
    "base edited after a view": _edit(lambda x: x.view(B, T, V), lambda x: x[..., :9].fill_(-5.0)),
    "view edited": _edit(lambda x: x.view(-1, V), lambda x: x.mul_(2), of_view=True),
    "slice edited": _edit(lambda x: x[:, :-1, :], lambda x: x.mul_(2), of_view=True),
    "same dtype edited": _edit(lambda x: x.float(), lambda x: x.mul_(2), of_view=True),
    "same dtype edited, to": _edit(lambda x: x.to(torch.float32), lambda x: x.mul_(2), of_view=True),
    "copy edited": _edit(lambda x: x.clone(), lambda x: x.mul_(2), of_view=True),
    "base edited after a copy": _edit(lambda x: x.double(), lambda x: x.mul_(2)),
    "a hook": _watched,
    "a copy without gradient": _forgets,
    "a view without gradient": _view_without_gradient,
    "a bias of more dimensions": lambda x: ((x[0] + torch.linspace(-1, 1, V).view(1, 1, V)).expand(B, T, V), x.mean()),
    "two indices": lambda logits: (logits[:, :-1], logits.new_zeros(())),
    "a row of the batch": lambda logits: (logits[0].expand(B, T, V), logits.mean()),
    "the sum of two": lambda logits: (logits + logits.flip(0), logits.new_zeros(())),
    "a custom function": lambda logits: (_Negated.apply(logits), logits.new_zeros(())),
}


@pytest.mark.parametrize("how", WITHIN)
def test_models_may_do_anything_with_their_logits(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_OwnLoss, "how", staticmethod(WITHIN[how]), raising=False)

    def step() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model, ids = _OwnLoss(_gpt2().config), torch.randint(3, V, (B, T))
        loss = model(input_ids=ids, labels=ids)["loss"]
        loss.backward()
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    right, wanted = step()
    fastssl.patch("transformers")
    loss, found = step()
    torch.testing.assert_close(loss, right, rtol=1e-5, atol=1e-5)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * (1 + float(b.abs().max())))


class _OwnHead(transformers.GPT2LMHeadModel):
    """A model that does something between its head and its loss."""

    way: str

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        hidden = self.transformer(input_ids)[0]
        with torch.set_grad_enabled(self.way != "no gradient"):
            logits = self.lm_head(hidden)
        if self.way == "one row":
            logits = self.lm_head(hidden[0, :1]) + self.lm_head(hidden[0, 1:2])
            labels = labels[0, :1]
        if self.way == "hidden states edited":
            hidden.mul_(0.5)
        return {"loss": nn.functional.cross_entropy(logits.view(-1, V), labels.reshape(-1)) + hidden.sum()}


@pytest.mark.parametrize("way", ["no gradient", "one row", "hidden states edited"])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_happens_between_head_and_loss(way: str, frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is what it is without the patch, or an error."""
    monkeypatch.setattr(_OwnHead, "way", way, raising=False)

    def step() -> list[Tensor]:
        torch.manual_seed(0)
        model, ids = _OwnHead(_gpt2(tie_word_embeddings=False).config), torch.randint(3, V, (B, T))
        model.lm_head.requires_grad_(not frozen)
        loss = model(input_ids=ids, labels=ids)["loss"]
        loss.backward()
        return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]

    if way == "hidden states edited":  # of a head that is trained, autograd's own error
        fastssl.patch("transformers")
        with pytest.raises(RuntimeError, match="have changed"):
            step()
        return
    wanted = step()
    fastssl.patch("transformers")
    for a, b in zip(step(), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_the_librarys() -> None:
    def penalised() -> list[Tensor]:
        torch.manual_seed(0)
        model, ids = _gpt2(attn_implementation="eager"), torch.randint(3, V, (B, T))
        rows = model.transformer.wte(ids)
        loss = model(inputs_embeds=rows, labels=ids).loss
        (slope,) = torch.autograd.grad(loss, rows, create_graph=True)
        (loss + slope.square().sum()).backward()
        return [p.grad for p in model.parameters()]

    wanted = penalised()
    fastssl.patch("transformers")
    found = penalised()
    assert _fused() == 1
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_checkpointed_model_whose_logits_are_read_before_the_backward_pass() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))

    def run(ids: Tensor) -> tuple[Tensor, Tensor]:
        out = model(input_ids=ids, labels=ids, use_cache=False)
        return out.loss, out.logits

    for _ in range(2):
        loss, logits = checkpoint(run, ids, use_reentrant=False)
        assert int(logits.argmax(-1).sum()) >= 0
        loss.backward()
    assert _fused() >= 1


def test_compiled_forward_passes_and_traces_are_the_librarys() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor) -> Tensor:
            loss: Tensor = self.model(input_ids=ids, labels=ids).loss
            return loss

    traced = torch.jit.trace(Loss(), (ids,), check_trace=False)
    torch.testing.assert_close(traced(ids), model(input_ids=ids, labels=ids).loss)
    before = _fused()
    model.forward = torch.compile(model.forward, backend="eager")
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
    assert _fused() == before


@pytest.mark.parametrize("ask", ["register_hook", "retain_grad", "grad"])
def test_the_gradient_of_logits_after_a_fused_loss_is_an_error(ask: str) -> None:
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    fastssl.patch("transformers")
    out = model(input_ids=ids, labels=ids)
    asked = {
        "register_hook": lambda: out.logits.register_hook(lambda grad: grad),
        "retain_grad": lambda: out.logits.view(-1, V).retain_grad(),
        "grad": lambda: torch.autograd.grad(out.loss, out.logits),
    }
    with pytest.raises(RuntimeError, match="no gradient passes through them"):
        asked[ask]()
    of_head = torch.autograd.grad(out.logits, model.lm_head.weight, torch.ones_like(out.logits))[0]
    wanted = torch.autograd.grad(model(input_ids=ids).logits.sum(), model.lm_head.weight)[0]
    torch.testing.assert_close(of_head, wanted)


def test_wrappers_that_hook_all_outputs_train_fused() -> None:
    """Fabric, as FSDP, learns from a hook on every output that a backward pass begins: the first step was an error."""
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    weights = []
    for patched in (False, True):
        torch.manual_seed(0)
        model, ids = _gpt2(), torch.arange(3, 3 + B * T).reshape(B, T) % (V - 3) + 3
        if patched:
            fastssl.patch("transformers")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if patched:
            model, optimizer = fabric.setup(model, optimizer)
        for _ in range(3):
            loss = model(input_ids=ids, labels=ids).loss
            fabric.backward(loss) if patched else loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append([p.detach() for p in model.parameters()])
    assert _fused() == 3
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["cls", "cls.predictions"])
def test_backward_hooks_around_the_head_are_called(where: str) -> None:
    model, batch = _make("BertForMaskedLM"), _batch("BertForMaskedLM")
    seen: list[Tensor] = []
    model.get_submodule(where).register_full_backward_hook(lambda m, i, out: seen.append(out[0].clone()))
    _assert_same(model, batch)
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-6)


def test_copies_of_a_model_made_in_a_step_have_a_head_of_their_own() -> None:
    fastssl.patch("transformers")
    model, ids = _gpt2(), torch.randint(3, V, (B, T))
    copies: list[Any] = []
    handle = model.transformer.register_forward_hook(lambda *_: copies.append(copy.deepcopy(model)))
    model(input_ids=ids, labels=ids)
    handle.remove()
    twin, right = copies[0], model(input_ids=ids).logits.detach()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    torch.testing.assert_close(twin(input_ids=ids).logits.detach(), right)
    before = _fused()
    twin(input_ids=ids, labels=ids).loss.backward()
    assert _fused() == before + 1 and bool(twin.lm_head.weight.grad.any())
    assert copy.deepcopy(twin).lm_head.forward.__self__ is not twin.lm_head


def test_dropout_on_a_cpu_draws_the_masks_of_torch() -> None:
    drop, x = nn.Dropout(0.2), torch.randn(4, 64, 64)
    before = TF.dropout
    torch.manual_seed(5)
    expected = drop(x)
    with fastssl.patched("transformers"):
        assert TF.dropout is not before
        torch.manual_seed(5)
        assert torch.equal(drop(x), expected)
    assert TF.dropout is before


@pytest.mark.parametrize("kind", ["NewGELUActivation", "GELUTanh"])
def test_gelu_by_a_tanh_is_one_operation(kind: str) -> None:
    """Not in compiled code, nor with ``exact_dtypes``."""
    found = getattr(transformers.activations, kind, None)
    if found is None:
        pytest.skip("another version has another name")
    module, x = found(), torch.randn(200, 200, requires_grad=True)
    expected = module(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    with fastssl.patched("transformers"):
        seen = module(x)
        assert "Gelu" in type(seen.grad_fn).__name__
        torch.testing.assert_close(seen, expected)
        torch.testing.assert_close(torch.autograd.grad(seen.sum(), x)[0], gradient)
        compiled = torch.compile(module, fullgraph=True, backend="eager")(x)
        assert torch.equal(compiled, expected)
    with fastssl.patched("transformers", exact_dtypes=True):
        assert torch.equal(module(x), expected)
