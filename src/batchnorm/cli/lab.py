"""`batchnorm lab`: why batch normalization works, measured on the user's data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from batchnorm.cli.ending import INTERRUPTED
from batchnorm.cli.flags import named_by_flags
from batchnorm.cli.memory import enough_memory
from batchnorm.cli.note import note
from batchnorm.errors import DataError, OutputError, SettingsError, legible, quoted
from batchnorm.lab.experiment import Experiment
from batchnorm.lab.questions import names
from batchnorm.lab.watch import Watch

if TYPE_CHECKING:
    from batchnorm.lab.material import Material
    from batchnorm.lab.record import Record

_WIDTH = 110  # of the tables where the output is no terminal


def lab(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An experiment, all of them, or list (the default): which there are.")
    ] = "list",
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="CSV, TSV, Parquet, .npy, .npz or IDX file; or digits, wine, breast_cancer, diabetes.",
        ),
    ] = "digits",
    target: Annotated[
        str | None, typer.Option(help="Column to predict: its name or 'last'; its number with --no-header.")
    ] = None,
    task: Annotated[str, typer.Option(help="auto, classification or regression.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Labels file of an IDX or .npy file.")] = None,
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Whether the first line names the columns.")
    ] = True,
    separator: Annotated[str | None, typer.Option(help="Between cells; found out by default.")] = None,
    na: Annotated[
        list[str] | None, typer.Option(help="A text that means missing, such as '?'; may be repeated.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out; may be repeated.")] = None,
    categorical: Annotated[
        list[str] | None, typer.Option(help="A numeric column whose numbers are names; may be repeated.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many splits, weights and orders; 3 unless an experiment asks for more.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the time, cruder numbers.")] = False,
    out: Annotated[Path | None, typer.Option(help="The page; lab-NAME.html, of all lab.html, otherwise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Put the reasons given for batch normalization to the test, on digits or on your data.

    `batchnorm lab list` says which claims there are, `batchnorm lab speed` tests one, `batchnorm lab all` every one.
    Each leaves a page with its charts. Ctrl-C keeps the experiments that are finished.
    """
    if name == "list":
        _show_claims(as_json=as_json)
        return
    chosen = _chosen(name)
    page = out if out is not None else Path("lab.html" if name == "all" else f"lab-{name}.html")
    _require_room(page)
    with named_by_flags(), enough_memory():
        material = _material(
            data,
            target=target,
            task=task,
            labels=labels,
            header=header,
            separator=separator,
            na=na or (),
            drop=drop or (),
            categorical=categorical or (),
        )
        material.of(0)  # what is wrong with the data is said before the first bar
        with _Bars(quiet=quiet or as_json) as bars:
            records, missing, interrupted = _carried_out(chosen, material, bars, seeds=seeds, quick=quick)
    if not records:
        if interrupted:
            raise KeyboardInterrupt
        raise DataError("; ".join(dict.fromkeys(missing.values())))
    from batchnorm.report.lab_page import write_lab

    try:
        write_lab(records, page, missing=missing)
    except OutputError:
        _show(records, missing, None, as_json=as_json)  # minutes of work: said at least where it can be
        raise
    _show(records, missing, page, as_json=as_json)
    if interrupted:
        typer.echo(f"interrupted: {len(records)} of {len(chosen)} experiments are in {page}", err=True)
        raise typer.Exit(INTERRUPTED)


def _chosen(name: str) -> tuple[str, ...]:
    """The experiments asked for."""
    from batchnorm.data.naming import suggestion

    known = names()
    if name == "all":
        return known
    if name not in known:
        hint = suggestion(name, [*known, "all", "list"])
        raise SettingsError(
            f"there is no experiment {quoted(name)}.{hint} Expected all, list or one of {', '.join(known)}."
        )
    return (name,)


