"""How much of the disparity of unseen stereograms the outputs of IMAX tell."""

from __future__ import annotations

import math

import torch

from fastssl.data import Stereograms
from fastssl.methods import IMAX
from fastssl.models.modes import evaluation_mode


@torch.no_grad()
def disparity_correlation(method: IMAX, data: Stereograms) -> float:
    """Absolute correlation of the output with the disparity; multiple correlation for several outputs.

    Args:
        method: the method, whose outputs of both patches are compared.
        data: stereograms that it was not trained on.

    Example:
        >>> from fastssl.data import stereograms
        >>> from fastssl.evaluate import disparity_correlation
        >>> from fastssl.methods import IMAX
        >>> from fastssl.models import build_encoder
        >>> method = IMAX(build_encoder({"name": "mlp", "size": 8, "width": 4, "channels": 2}))
        >>> 0 <= disparity_correlation(method, stereograms(100)) <= 1
        True
    """
    device = next(method.parameters()).device
    views = method.examples(data.items(range(len(data))), 0).views
    with evaluation_mode(method):
        outputs = torch.cat([method.outputs(view.to(device)).double().cpu() for view in views])
    wanted = torch.from_numpy(data.disparity).double().repeat(len(views))
    x, y = outputs - outputs.mean(0), wanted - wanted.mean()
    fitted = x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    return math.sqrt(min(1.0, float(fitted.square().sum() / y.square().sum())))
