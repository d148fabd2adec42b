"""Changes to the structure of a user's model, verified and reversible."""

from batchnorm.surgery.convert import convert, revert
from batchnorm.surgery.record import Conversion, Entry, Reversion, Verified
from batchnorm.surgery.verify import VerificationError

__all__ = ["Conversion", "Entry", "Reversion", "VerificationError", "Verified", "convert", "revert"]
