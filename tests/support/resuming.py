"""Runs that are stopped in the middle and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

Trained = TypeVar("Trained", bound=nn.Module)


def resumes_bit_for_bit(
    run: Callable[..., Trained], step: int, check: Callable[[Any], None] = lambda progress: None
) -> Trained:
    """What ``run("whole")`` gives; ``run("parts")``, stopped after ``step`` and resumed, has the same state.

    Args:
        run: trains in a folder, with the options ``on_step`` and ``resume`` of :func:`fastssl.pretrain`.
        step: the step after which Ctrl-C is pressed.
        check: called with the progress of each step before it.
    """

    def stop(progress: Any) -> None:
        check(progress)
        if progress.step == step:
            raise KeyboardInterrupt

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", on_step=stop)
    states = whole.state_dict(), run("parts", resume=True).state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    return whole
