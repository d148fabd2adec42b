"""The same step in JAX: batch statistics, running statistics, cross-entropy, plain descent, in one jit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPS, MOMENTUM = 1e-5, 0.1


def jax_steps(
    x: np.ndarray, y: np.ndarray, sizes: tuple[int, ...], batch: int, steps: int, *, rate: float
) -> Callable[[], None]:
    """A function that takes `steps` steps and waits for the last. sizes: inputs, hidden layers, outputs."""
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.standard_normal((i, o)) * np.sqrt(2 / i), jnp.float32) for i, o in pairwise(sizes)]
    norms = [(jnp.ones(o), jnp.zeros(o)) for o in sizes[1:-1]]
    state: dict[str, Any] = {
        "parameters": (weights, norms, jnp.zeros(sizes[-1])),
        "running": [(jnp.zeros(o), jnp.ones(o)) for o in sizes[1:-1]],
    }
    rows, labels = jnp.asarray(x), jnp.asarray(y)

    def loss_of(parameters: Any, running: Any, a: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
        weights, norms, bias = parameters
        moved = []
        for w, (gamma, beta), (mean, var) in zip(weights[:-1], norms, running, strict=True):
            z = a @ w
            mu, sigma2 = z.mean(0), z.var(0)
            moved.append((mean + MOMENTUM * (mu - mean), var + MOMENTUM * (sigma2 * batch / (batch - 1) - var)))
            a = jax.nn.relu((z - mu) * jax.lax.rsqrt(sigma2 + EPS) * gamma + beta)
        log_p = jax.nn.log_softmax(a @ weights[-1] + bias)
        return -jnp.take_along_axis(log_p, targets[:, None], 1).mean(), moved

    def step(state: dict[str, Any], rows: jax.Array, labels: jax.Array, order: jax.Array, start: int) -> dict[str, Any]:
        chosen = jax.lax.dynamic_slice(order, (start,), (batch,))
        gradient = jax.grad(loss_of, has_aux=True)
        by, moved = gradient(state["parameters"], state["running"], rows[chosen], labels[chosen])
        changed = jax.tree.map(lambda p, g: p - rate * g, state["parameters"], by)
        return {"parameters": changed, "running": moved}

    compiled = jax.jit(step, donate_argnums=0)

    def run() -> None:
        nonlocal state
        order = jnp.asarray(np.random.default_rng(0).permutation(len(x)))
        for number in range(steps):
            state = compiled(state, rows, labels, order, number * batch % (len(x) - batch))
        jax.block_until_ready(state)

    return run
