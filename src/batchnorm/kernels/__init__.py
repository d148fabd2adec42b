"""The arithmetic of batch normalization: `spec` says what it is, `autograd` says how torch may differentiate it.

Which kernels run is said by `current`, and chosen by `use` and `using`.
"""

from __future__ import annotations

from batchnorm.kernels.choice import current, use, using

__all__ = ["current", "use", "using"]