def _require_room(page: Path) -> None:
    """Raise what writing the page would, before the minutes that are spent on it."""
    folder = page.parent
    if page.exists() and not page.is_file():
        raise OutputError(f"cannot write {str(page)!r}: that is a folder or a device, not a file; choose another name")
    if not folder.is_dir():
        raise OutputError(f"cannot write {str(page)!r}: there is no folder {folder}; create it or choose another")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {str(page)!r}: nothing may be written into {folder}; choose another folder")


def _material(data: str, **options: Any) -> Material:
    from batchnorm.lab.material import Material

    return Material(data, **options)


def _carried_out(
    chosen: tuple[str, ...], material: Material, bars: _Bars, *, seeds: int | None, quick: bool
) -> tuple[list[Record], dict[str, str], bool]:
    """The records of what was finished, in order, why the others are not there, and whether that was Ctrl-C."""
    from batchnorm.lab.side_by_side import carried_out

    found: dict[str, Record | DataError] = {}
    interrupted = False
    try:
        for name, outcome in carried_out(chosen, material, seeds=seeds, quick=quick, watch=bars.watch):
            found |= {name: outcome}
    except KeyboardInterrupt:
        interrupted = True
    outcomes = [(name, found.get(name, DataError("interrupted before it was finished"))) for name in chosen]
    records = [outcome for _, outcome in outcomes if not isinstance(outcome, DataError)]
    missing = {name: str(outcome) for name, outcome in outcomes if isinstance(outcome, DataError)}
    return records, missing, interrupted


def _show_claims(*, as_json: bool) -> None:
    experiments = [Experiment(name) for name in names()]
    if as_json:
        parts = ("name", "claim", "source", "measured", "unfair")
        typer.echo(json.dumps([{part: getattr(e, part) for part in parts} for e in experiments]))
        return
    for experiment in experiments:
        typer.echo(f"{experiment.name:15s} {experiment.claim}")
    typer.echo("\nbatchnorm lab NAME runs one; its page says how it is measured, and when the comparison is unfair.")


def _show(records: list[Record], missing: dict[str, str], page: Path | None, *, as_json: bool) -> None:
    """What was found: a table of several, the sentence of each, the page."""
    from batchnorm.cli.summary import strict
    from batchnorm.report.lab_wording import asked, measured

    if as_json:
        found = {"records": [record.to_dict() for record in records], "missing": missing, "page": page and str(page)}
        typer.echo(json.dumps(strict(found)))
        return
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=_WIDTH)
    shown = Table(title=Text(f"the laboratory, on {legible(records[0].data_name)}"), title_justify="left")
    for column in ("experiment", "verdict", "measured", "asked"):
        shown.add_column(column)
    for record in records:
        head: tuple[str, str] = (record.name, record.verdict)
        for effect in record.effects:
            if effect.verdict is not None:
                shown.add_row(*head, f"{effect.what}: {measured(effect)}", asked(effect))
                head = ("", "")
    # Not printed by rich itself, which ends the process where the reader has gone: see cli.ending.
    with console.capture() as printed:
        console.print(shown)
        for record in records:
            console.print(Text(f"{record.name}: {record.finding}"))
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
    for name, why in missing.items():
        note(f"{name}: {why}")
    if page is not None:
        typer.echo(f"page    {page}")


class _Bars:
    """A bar per experiment on standard error, in cases; silent when piped."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:15s}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[verdict]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def watch(self) -> Watch:
        """The bar of one experiment, which shows once it begins."""
        return _Bar(self._progress)


class _Bar(Watch):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = TaskID(-1)
        self._cases = 0

    def began(self, name: str) -> None:
        """A bar that does not know its end yet."""
        self._task = self._progress.add_task(name, total=None, verdict="")

    def expected(self, cases: int) -> None:
        """Its end is further by so much."""
        self._cases += cases
        self._progress.update(self._task, total=self._cases)

    def advanced(self) -> None:
        """One case further."""
        self._progress.advance(self._task)

    def ended(self, verdict: str) -> None:
        """What was found beside the full bar."""
        self._progress.update(self._task, verdict=verdict)
