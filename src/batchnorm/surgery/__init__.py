"""Changes to the structure of a user's model, verified and reversible."""

from batchnorm.surgery.convert import convert, revert
from batchnorm.surgery.freeze import Freezing, freeze, thaw
from batchnorm.surgery.record import Conversion, Entry, Reversion, Verified
from batchnorm.surgery.verify import VerificationError

__all__ = [
    "Conversion",
    "Entry",
    "Freezing",
    "Reversion",
    "VerificationError",
    "Verified",
    "convert",
    "freeze",
    "revert",
    "thaw",
]
