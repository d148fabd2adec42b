"""Changes to the structure of a user's model, verified and reversible."""

from batchnorm.surgery.bias import Dropping, drop_redundant_bias
from batchnorm.surgery.convert import convert, revert
from batchnorm.surgery.fold import fold
from batchnorm.surgery.fold_check import Measured
from batchnorm.surgery.fold_report import Folding
from batchnorm.surgery.freeze import Freezing, freeze, thaw
from batchnorm.surgery.insert import Insertion, insert
from batchnorm.surgery.record import Conversion, Entry, Reversion, Verified
from batchnorm.surgery.verify import VerificationError

__all__ = [
    "Conversion",
    "Dropping",
    "Entry",
    "Folding",
    "Freezing",
    "Insertion",
    "Measured",
    "Reversion",
    "VerificationError",
    "Verified",
    "convert",
    "drop_redundant_bias",
    "fold",
    "freeze",
    "insert",
    "revert",
    "thaw",
]
