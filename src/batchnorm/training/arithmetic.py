"""What a run's last digits depend on beside its data and settings; kept with it, so that it can go on bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

from batchnorm.training.products import Library


@dataclass(frozen=True)
class Arithmetic:
    """Who computes a run's steps.

    Attributes:
        kernel: an instruction set of the compiled kernels, or "torch" for its own operations.
        products: whose products of large matrices: "native", "torch"; None before the first step.
        threads: torch's. The compiled kernels give the same bits for any number of them.
    """

    kernel: str
    products: Library | None
    threads: int

    def loss_since(self, before: Arithmetic) -> str | None:
        """Why a run begun by `before` cannot go on bit by bit; None where it can."""
        if self.kernel != before.kernel:
            name = "spec" if before.kernel == "torch" else before.kernel
            remedy = f"set BATCHNORM_KERNEL={name} to go on exactly"
            return f"its steps were computed by {before.kernel}, here by {self.kernel}: {remedy}"
        if self.threads != before.threads and "torch" in (before.kernel, before.products):
            remedy = f"set OMP_NUM_THREADS={before.threads} to go on exactly"
            return f"its products were computed by {before.threads} threads, here by {self.threads}: {remedy}"
        return None
