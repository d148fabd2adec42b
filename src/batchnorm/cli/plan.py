"""From the options of `batchnorm train` to a plan: which data, which settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchnorm.cli.flags import flag_of, named_by_flags
from batchnorm.cli.memory import enough_memory
from batchnorm.errors import SettingsError, quoted

if TYPE_CHECKING:
    from batchnorm.data import Prepared
    from batchnorm.training.plan import Plan
    from batchnorm.training.settings import Settings


def plan_of(options: dict[str, Any]) -> Plan:
    """Read the data and check the settings.

    Args:
        options: the parameters of `cli.train.train`, by name; plain JSON values.

    Raises:
        SettingsError, DataError: what is wrong with the settings or the data.
    """
    if options["test_labels"] is not None and options["test"] is None:
        raise SettingsError("--test-labels expected --test, the file whose labels they are; got no --test: add it")
    with named_by_flags(), enough_memory():
        settings = settings_of(options)  # before the data, which may take a while to read
        data = _data(options)
        goal = options["goal"]
        if goal is None and data.schema.classes:
            goal = 0.95
        # Here torch is imported, which takes longer than reading most tables: what is wrong with one is said before.
        from batchnorm.training.plan import Plan

        return Plan(data, settings, compare=options["compare"], goal=goal)


def unused(given: set[str], options: dict[str, Any], plan: Plan) -> list[str]:
    """A sentence for each option that was given and has no effect; options: as of `plan_of`."""
    from batchnorm.data.source import is_text

    settings = plan.settings
    found: list[str] = []
    files = [options[name] for name in ("data", "test") if options[name] is not None]
    reasons = (
        (not settings.hidden, ("activation", "norm", "placement", "eps", "momentum", "dropout"), "no hidden layer"),
        (settings.norm is None, ("placement", "eps", "momentum"), "no normalization"),
        (settings.steps is not None, ("epochs",), "a number of steps instead (--steps)"),
        (not len(plan.data.x_valid), ("patience", "goal"), "no validation row to go by"),
        ("test" in given, ("test_fraction",), "a file of test rows (--test)"),
        (not any(map(is_text, files)), ("header", "separator"), "no text file to read"),
    )
    for holds, names, reason in reasons:
        for name in names if holds else ():
            option = flag_of(name)
            if name in given and all(not line.startswith(f"{option} ") for line in found):
                found.append(f"{option} has no effect: there is {reason}")
    return found


def settings_of(options: dict[str, Any]) -> Settings:
    """The options that are settings, checked."""
    from batchnorm.training.settings import Settings

    same = (
        *("activation", "placement", "input_norm", "divide_by", "eps", "momentum", "weight_scale", "dropout"),
        *(
            "weight_decay",
            "optimizer",
            "learning_rate",
            "batch_size",
            "epochs",
            "steps",
            "evaluate_every",
            "seed",
            "device",
        ),
    )
    if options["patience"] < 0:
        raise SettingsError(
            f"patience expected 0 (never stop early) or more, got {options['patience']}", setting="patience"
        )
    return Settings(
        hidden=hidden_sizes(options["hidden"]),
        norm=None if options["norm"] == "none" else options["norm"],
        class_weight=None if options["class_weight"] == "none" else options["class_weight"],
        patience=options["patience"] or None,
        **{name: options[name] for name in same},
    )


def _data(options: dict[str, Any]) -> Prepared:
    """The table, read and encoded."""
    from batchnorm.data import prepare

    return prepare(
        options["data"],
        target=options["target"],
        test=options["test"],
        test_fraction=options["test_fraction"],
        validation_fraction=options["validation_fraction"],
        seed=options["seed"],
        task=options["task"],
        header=options["header"],
        separator=options["separator"],
        na=options["na"] or (),
        drop=options["drop"] or (),
        categorical=options["categorical"] or (),
        labels=options["labels"],
        test_labels=options["test_labels"],
        weight=options["weight"],
    )


def hidden_sizes(text: str) -> tuple[int, ...]:
    """Read "100,100" as (100, 100), "none" and "" as ().

    >>> hidden_sizes("64, 32"), hidden_sizes("none")
    ((64, 32), ())
    """
    if text.strip().lower() in ("", "none", "0"):
        return ()
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise SettingsError(
            f"hidden expected sizes separated by commas, such as 100,100, or none; got {quoted(text)}",
            setting="hidden",
        ) from None
