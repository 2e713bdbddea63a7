"""What tests share."""

from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
# Where the Triton kernels run: on a GPU, or on the CPU in Triton's interpreter.
TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
