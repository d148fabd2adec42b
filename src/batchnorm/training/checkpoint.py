"""Checkpoints: all that a run needs to go on as if it had never stopped, in one safe file."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from batchnorm.errors import CheckpointError
from batchnorm.training.arithmetic import Arithmetic
from batchnorm.training.progress import Evaluation
from batchnorm.training.run import Progress, Run

FORMAT = 1
_REMEDY = "start again with --overwrite"


def pack(run: Run, *, identity: str) -> bytes:
    """The whole state of `run`: weights, statistics, optimizer, best so far, torch's random state, progress.

    Args:
        identity: of the data and settings; another run's checkpoint is told by it.
    """
    tensors = {f"network.{k}": v for k, v in run.network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in run.best.items()}
    optimizer = run.optimizer.state_dict()
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    tensors["random"] = torch.get_rng_state()
    if run.train.x.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(run.train.x.device)
    tensors["loss_sum"] = run.loss_sum
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    progress = asdict(run.progress)
    said = {"format": FORMAT, "identity": identity, "progress": progress, "loss_steps": run.loss_steps}
    text = json.dumps(said | {"arithmetic": asdict(run.formulas.arithmetic)})
    digest = _digest(tensors, text)
    return safetensors.torch.save(tensors, {"checkpoint": text, "digest": digest})


def restore(run: Run, path: Path, *, identity: str) -> None:
    """Put the checkpoint at `path` into a freshly built `run`, and its random state into torch's.

    Warns where the run goes on, but not bit by bit as it would have: by other kernels, say.

    Raises:
        CheckpointError: damaged, of another format, or of other data or settings; nothing is changed then.
    """
    tensors, state = _read(path)
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} expected checkpoint format {FORMAT}, got {state['format']}: {_REMEDY}")
    if state["identity"] != identity:
        raise CheckpointError(
            f"{path} belongs to a run with other data or settings: expected those it was started with; repeat them, or "
            f"{_REMEDY}"
        )
    if "random.cuda" in tensors and run.train.x.device.type != "cuda":
        raise CheckpointError(
            f"{path} expected the GPU that its run was started on, got {run.train.x.device}: go on there, or {_REMEDY}"
        )
    loss = run.formulas.go_on_like(Arithmetic(**state["arithmetic"])) if "arithmetic" in state else None
    if loss is not None:
        warnings.warn(
            f"{path} goes on, but its last digits will not be those of a run never stopped: {loss}", stacklevel=2
        )
    run.network.load_state_dict(_under("network.", tensors))
    run.best = {k: v.to(run.train.x.device) for k, v in _under("best.", tensors).items()}
    optimizer = run.optimizer.state_dict()
    optimizer["state"] = _optimizer_state(tensors)
    run.optimizer.load_state_dict(optimizer)
    torch.set_rng_state(tensors["random"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], run.train.x.device)
    run.loss_sum.copy_(tensors["loss_sum"])
    run.loss_steps = state["loss_steps"]
    saved = state["progress"]
    curve = [Evaluation(**point) for point in saved.pop("curve")]
    traces = [[(a, b, c) for a, b, c in layers] for layers in saved.pop("traces")]
    run.progress = Progress(**saved, curve=curve, traces=traces)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the rest of a checkpoint, once its digest fits."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied: as they come they are the file's own pages, which must be free to be replaced.
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} expected a checkpoint, got something else ({error}): {_REMEDY}") from error
    text = metadata.get("checkpoint")
    if text is None:
        raise CheckpointError(f"{path} expected a checkpoint, got tensors of something else: {_REMEDY}")
    if metadata.get("digest") != _digest(tensors, text):
        raise CheckpointError(f"{path} is damaged, its digest does not fit its content: {_REMEDY}")
    state: dict[str, Any] = json.loads(text)
    return tensors, state


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return state


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
