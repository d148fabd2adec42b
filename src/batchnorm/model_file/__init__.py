"""Model files: a trained network in one safe .safetensors file, no pickle and no code."""

from __future__ import annotations

from batchnorm.model_file.model_file import FORMAT_VERSION, ModelFile, read_model_file, save, write_model_file
from batchnorm.model_file.spec import NetworkSpec

__all__ = ["FORMAT_VERSION", "ModelFile", "NetworkSpec", "read_model_file", "save", "write_model_file"]
