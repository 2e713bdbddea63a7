"""A checkpoint as a folder: tensors (safetensors) and everything else (JSON), replaced as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastssl._files import sync

TENSORS, STATE = "tensors.safetensors", "state.json"


def write_checkpoint(
    path: Path, tensors: dict[str, Tensor], state: dict[str, Any], assets: dict[str, str] | None = None
) -> None:
    """Writes a checkpoint folder atomically.

    Args:
        path: the folder.
        tensors: contiguous CPU tensors by name.
        state: JSON values.
        assets: further text files: name -> content.

    Raises:
        OSError: the folder cannot be written (a full disk); the previous checkpoint is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    if old.exists() and not path.exists():  # a process ended between the two renames below
        old.rename(path)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        fresh.mkdir()
        save_file(tensors, fresh / TENSORS)
        (fresh / STATE).write_text(json.dumps(state, indent=1))
        for name, content in (assets or {}).items():
            (fresh / name).write_text(content, encoding="utf-8")
        for name in (TENSORS, STATE, *(assets or {})):
            with open(fresh / name, "rb+") as file:  # as Windows wants it
                sync(file)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise OSError(
            f"checkpoint: {path} cannot be written ({error}); "
            f"{'the previous one is unchanged' if path.exists() else 'there is no previous one'}"
        ) from error
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder at ``path`` or in it.

    Raises:
        ValueError: no checkpoint is found.
    """
    root = Path(path)
    for candidate in (root, root / "checkpoint", root / "checkpoint.old"):
        if (candidate / STATE).is_file() and (candidate / TENSORS).is_file():
            return candidate
    raise ValueError(f"checkpoint: expected a folder with {STATE} and {TENSORS}, got {str(path)!r}")


def original_name(name: str) -> str:
    """The name of a parameter in the module that ``torch.compile`` has wrapped."""
    return name.replace("_orig_mod.", "")


def load_state(path: str | Path) -> dict[str, Any]:
    """Returns the state of a checkpoint folder, without its tensors.

    Args:
        path: folder of the checkpoint or of the run.

    Raises:
        ValueError: no checkpoint, or a damaged one, named by its file.
    """
    file = find_checkpoint(path) / STATE
    try:
        state: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"checkpoint: {file} is damaged or cut off: {error}") from error
    return state


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the state of a checkpoint folder. Earlier versions stored those of compiled modules under
    the names that ``torch.compile`` gives them; they have those of the original module here.

    Args:
        path: folder of the checkpoint or of the run.

    Raises:
        ValueError: no checkpoint, or a damaged one, named by its file.

    Example:
        >>> from fastssl.train import load_checkpoint
    """
    folder = find_checkpoint(path)
    try:
        tensors = {original_name(name): tensor for name, tensor in load_file(folder / TENSORS).items()}
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {folder / TENSORS} is damaged or cut off: {error}") from error
    state = load_state(folder)
    for name, stored in state.get("tied", {}).items():  # parameters that are stored once
        tensors[original_name(name)] = tensors[original_name(stored)]
    return tensors, state
