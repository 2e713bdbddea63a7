"""A checkpoint as a folder: tensors (safetensors) and everything else (JSON), replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastssl._files import locked, sync

TENSORS, STATE, LOCK = "tensors.safetensors", "state.json", ".lock"
OF_MODELS = (".json", ".safetensors", ".py", ".txt", ".model", ".jinja")  # files of a model of transformers


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
    fresh, (_, old) = _settle(path), _places(path)
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


@contextlib.contextmanager
def alone_in(out: Path, resumed: dict[str, Any] | None) -> Iterator[None]:
    """Context in which a run has its folder for itself, among the threads and processes of all machines that share it.

    The lock ends with the process, however it ends. On file systems without locks there is none.

    Args:
        out: the folder, which is made.
        resumed: state of the checkpoint in it that the run goes on from; None: a new run, see
            :func:`retire_checkpoint`.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: another run is writing to it, or has written to it since the checkpoint was read.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, f"out: another run is writing to {str(out)!r}; wait for its end, or choose another folder"):
        if resumed is None:
            retire_checkpoint(out)
        elif holds_run(out) and _progress(load_state(out)) != _progress(resumed):
            raise ValueError(f"out: another run has written to {str(out)!r} meanwhile; resume again")
        yield


def _progress(state: dict[str, Any]) -> list[Any]:
    """How far a run is, which tells its checkpoints apart."""
    return [state.get(key) for key in ("step", "seconds", "epoch", "position")]


def holds_run(out: Path) -> bool:
    """Whether a folder has a checkpoint, also one that is being replaced."""
    return any(path.exists() for path in _places(out / "checkpoint"))


def retire_checkpoint(out: Path) -> None:
    """Moves the checkpoint of a run that is overwritten to ``checkpoint.before``: if the new run ends without one, the
    old one is not mistaken for its own. The new run's first checkpoint deletes it (:func:`forget_retired`)."""
    _settle(out / "checkpoint")
    if holds_run(out):
        forget_retired(out)
        (out / "checkpoint").rename(retired(out))


def forget_retired(out: Path) -> None:
    """Deletes the checkpoint of an overwritten run."""
    shutil.rmtree(retired(out), ignore_errors=True)


def retired(out: Path) -> Path:
    """Where the checkpoint of an overwritten run is."""
    return out / "checkpoint.before"


def _places(path: Path) -> tuple[Path, Path]:
    """Where the last checkpoint written to ``path`` is: there, or beside it, while it is replaced."""
    return path, path.with_name(path.name + ".old")


def _settle(path: Path) -> Path:
    """Ends what a process that was killed has left of replacing a checkpoint; where the next one is written first."""
    fresh, (_, old) = path.with_name(path.name + ".tmp"), _places(path)
    if old.exists() and not path.exists():  # it ended between the two renames
        old.rename(path)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    return fresh


def put(fresh: Path, path: Path) -> None:
    """Moves an export, a file or the folder of a model, to ``path``, in place of an earlier one.

    Raises:
        ValueError: there is a folder where a file is written, or the reverse, or a folder of something else than a
            model alone; it is left as it is.
    """
    if path.exists() and path.is_dir() != fresh.is_dir():
        kinds = ("folder", "file") if fresh.is_dir() else ("file", "folder")
        raise ValueError(f"path (--out): expected a {kinds[0]}, {str(path)!r} is a {kinds[1]}")
    if path.is_dir():
        there = sorted(path.iterdir())
        a_model = (path / "config.json").is_file()
        other = next((file for file in there if not a_model or file.suffix not in OF_MODELS or file.is_dir()), None)
        if other is not None:
            raise ValueError(
                f"path (--out): expected a new folder, or that of an earlier export, {str(path)!r} has other files, "
                f"such as {other.name!r}"
            )
        shutil.rmtree(path)
    fresh.replace(path)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder at ``path`` or in it.

    Raises:
        ValueError: no checkpoint is found.
    """
    root = Path(path)
    for candidate in (root, *_places(root / "checkpoint")):
        if (candidate / STATE).is_file() and (candidate / TENSORS).is_file():
            return candidate
    if str(path).startswith("huggingface:"):
        raise ValueError(
            f"checkpoint: expected a run, got {str(path)!r}; evaluate, embed and generate take models without one "
            f"(fastssl pretrain METHOD --init {path} makes one of it)"
        )
    library = f", a model of transformers (huggingface:{path})" if (root / "config.json").is_file() else ""
    raise ValueError(
        f"checkpoint: expected a run (the folder that fastssl pretrain has written, or the one in it with {STATE} and "
        f"{TENSORS}), got {str(path)!r}{library}"
    )


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
    while True:
        folder = find_checkpoint(path)
        try:
            written = (folder / STATE).stat()
            state, tensors = load_state(folder), load_file(folder / TENSORS)
            again = (folder / STATE).stat()
        except SafetensorError as error:
            raise ValueError(f"checkpoint: {folder / TENSORS} is damaged or cut off: {error}") from error
        except FileNotFoundError:
            continue
        if (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns):
            break  # else its run has replaced it meanwhile
    tensors = {original_name(name): tensor for name, tensor in tensors.items()}
    for name, stored in state.get("tied", {}).items():  # parameters that are stored once
        tensors[original_name(name)] = tensors[original_name(stored)]
    return tensors, state
