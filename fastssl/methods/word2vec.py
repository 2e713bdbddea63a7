"""Word2Vec: vectors of words that predict their neighbours (Mikolov et al., 2013)."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl._options import differs, integer, plain
from fastssl.data import open as open_source
from fastssl.data.corpus import Corpus
from fastssl.data.readable import current as leaving_out
from fastssl.data.words import NumberedWords, number_words
from fastssl.models.folder import alone_in, forget_retired, holds_run, load_checkpoint, write_checkpoint
from fastssl.models.word_vectors import WordVectors
from fastssl.ops import extension

log = logging.getLogger("fastssl")
ARCHITECTURES = ("skip-gram", "cbow")
OBJECTIVES = ("negative-sampling", "hierarchical-softmax", "softmax")
_ROW = 16  # floats of a cache line, which rows of the tables are padded to
_REPORT_SECONDS = 0.2
_SOFTMAX_POSITIONS = 2048  # of the text, whose windows make a batch


@dataclass(frozen=True)
class WordProgress:
    """Where a run of :class:`Word2Vec` stands.

    Attributes:
        epoch: passes over the corpus that are complete.
        words: words of the corpus seen in this run and before it, over all epochs.
        total: words of all epochs.
        loss: mean loss per pair of words since the last report.
        rate: words per second of this run.
        seconds_left: estimated.
    """

    epoch: int
    words: int
    total: int
    loss: float
    rate: float
    seconds_left: float


class Word2Vec:
    r"""Word2Vec: every word of a text predicts, or is predicted by, the words around it.

    Skip-gram minimises the negative log-likelihood of the words ``o`` around each word ``c`` of the text, CBOW that of
    ``c`` given the mean of the vectors of its neighbours:

    .. math:: -\frac{1}{T} \sum_t \sum_{0 < |j| \le b_t} \log p(w_{t+j} \mid w_t), \qquad
              -\frac{1}{T} \sum_t \log p\Big(w_t \mid \frac{1}{n_t} \sum_{0 < |j| \le b_t} v_{w_{t+j}}\Big)

    with a window ``b_t`` drawn from 1 to ``window`` at every word. Negative sampling replaces
    :math:`-\log p(o \mid c)` by :math:`-\log \sigma(u_o \cdot v_c) - \sum_{k} \log \sigma(-u_{n_k} \cdot v_c)` with
    noise :math:`n_k` from :math:`P(n) \propto f_n^{power}`; hierarchical softmax by a product of decisions along the
    path of a Huffman tree; "softmax" is exact, through :func:`fastssl.functional.linear_cross_entropy`. As in
    word2vec.c, the neighbour's vector is the input that predicts the centre in skip-gram; over a text that is the same
    sum of pairs. A word of relative frequency f is kept with probability :math:`\sqrt{t/f} + t/f`, t = ``subsample``,
    anew in every epoch.

    Deviations from word2vec.c: sigmoids are exact (no table, no cut at 6); CBOW divides the gradient by the number of
    neighbours (it is a mean; İrsoy et al., Corrected CBOW Performs as well as Skip-gram, 2021); with
    ``shared_negatives`` the words of a window share their noise (Ji et al., Parallelizing Word2Vec in Shared and
    Distributed Memory, 2016), which is taken from a pool of 128 draws per 256 words of the text.

    Args:
        dim: dimensions of the vectors.
        architecture: "skip-gram" or "cbow".
        objective: "negative-sampling", "hierarchical-softmax" or "softmax" (for small vocabularies: its cost grows with
            them).
        window: words to each side, at most.
        negatives: words of noise per pair.
        shared_negatives: False: noise is drawn for every pair, as in word2vec.c, at a third of the speed.
        subsample: t above; 0: keep every word.
        power: exponent of the noise distribution.
        min_count: rarer words are left out.
        max_words: size of the vocabulary, at most; None: no limit.
        epochs: passes over the corpus.
        lr: learning rate, which falls linearly to ``min_lr``; None: 0.025, for CBOW 0.2, for "softmax" 0.1 (AdaGrad).
        min_lr: the smallest learning rate.
        seed: of all random draws.
        reproducible: the same vectors for any number of threads, also after resuming. False: threads write to the
            tables without waiting for each other (Hogwild), which is somewhat faster and never twice the same.

    Attributes:
        vectors: the trained :class:`fastssl.models.WordVectors`; None before ``fit``.
        outputs: the output vectors u [V, dim] (hierarchical softmax: of the inner nodes of the tree [V - 1, dim]).
        history: mean loss per pair in each epoch.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from fastssl.methods import Word2Vec
        >>> sentences = [["the", "cat", "sat"], ["the", "dog", "sat"]] * 50
        >>> vectors = Word2Vec(dim=16, min_count=1, subsample=0, epochs=2).fit(sentences)
        >>> vectors.most_similar("cat", 1)[0][0] in ("dog", "sat", "the")
        True

    Source: Mikolov et al., Efficient Estimation of Word Representations in Vector Space, 2013; Mikolov et al.,
    Distributed Representations of Words and Phrases and their Compositionality, 2013.
    """

    name = "word2vec"

    @classmethod
    def about(cls) -> dict[str, Any]:
        """The row of ``fastssl methods``."""
        return {
            "family": "words",
            "paper": "Mikolov et al., 2013",
            "predicts": "neighbouring words",
            "loss": "negative sampling, hierarchical or exact softmax",
        }

    def __init__(
        self,
        dim: int = 100,
        *,
        architecture: str = "skip-gram",
        objective: str = "negative-sampling",
        window: int = 5,
        negatives: int = 5,
        shared_negatives: bool = True,
        subsample: float = 1e-3,
        power: float = 0.75,
        min_count: int = 5,
        max_words: int | None = None,
        epochs: int = 5,
        lr: float | None = None,
        min_lr: float = 1e-4,
        seed: int = 0,
        reproducible: bool = True,
    ) -> None:
        dim, epochs = integer("dim", dim, 1, 1 << 16), integer("epochs", epochs, 1, 1 << 31)
        window, negatives = integer("window", window, 1, 1 << 15), integer("negatives", negatives, 1, 1 << 15)
        min_count, seed = integer("min_count", min_count, 1, 1 << 62), integer("seed", seed, 0, (1 << 64) - 1)
        if max_words is not None:
            max_words = integer("max_words", max_words, 1, 1 << 31)
        subsample, power, lr, min_lr = map(plain, (subsample, power, lr, min_lr))
        for option, chosen, known in (
            ("architecture", architecture, ARCHITECTURES),
            ("objective", objective, OBJECTIVES),
        ):
            if chosen not in known:
                raise ValueError(f"{option}: expected one of {', '.join(known)}, got {chosen!r}")
        if lr is None:
            lr = 0.1 if objective == "softmax" else 0.2 if architecture == "cbow" else 0.025
        for option, flag in (("shared_negatives", shared_negatives), ("reproducible", reproducible)):
            if not isinstance(flag, bool):
                raise ValueError(f"{option}: expected True or False, got {flag!r}")
        for option, number in (("subsample", subsample), ("power", power), ("lr", lr), ("min_lr", min_lr)):
            if not isinstance(number, (int, float)) or not math.isfinite(number) or number < 0:
                raise ValueError(f"{option}: expected a finite number >= 0, got {number!r}")
        self.dim, self.architecture, self.objective, self.window = dim, architecture, objective, window
        self.negatives, self.shared_negatives, self.subsample = negatives, shared_negatives, float(subsample)
        self.power, self.min_count, self.max_words, self.epochs = float(power), min_count, max_words, epochs
        self.lr, self.min_lr, self.seed, self.reproducible = float(lr), float(min_lr), seed, reproducible
        self.vectors: WordVectors | None = None
        self.outputs: Tensor | None = None
        self.history: list[float] = []

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the constructor, as JSON values."""
        names = (
            "dim", "architecture", "objective", "window", "negatives", "shared_negatives", "subsample", "power",
            "min_count", "max_words", "epochs", "lr", "min_lr", "seed", "reproducible",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"Word2Vec({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"

    def fit(
        self,
        corpus: Corpus | str | Path | Iterable[Sequence[str]],
        *,
        minutes: float | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        checkpoint_minutes: float = 5.0,
        on_step: Callable[[WordProgress], None] | None = None,
        on_count: Callable[[int, int | None], None] | None = None,
    ) -> WordVectors:
        """Trains on a corpus and returns the vectors.

        Args:
            corpus: a :class:`fastssl.data.Corpus`, what :func:`fastssl.data.open` opens as one ("sotu", "corpus.txt"),
                or sentences: lists of words.
            minutes: duration, from which the number of epochs follows (at least one), by the speed of the first steps.
            out: folder of the run; its checkpoint is written every ``checkpoint_minutes``, at the end, and on Ctrl-C.
            resume: go on from the checkpoint in ``out``, if there is one; with ``reproducible``, bit for bit. With more
                epochs than before, the learning rate falls over all of them from there on.
            overwrite: replace an existing run in ``out``.
            checkpoint_minutes: minutes between checkpoints.
            on_step: called with a :class:`WordProgress` several times per second.
            on_count: called with the documents counted and the number of all.

        Raises:
            TypeError: data that is no corpus.
            ValueError: no word occurs ``min_count`` times, none has a neighbour that subsampling keeps, a run in
                ``out`` exists, or it is of other data or options.
            RuntimeError: the compiled kernels are missing, or the vectors are not finite (a learning rate too large).
            KeyboardInterrupt: Ctrl-C (SystemExit: SIGTERM), after the checkpoint is written.
        """
        if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
            raise ValueError(f"minutes: expected a number above 0, got {minutes!r}")
        if isinstance(corpus, (str, Path)):
            corpus = open_source(corpus)  # type: ignore[assignment]
            if not isinstance(corpus, Corpus):
                raise TypeError(f"corpus: word2vec takes texts, got {corpus!r}")
        folder, self.history = None if out is None else Path(out), []
        saved = _saved(folder, resume, overwrite)
        text = number_words(corpus, self.min_count, self.max_words, on_count)
        if not text.words:
            raise ValueError(
                f"corpus: no word occurs {self.min_count} times; min_count=1 keeps all words" if text.rarer else
                "corpus: expected words, there are none: its texts have no letters and no digits"
            )  # fmt: skip
        kernel = self._kernel(text)
        if self.objective == "softmax":
            run: _Run = _SoftmaxRun(self, text, kernel)
        else:
            run = _KernelRun(self, text, kernel)
        run.data = {name: getattr(corpus, name, None) for name in ("name", "where", "embedded")}
        run.data["on_error"] = "raise" if leaving_out.get() is None else "skip"
        if saved is not None:
            self._resume(run, saved, minutes)
        elif minutes is not None:
            self.epochs = run.epochs_of(minutes)
        run.begin()
        alone = nullcontext() if folder is None else alone_in(folder, None if saved is None else saved[1])
        with alone, _Signals() as signals:
            self._train(run, signals, folder, checkpoint_minutes, on_step)
            if folder is not None:
                run.save(folder)
        signals.raise_received()
        self.vectors, self.outputs = run.vectors(), run.outputs()
        return self.vectors

    def _kernel(self, text: NumberedWords) -> Any:
        assert extension._C is not None  # number_words has counted with it
        share = text.counts / text.counts.sum()
        keep = np.ones(len(share))
        if self.subsample > 0:
            keep = np.minimum(1.0, np.sqrt(self.subsample / share) + self.subsample / share)
        return extension._C.Words(
            np.ascontiguousarray(text.ids),
            keep.astype(np.float32),
            text.counts.astype(np.float64),
            self.power,
            self.objective == "hierarchical-softmax",
            self.window,
            self.negatives if self.objective == "negative-sampling" else 0,
            self.architecture == "cbow",
            self.shared_negatives or self.objective == "softmax",
            self.seed,
        )

    def _resume(self, run: _Run, saved: tuple[dict[str, Tensor], dict[str, Any]], minutes: float | None) -> None:
        tensors, state = saved
        if minutes is not None:  # the length was found when the run began
            self.epochs = state["options"]["epochs"]
        if self.epochs < state["epoch"]:
            raise ValueError(f"epochs: the checkpoint has {state['epoch']} already, got {self.epochs}")
        wanted = {name: value for name, value in self.options.items() if name != "epochs"}
        for name, value in wanted.items():
            if state["options"].get(name) != value:
                raise differs(name, state["options"].get(name), value)
        if state["fingerprint"] != run.text.fingerprint:
            raise ValueError("resume: the checkpoint is of another corpus, or its words are counted differently")
        run.load(tensors)
        run.epoch, run.position, self.history = state["epoch"], state["position"], state["history"]
        run.loss, run.terms = state["loss"], state["terms"]
        if run.epoch >= self.epochs:
            log.warning("resume: the run has all of its %d epochs, nothing is left to do", run.epoch)

    def _train(
        self,
        run: _Run,
        signals: _Signals,
        folder: Path | None,
        checkpoint_minutes: float,
        on_step: Callable[[WordProgress], None] | None,
    ) -> None:
        began = last_saved = time.monotonic()
        size = len(run.text.ids)
        first = run.epoch * size + run.position
        while run.epoch < self.epochs and signals.received is None:
            loss, terms = run.advance()
            if not math.isfinite(loss):
                raise RuntimeError(f"the loss is not finite in epoch {run.epoch + 1}; try a smaller lr than {self.lr}")
            if run.position >= size:
                self.history.append(run.loss / run.terms if run.terms else math.nan)
                if self.epochs == run.epoch + 1 and all(map(math.isnan, self.history)):  # before it is saved
                    raise ValueError(
                        "corpus: no word had a neighbour to predict"
                        + (f" that subsample={self.subsample:g} keeps; subsample=0 keeps all" if self.subsample else "")
                    )
                run.epoch, run.position, run.loss, run.terms = run.epoch + 1, 0, 0.0, 0
            now = time.monotonic()
            if on_step is not None:
                done, share = run.epoch * size + run.position, float(run.text.counts.sum()) / max(size, 1)
                speed = (done - first) / max(now - began, 1e-9)
                on_step(
                    WordProgress(
                        run.epoch,
                        int(done * share),
                        int(self.epochs * size * share),
                        loss / max(terms, 1),
                        float(speed * share),
                        (self.epochs * size - done) / max(speed, 1e-9),
                    )
                )
            if folder is not None and now - last_saved > 60 * checkpoint_minutes:
                run.save(folder)
                last_saved = time.monotonic()


def load_word_vectors(path: str | Path) -> WordVectors:
    """The vectors of a run of :class:`Word2Vec`, or of a file of word2vec (``.txt``, ``.vec``, ``.bin``).

    Args:
        path: folder of the run or its checkpoint, or a file.

    Raises:
        ValueError: no such run, or one of another method.

    Example:
        >>> import tempfile
        >>> from fastssl.methods import Word2Vec, load_word_vectors
        >>> out = tempfile.mkdtemp()
        >>> _ = Word2Vec(dim=8, min_count=1, subsample=0).fit([["a", "rose", "is", "a", "rose"]], out=out)
        >>> load_word_vectors(out)
        WordVectors(3 words, 8 dimensions)
    """
    path = Path(path).expanduser()
    if path.is_file():
        return WordVectors.load(path)
    tensors, state = load_checkpoint(path)
    if state.get("method") != Word2Vec.name:
        raise ValueError(f"checkpoint: expected a run of word2vec, got one of {state.get('method')}")
    return WordVectors(state["words"], tensors["inputs"], np.array(state["counts"], np.int64))


def _saved(folder: Path | None, resume: bool, overwrite: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint to go on from.

    Raises:
        ValueError: a run exists and is neither to be resumed nor replaced, or there is no folder to resume from.
    """
    if resume and folder is None:
        raise ValueError("resume: expected out=, the folder of the run")
    if folder is None:
        return None
    if not holds_run(folder):
        if resume:
            log.warning("resume: no checkpoint in %s, a new run starts", folder)
        return None
    if resume:
        tensors, state = load_checkpoint(folder)
        if state.get("method") != Word2Vec.name:
            raise ValueError(f"resume: {str(folder)!r} is a run of {state.get('method')}")
        return tensors, state
    if not overwrite:
        raise ValueError(f"out: {str(folder)!r} holds a run already; resume it, overwrite it, or choose another folder")
    return None


class _Signals:
    """Keeps Ctrl-C and SIGTERM until the current step is complete."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def raise_received(self) -> None:
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)


class _Run:
    """Tables of a run, and how far they are trained."""

    def __init__(self, method: Word2Vec, text: NumberedWords, kernel: Any) -> None:
        self.method, self.text, self.kernel = method, text, kernel
        self.data: dict[str, Any] = {}  # where the corpus is, for the checkpoint
        self.epoch, self.position = 0, 0
        self.loss, self.terms = 0.0, 0  # of this epoch
        draws = torch.Generator().manual_seed(method.seed % (1 << 63))
        dim, words = method.dim, len(text.words)
        self.inputs = torch.zeros(words, -(-dim // _ROW) * _ROW)
        self.inputs[:, :dim] = (torch.rand(words, dim, generator=draws) - 0.5) / dim
        nodes = max(words - 1, 1) if method.objective == "hierarchical-softmax" else words
        self.second = torch.zeros(nodes, self.inputs.shape[1])

    def vectors(self) -> WordVectors:
        return WordVectors(self.text.words, self.inputs[:, : self.method.dim].clone(), self.text.counts)

    def outputs(self) -> Tensor:
        return self.second[:, : self.method.dim].clone()

    def tensors(self) -> dict[str, Tensor]:
        return {"inputs": self.vectors().vectors, "outputs": self.outputs()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.inputs[:, : self.method.dim] = tensors["inputs"]
        self.second[:, : self.method.dim] = tensors["outputs"]

    def save(self, folder: Path) -> None:
        state = {
            "method": Word2Vec.name,
            "options": self.method.options,
            "data": self.data["name"],
            "source": self.data,
            "fingerprint": self.text.fingerprint,
            "epoch": self.epoch,
            "position": self.position,
            "loss": self.loss,
            "terms": self.terms,
            "history": self.method.history,
            "words": self.text.words,
            "counts": self.text.counts.tolist(),
        }
        write_checkpoint(folder / "checkpoint", self.tensors(), state)
        forget_retired(folder)

    def begin(self) -> None:
        """Called when the number of epochs is known, and with it the schedule of the learning rate."""

    def advance(self) -> tuple[float, int]:
        """Trains for a moment: the loss of some pairs, and their number."""
        raise NotImplementedError

    def epochs_of(self, minutes: float) -> int:
        """Epochs that take some minutes, by a trial; the tables are as before."""
        self.begin()
        before = {name: tensor.clone() for name, tensor in self.tensors().items()}
        began, first = time.monotonic(), len(self.text.ids)
        done = 0
        while done < first and time.monotonic() - began < min(2.0, 3 * minutes):
            self.advance()
            done = self.position
        speed = max(done, 1) / (time.monotonic() - began)
        self.load(before)
        self.position, self.loss, self.terms = 0, 0.0, 0
        return max(1, int(60 * minutes * speed / max(first, 1)))


class _KernelRun(_Run):
    """Negative sampling and hierarchical softmax: csrc/words."""

    def __init__(self, method: Word2Vec, text: NumberedWords, kernel: Any) -> None:
        super().__init__(method, text, kernel)
        self.steps = 1

    def begin(self) -> None:
        m = self.method
        # Small corpora take smaller steps, so that segments see what others have learnt.
        segment = min(1024, max(8, len(self.text.ids) // 4096))
        tables = self.inputs.numpy(), self.second.numpy()
        self.kernel.set_tables(*tables, m.epochs, m.lr, m.min_lr, m.reproducible, segment)

    def advance(self) -> tuple[float, int]:
        began = time.monotonic()
        self.position, loss, terms = self.kernel.train(self.epoch, self.position, self.steps)
        passed = time.monotonic() - began
        faster = int(self.steps * _REPORT_SECONDS / max(passed, 1e-6))
        self.steps = max(1, min(2 * self.steps, faster, 1 << 30))  # an epoch may take no time at all
        self.loss += loss
        self.terms += terms
        return loss, terms


class _SoftmaxRun(_Run):
    """Exact softmax: windows from the kernel, AdaGrad on the sparse and dense gradients."""

    def __init__(self, method: Word2Vec, text: NumberedWords, kernel: Any) -> None:
        super().__init__(method, text, kernel)
        self.second.normal_(0, 1e-3, generator=torch.Generator().manual_seed(method.seed % (1 << 63)))
        self.second[:, method.dim :] = 0
        self.parameters = [self.inputs.requires_grad_(), self.second.requires_grad_()]
        self.optimizer = torch.optim.Adagrad(self.parameters, method.lr)

    def tensors(self) -> dict[str, Tensor]:
        found = {name: t.detach() for name, t in super().tensors().items()}
        sums = [self.optimizer.state[p]["sum"][:, : self.method.dim] for p in self.parameters]
        return found | {"input_sums": sums[0].clone(), "output_sums": sums[1].clone()}

    def vectors(self) -> WordVectors:
        return WordVectors(self.text.words, self.inputs.detach()[:, : self.method.dim].clone(), self.text.counts)

    def outputs(self) -> Tensor:
        return self.second.detach()[:, : self.method.dim].clone()

    def load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            super().load(tensors)
            for p, name in zip(self.parameters, ("input_sums", "output_sums")):
                self.optimizer.state[p]["sum"][:, : self.method.dim] = tensors[name]

    def advance(self) -> tuple[float, int]:
        size, m = len(self.text.ids), self.method
        end = min(size, self.position + _SOFTMAX_POSITIONS)
        inputs, input_weights, input_ends, outputs, output_ends, *_ = map(
            torch.from_numpy, self.kernel.windows(self.epoch, self.position, end)
        )
        loss, terms = 0.0, 0
        if len(inputs):
            lengths = torch.diff(input_ends, prepend=torch.zeros(1, dtype=torch.int64))
            centres = outputs[output_ends - 1].long()  # a window's one output: there are no negatives
            if m.architecture == "cbow":
                sums = torch.nn.functional.embedding_bag(
                    inputs.long(), self.inputs, input_ends - lengths, mode="sum", per_sample_weights=input_weights
                )
                window = torch.arange(len(lengths)).repeat_interleave(lengths)
                hidden, targets = (
                    sums / torch.zeros(len(lengths)).index_add_(0, window, input_weights)[:, None],
                    centres,
                )
            else:
                times = input_weights.long()
                hidden = torch.nn.functional.embedding(inputs.long().repeat_interleave(times), self.inputs)
                targets = centres.repeat_interleave(lengths).repeat_interleave(times)
            mean = F.linear_cross_entropy(hidden, self.second, targets)
            done = (self.epoch * size + self.position) / max(m.epochs * size, 1)
            self.optimizer.param_groups[0]["lr"] = max(m.min_lr, m.lr * (1 - done))
            self.optimizer.zero_grad()
            mean.backward()
            self.optimizer.step()
            terms = len(targets)
            loss = float(mean.detach()) * terms
        self.position = end
        self.loss += loss
        self.terms += terms
        return loss, terms


__all__ = ["Word2Vec", "WordProgress", "load_word_vectors"]
