"""Who answers the accuracy benchmark: batchnorm, torch, and Keras and flax where they are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.accuracy_cases import EPS, Array, Question, as_array

from batchnorm.functional import batch_norm

Answer = Callable[[Question], Array]


def rivals() -> dict[str, Answer]:
    """Those that can be imported here, by name and version."""
    import batchnorm

    found: dict[str, Answer] = {f"batchnorm {batchnorm.__version__}": _ours, f"torch {torch.__version__}": _torch}
    if importlib.util.find_spec("flax") and importlib.util.find_spec("jax"):
        import jax

        jax.config.update("jax_enable_x64", True)
        found[f"flax {importlib.metadata.version('flax')}"] = _flax
        if importlib.util.find_spec("keras"):
            found[f"keras {importlib.metadata.version('keras')}"] = _keras
    return found


def _ours(q: Question) -> Array:
    mean, variance = (s.clone() for s in q.running)
    return as_array(batch_norm(q.x, mean, variance, q.gamma, q.beta, training=q.training, eps=EPS))


def _torch(q: Question) -> Array:
    mean, variance = (s.clone() for s in q.running)
    return as_array(F.batch_norm(q.x, mean, variance, q.gamma, q.beta, training=q.training, eps=EPS))


def _flax(q: Question) -> Array:
    import flax.linen
    import jax.numpy as jnp

    x, axis = _for_jax(q)
    own = jnp.float64 if q.dtype == "float64" else jnp.float32
    layer = flax.linen.BatchNorm(
        use_running_average=not q.training, axis=axis, epsilon=EPS, dtype=x.dtype, param_dtype=own
    )
    gamma, beta, mean, variance = (jnp.asarray(t.numpy()) for t in (q.gamma, q.beta, *q.running))
    variables = {"params": {"scale": gamma, "bias": beta}, "batch_stats": {"mean": mean, "var": variance}}
    y, _ = layer.apply(variables, x, mutable=["batch_stats"])
    return _channels_second(np.asarray(y.astype(jnp.float64)), axis)


def _keras(q: Question) -> Array:
    import os

    os.environ["KERAS_BACKEND"] = "jax"
    import jax.numpy as jnp
    import keras

    x, axis = _for_jax(q)
    layer = keras.layers.BatchNormalization(axis=axis, epsilon=EPS, dtype=_keras_dtype(q.dtype))
    layer.build(x.shape)
    layer.set_weights([t.numpy() for t in (q.gamma, q.beta, *q.running)])
    y = layer(x, training=q.training)
    return _channels_second(np.asarray(jnp.asarray(y).astype(jnp.float64)), axis)


def _keras_dtype(dtype: str) -> str:
    return {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}.get(dtype, dtype)


def _for_jax(q: Question):
    """x as an array of jax, with its channels where its memory has them, and their axis."""
    import jax.numpy as jnp

    dtype = {"bfloat16": jnp.bfloat16, "float16": jnp.float16, "float32": jnp.float32}.get(q.dtype, jnp.float64)
    last = q.layout.endswith("channels-last")
    x = q.x.movedim(1, -1) if last else q.x
    return jnp.asarray(x.double().numpy(), dtype), -1 if last else 1


def _channels_second(y: np.ndarray, axis: int) -> Array:
    return np.moveaxis(y, axis, 1)
