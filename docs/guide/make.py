"""Make the guide: `python docs/guide/make.py` fills pages and draws pictures from the kept records.

`python docs/guide/make.py measure [TOOL ...]` measures anew first: digits, seeds 0 to 4, one thread; each record says
how many seconds it took, most of them in the four processes of `sync`. What a tool's run does is said at the top of
`docs/guide/tools/TOOL.py`. Pages, pictures and records are committed; a test checks that they belong together. Drawing
wants matplotlib.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

from docs.guide import filling, kept  # noqa: E402

from batchnorm.lab.charts import Chart  # noqa: E402
from docs import drawing  # noqa: E402

TOOLS = (
    *("recalibrate", "adapt", "freeze", "fold", "insert", "redundant_bias"),
    *("renorm", "sync", "ghost", "debias", "half_life", "average"),
)
PICTURES = HERE / "pictures"


def tool(name: str) -> ModuleType:
    """The module of a tool: PAGE, measure, charts, said."""
    return importlib.import_module(f"docs.guide.tools.{name}")


def measure(names: tuple[str, ...]) -> None:
    """Carry out the runs of these tools and keep what they found."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        began = time.perf_counter()
        found = tool(name).measure()
        kept.keep(name, found, seconds=time.perf_counter() - began, torch=torch.__version__)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


def pictures() -> dict[str, Chart]:
    """Every chart of the guide, by its picture's file name."""
    drawn = {name: tool(name).charts(kept.read(name)) for name in TOOLS}
    return {f"{name}-{what}.svg": chart for name, charts in drawn.items() for what, chart in charts.items()}


def said() -> dict[str, dict[str, str]]:
    """What places of pages are filled with: tables and numbers, and every picture by the name of its chart."""
    words: dict[str, dict[str, str]] = {name: dict(tool(name).said(kept.read(name))) for name in TOOLS}
    for file, chart in pictures().items():
        name, what = file.removesuffix(".svg").split("-", 1)
        words[name][f"picture {what}"] = f"![{chart.title}](pictures/{file})\n\n*{chart.title}. {chart.reading}*"
    return words


def pages() -> dict[Path, str]:
    """Every page as the records make it, by its file."""
    words = said()
    names = sorted({tool(name).PAGE for name in TOOLS})
    return {path: filling.filled(path.read_text(encoding="utf-8"), words) for path in (HERE / f"{n}.md" for n in names)}


def main(arguments: list[str]) -> None:
    """Measure if told to, draw what is not drawn yet, fill the pages."""
    if (arguments and arguments[0] != "measure") or not set(arguments[1:]) <= set(TOOLS):
        raise SystemExit(f"expected nothing, or measure and names among {', '.join(TOOLS)}; got {' '.join(arguments)}")
    if arguments:
        measure(tuple(arguments[1:]) or TOOLS)
    drawing.draw_missing(PICTURES, pictures(), direct=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
