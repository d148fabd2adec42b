"""The course's pictures are drawn as the guide's are: `docs/drawing.py`."""

from docs.drawing import CARD, digest, draw_missing, svg

__all__ = ["CARD", "digest", "draw_missing", "svg"]
