"""Changes to the structure of a user's model, verified and reversible."""

from batchnorm.surgery.convert import convert, revert
from batchnorm.surgery.fold import fold
from batchnorm.surgery.fold_check import Measured
from batchnorm.surgery.fold_report import Folding
from batchnorm.surgery.freeze import Freezing, freeze, thaw
from batchnorm.surgery.record import Conversion, Entry, Reversion, Verified
from batchnorm.surgery.verify import VerificationError

__all__ = [
    "Conversion",
    "Entry",
    "Folding",
    "Freezing",
    "Measured",
    "Reversion",
    "VerificationError",
    "Verified",
    "convert",
    "fold",
    "freeze",
    "revert",
    "thaw",
]
