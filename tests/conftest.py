"""For all tests: one thread each."""

import os

# Many small tensors on few busy cores: torch's threads would wait for each other, ten times as long as they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
