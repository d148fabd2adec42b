"""`batchnorm train`: a table in; a model, a report and a summary out."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.flags import flag_of
from batchnorm.cli.folder import RunFolder, fresh
from batchnorm.cli.memory import enough_memory
from batchnorm.cli.note import note
from batchnorm.cli.plan import plan_of, unused
from batchnorm.cli.progress import Bars
from batchnorm.cli.summary import say_finished, show, strict, what_diverged
from batchnorm.errors import CheckpointError, OutputError, SettingsError

if TYPE_CHECKING:
    from batchnorm.training.experiment import Finished
    from batchnorm.training.plan import Plan

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_ABOUT_THE_RUN = ("out", "resume", "overwrite", "checkpoint_every", "as_json", "quiet")  # not what is computed
_FILES = ("data", "test", "labels", "test_labels")


def _option(panel: str, help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


_data = partial(_option, "Data")
_network = partial(_option, "Network")
_training = partial(_option, "Training")
_run = partial(_option, "Run")


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="CSV, TSV, Parquet, .npy, .npz or IDX file; or digits, wine, breast_cancer, diabetes.",
        ),
    ] = "digits",
    target: Annotated[str | None, _data("Column to predict: its name or 'last'; its number with --no-header.")] = None,
    task: Annotated[str, _data("auto, classification or regression.")] = "auto",
    test: Annotated[str | None, _data("File of test rows; otherwise some rows are held out.")] = None,
    labels: Annotated[str | None, _data("Labels file of an IDX or .npy file.")] = None,
    test_labels: Annotated[str | None, _data("Labels file of --test.")] = None,
    header: Annotated[bool, _data("Whether the first line names the columns.", "--header/--no-header")] = True,
    separator: Annotated[str | None, _data("Between cells; found out by default.")] = None,
    na: Annotated[list[str] | None, _data("A text that means missing, such as '?'; may be repeated.")] = None,
    drop: Annotated[list[str] | None, _data("A column to leave out; may be repeated.")] = None,
    categorical: Annotated[
        list[str] | None, _data("A numeric column whose numbers are names; may be repeated.")
    ] = None,
    weight: Annotated[str | None, _data("Column that says how often each row counts.")] = None,
    test_fraction: Annotated[float, _data("Share of rows held out for testing.")] = 0.2,
    validation_fraction: Annotated[float, _data("Share of the other rows to stop early on.")] = 0.1,
    hidden: Annotated[
        str, _network("Neurons per hidden layer, comma separated; none: no hidden layer.")
    ] = "100,100,100",
    activation: Annotated[str, _network("relu, leaky_relu, sigmoid, tanh, gelu or silu.")] = "relu",
    norm: Annotated[str, _network("batch, or none: the same network without (and with biases).")] = "batch",
    placement: Annotated[str, _network("Normalize before or after the activation.")] = "before",
    input_norm: Annotated[
        bool, _network("Normalize the inputs by the training rows' statistics.", "--input-norm/--no-input-norm")
    ] = True,
    divide_by: Annotated[float | None, _network("With --no-input-norm: divide the inputs by this.")] = None,
    eps: Annotated[float, _network("Added to the variance, inside the root.")] = 1e-5,
    momentum: Annotated[float, _network("Weight of the new batch in the running statistics.")] = 0.1,
    weight_scale: Annotated[
        float | None, _network("Standard deviation of the initial weights; by layer size otherwise.")
    ] = None,
    dropout: Annotated[float, _network("Share of each hidden layer's outputs dropped in training.")] = 0.0,
    optimizer: Annotated[str, _training("gd (plain gradient descent), momentum, rmsprop or adam.")] = "adam",
    learning_rate: Annotated[float | None, _training("The optimizer's usual one otherwise.")] = None,
    batch_size: Annotated[int, _training("Rows per step.")] = 64,
    epochs: Annotated[int, _training("Passes over the training rows, at most.")] = 100,
    steps: Annotated[int | None, _training("Steps, at most, instead of --epochs.")] = None,
    patience: Annotated[int, _training("Stop after so many evaluations without improvement; 0: never.")] = 20,
    evaluate_every: Annotated[int | None, _training("Steps between evaluations; an epoch otherwise.")] = None,
    weight_decay: Annotated[float, _training("On weights, never on gamma, beta or biases.")] = 0.0,
    class_weight: Annotated[str, _training("none, or balanced: each class weighs the same.")] = "none",
    seed: Annotated[int, _training("Of the split, the weights, the order and dropout.")] = 0,
    device: Annotated[str, _training("auto, cpu, cuda, ...")] = "auto",
    compare: Annotated[bool, _run("Also train the same network without normalization.", "--compare")] = False,
    goal: Annotated[float | None, _run("Count the steps to this validation metric; 0.95 in classification.")] = None,
    out: Annotated[Path | None, _run("Folder for model, report and checkpoints; runs/DATA otherwise.")] = None,
    resume: Annotated[bool, _run("Go on with the run in --out; other options come from there.", "--resume")] = False,
    overwrite: Annotated[bool, _run("Replace the run in --out.", "--overwrite")] = False,
    checkpoint_every: Annotated[float, _run("Seconds between checkpoints.")] = 5.0,
    as_json: Annotated[bool, _run("Print the result as JSON.", "--json")] = False,
    quiet: Annotated[bool, _run("No progress bars.", "--quiet")] = False,
) -> None:
    """Train a batch-normalized network on a table.

    Writes `model.safetensors` and `report.html` into the run's folder. Ctrl-C keeps what is done; `--resume` goes on
    as if nothing had happened.
    """
    if resume and (out is None or overwrite):
        wrong = "--overwrite beside it" if overwrite else "no --out"
        raise SettingsError(f"--resume expected the folder of the run to go on with, --out runs/NAME; got {wrong}")
    if not checkpoint_every >= 0:
        raise SettingsError(f"--checkpoint-every expected seconds >= 0, got {checkpoint_every}")
    folder = RunFolder(out if out is not None else fresh(data))
    options = _plain({k: v for k, v in context.params.items() if k not in _ABOUT_THE_RUN})
    given = {k for k in options if _is_given(context, k)}
    if resume and (folder.is_begun or "data" not in given):
        options = _as_started(options, given, folder)
        if folder.is_finished:
            say_finished(folder, as_json=as_json)
            return
        plan, begin = plan_of(options), folder.go_on
    else:
        if resume:
            note(f"{folder.path} holds no run to go on with: this one begins")
        plan = plan_of(options)  # what is wrong with data or settings is said before a folder is made
        begin = partial(folder.begin, options, overwrite=overwrite)
    with folder.held():
        begin()
        for line in (*unused(given, options, plan), *plan.data.notes):
            note(line)
        finished = carry_out(plan, folder, keep_every=checkpoint_every, quiet=quiet or as_json)
    if finished is None:
        typer.echo(
            f"stopped and kept; go on with: batchnorm train --resume --out {shlex.quote(str(folder.path))}", err=True
        )
        raise typer.Exit(INTERRUPTED)
    show(finished.record, folder, as_json=as_json)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def carry_out(plan: Plan, folder: RunFolder, *, keep_every: float, quiet: bool) -> Finished | None:
    """Train, keep checkpoints in `folder`, and leave model, report and record there; None after Ctrl-C."""
    from batchnorm import report
    from batchnorm.model_file import write_model_file
    from batchnorm.training.experiment import perform

    metric_name = "accuracy" if plan.task == "classification" else "R2"
    try:
        with Bars(metric_name, quiet=quiet) as bars, _until_interrupted() as interrupted, enough_memory():
            finished = perform(
                plan,
                checkpoints=folder.checkpoints,
                observe=bars.observer,
                should_stop=lambda: bool(interrupted),
                keep_every=keep_every,
            )
        if finished is not None:
            write_model_file(folder.model, finished.model_file)
            report.write(finished.record, folder.report)
            folder.finish(strict(finished.record.to_dict()))
    except OutputError as error:
        raise OutputError(f"{error}{folder.how_to_go_on()}") from error
    for run in finished.record.runs if finished is not None else ():
        if run.ended == "diverged":
            note(f"{run.label}: {what_diverged(run)}")
    return finished


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options as options.json gives them back; files by their whole paths, for a --resume from another folder."""
    plain: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    return plain | {k: _whole_path(plain[k]) for k in _FILES if plain[k] is not None}


def _whole_path(name: str) -> str:
    from batchnorm.data import BUILTIN

    try:
        is_file = name not in BUILTIN and Path(name).exists()
    except OSError:  # what reads it will say why
        is_file = False
    # A link keeps its own name, which says the format: what it points to may be called anything.
    return str(Path(name).absolute()) if is_file else name


def _as_started(options: dict[str, Any], given: set[str], folder: RunFolder) -> dict[str, Any]:
    """The options of the run in `folder`; those given again must be the same."""
    started = folder.read_options()
    if set(started) != set(options):
        raise CheckpointError(f"{folder.options} expected the options of this version: start again with --overwrite")
    for name in sorted(given):
        if options[name] != started[name]:
            raise SettingsError(
                f"{flag_of(name)} expected what the run in {folder.path} was started with, {started[name]}; got "
                f"{options[name]}: leave it out to resume, or start another run"
            )
    return started


@contextmanager
def _until_interrupted() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C; the second Ctrl-C interrupts at once."""
    seen: list[int] = []

    def remember(number: int, frame: object) -> None:
        del frame
        seen.append(number)
        if len(seen) == 1:
            typer.echo("finishing this batch ... (Ctrl-C again to stop at once)", err=True)
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread hears signals
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
