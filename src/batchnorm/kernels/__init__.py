"""The arithmetic of batch normalization: `spec` says what it is, `autograd` says how torch may differentiate it.

Which kernels run is said by `current`, and chosen by `use` and `using`; what memory is kept for results to come, by
`kept_memory` and `keep_memory`.
"""

from __future__ import annotations

from batchnorm.kernels.choice import current, use, using
from batchnorm.kernels.memory import keep_memory, kept_memory

__all__ = ["current", "keep_memory", "kept_memory", "use", "using"]
