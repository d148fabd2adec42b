"""`batchnorm demo`: the paper's network on real scanned digits, with and without, on raw and on normalized inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from batchnorm.cli.folder import RunFolder
from batchnorm.cli.plan import plan_of
from batchnorm.cli.summary import outcome, single_lines, table

if TYPE_CHECKING:
    from batchnorm.training.record import Run

_STEPS = 500
_WIDTH = 110  # of the table where the output is no terminal


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the two runs.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(help="Training steps of each network.")] = _STEPS,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the order.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Show what batch normalization buys: Ioffe and Szegedy's network on 1797 real scanned digits.

    Three hidden layers of 100 sigmoids, plain gradient descent, trained four times: with and without batch
    normalization, on pixels as they are (divided by 16) and on inputs normalized by the training rows.
    """
    from batchnorm.cli.train import INTERRUPTED, carry_out

    shown = []
    for name, title, inputs in (
        ("raw", "raw pixels", {"input_norm": False, "divide_by": 16.0}),
        ("normalized", "normalized inputs", {"input_norm": True, "divide_by": None}),
    ):
        options = _OPTIONS | inputs | {"steps": steps, "seed": seed}
        folder = RunFolder(out / name)
        plan = plan_of(options)
        with folder.held():
            folder.begin(options, overwrite=True)
            finished = carry_out(plan, folder, keep_every=5.0, quiet=quiet or as_json)
        if finished is None:
            typer.echo("demo stopped", err=True)
            raise typer.Exit(INTERRUPTED)
        shown.append((title, folder, finished.record))
    if as_json:
        typer.echo(json.dumps({title: outcome(record, folder) for title, folder, record in shown}))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(table([(title, record) for title, _, record in shown]))
    console.print(_what_it_shows(*(record.runs for _, _, record in shown)), markup=False)
    first = shown[0]
    for line in single_lines(first[2]):
        typer.echo(line)
    typer.echo(f"model   {first[1].model}")
    for _, folder, _ in shown:
        typer.echo(f"report  {folder.report}")
    typer.echo(f"try     batchnorm inspect {first[1].model}")


_OPTIONS = {
    "data": "digits",
    "target": None,
    "task": "auto",
    "test": None,
    "labels": None,
    "test_labels": None,
    "weight": None,
    "header": True,
    "separator": None,
    "na": None,
    "drop": None,
    "categorical": None,
    "test_fraction": 0.2,
    "validation_fraction": 0.1,
    "hidden": "100,100,100",
    "activation": "sigmoid",
    "norm": "batch",
    "placement": "before",
    "eps": 1e-5,
    "momentum": 0.1,
    "weight_scale": 0.1,
    "dropout": 0.0,
    "optimizer": "gd",
    "learning_rate": 0.5,
    "batch_size": 60,
    "epochs": 100,
    "patience": 0,
    "evaluate_every": 10,
    "weight_decay": 0.0,
    "class_weight": "none",
    "device": "cpu",
    "compare": True,
    "goal": 0.95,
}


def _what_it_shows(raw: tuple[Run, ...], normalized: tuple[Run, ...]) -> str:
    """The two gaps in words, in whichever direction they came out."""
    gaps = [runs[0].test_metric - runs[1].test_metric for runs in (raw, normalized)]
    first = (
        f"On raw pixels the same network reaches {raw[0].test_metric:.1%} with batch normalization, "
        f"{raw[1].test_metric:.1%} without."
    )
    second = (
        f"With the inputs normalized it is {normalized[0].test_metric:.1%} against {normalized[1].test_metric:.1%}: "
        f"a gap of {gaps[1] * 100:.1f} points instead of {gaps[0] * 100:.1f}."
    )
    closes = gaps[1] < gaps[0] / 2
    moral = f"Normalizing the inputs alone {'closes most of it' if closes else 'does not close it'}."
    return f"{first}\n{second} {moral}"
