"""Make the course: `python docs/theory/make.py` from the kept records, `... measure [NAME ...]` to measure anew first.

Pages, pictures and records are committed; a test checks that they belong together. Measuring takes about ten minutes
for all; drawing wants matplotlib. Pictures that are drawn already are left as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

from docs.theory import filling, kept  # noqa: E402
from docs.theory.course import PAGES  # noqa: E402

from batchnorm.lab.charts import Chart  # noqa: E402
from docs import drawing  # noqa: E402

PICTURES = HERE / "pictures"


def measure(names: tuple[str, ...]) -> None:
    """Carry out experiments on the digits and keep their records."""
    from batchnorm.lab import Experiment

    for name in names:
        record = Experiment(name)("digits")
        kept.keep(record)
        print(f"{name}: {record.verdict}, {record.seconds:.0f} s")


def pages() -> dict[Path, str]:
    """Every page that can be made of the kept records, by its file."""
    records = [kept.read(name) for name in PAGES if name in kept.there()]
    made = {HERE / f"{record.name}.md": filling.page(record.name, record) for record in records}
    return made | {HERE / "README.md": filling.index(records)}


def pictures() -> dict[Path, Chart]:
    """Every chart that a page shows, by its picture's file."""
    records = [kept.read(name) for name in PAGES if name in kept.there()]
    return {PICTURES / file: chart for r in records for file, chart in filling.pictured(r.name, r).items()}


def main(arguments: list[str]) -> None:
    """Measure if told to, draw what is not drawn yet, write the pages."""
    if (arguments and arguments[0] != "measure") or not set(arguments[1:]) <= set(PAGES):
        raise SystemExit(f"expected nothing, or measure and names among {', '.join(PAGES)}; got {' '.join(arguments)}")
    if arguments:
        measure(tuple(arguments[1:]) or PAGES)
    drawing.draw_missing(PICTURES, {path.name: chart for path, chart in pictures().items()})
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
