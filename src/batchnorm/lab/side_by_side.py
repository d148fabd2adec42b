"""Several experiments at once, each in a process of its own.

They share nothing, so that each gives what it gives alone; only the seconds it takes are others.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from typing import Any

from batchnorm.errors import BatchnormError, DataError, legible
from batchnorm.lab.experiment import Experiment
from batchnorm.lab.material import Material
from batchnorm.lab.record import Record
from batchnorm.lab.watch import Watch

MOST = 4
"""Processes: each holds torch and the data."""

_SAID = 200  # characters of what another library says of its failure
_PATIENCE = 0.1  # seconds between two looks at whether it is over
_told: Any = None  # in a worker: the queue to whoever watches
_material: Material | None = None  # in a worker


def carried_out(
    names: Sequence[str],
    material: Material,
    *,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    watch: Callable[[], Watch] = Watch,
    workers: int | None = None,
) -> Iterator[tuple[str, Record | DataError]]:
    """Each experiment's name and record as soon as it is finished; a DataError where it does not suit the data.

    Of several, one that fails for any other reason is such a DataError too: the others are not to be lost by it.

    Args:
        names, material, seeds, quick: as of `Experiment`.
        watch: makes the watch of one experiment.
        workers: processes; None: as many as there are processors, at most 4. One, or one name, stays in this process.

    Raises:
        SettingsError: no such seeds.
    """
    workers = min(workers or min(MOST, _processors()), len(names))
    if workers <= 1:
        tried = _kept_apart if len(names) > 1 else _tried
        for name in names:
            yield name, tried(name, material, seeds, quick, watch())
        return
    left = list(names)
    while left:
        broken, begun = [], set[str]()
        with closing(_round(left, material, seeds, quick, watch, workers, begun)) as outcomes:
            for name, outcome in outcomes:
                if isinstance(outcome, BrokenProcessPool):
                    broken.append(name)
                else:
                    yield name, outcome
        # A process that is killed takes its pool along, with what had not begun: that gets another pool.
        left = [name for name in broken if name not in begun]
        lost = begun if len(left) < len(broken) else set(broken)
        for name in broken:
            if name in lost:
                yield name, DataError("its process was ended from outside: is there memory enough?")
        left = [name for name in left if name not in lost]


def _round(
    names: Sequence[str],
    material: Material,
    seeds: int | Sequence[int] | None,
    quick: bool,
    watch: Callable[[], Watch],
    workers: int,
    begun: set[str],
) -> Generator[tuple[str, Record | DataError | BrokenProcessPool]]:
    """One pool of processes, until all is done or one of them is killed; begun: gets the names of what had begun."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    told = context.Queue()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(told, material))
    try:
        with _deaf():
            futures = {pool.submit(_in_worker, name, seeds, quick): name for name in names}
        with _heard(told, watch, begun):
            for future in as_completed(futures):
                name, outcome = futures[future], _outcome(future)
                if isinstance(outcome, Record):
                    told.put((name, "ended", (outcome.verdict,)))
                yield name, outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
            child.join()


def _tried(
    name: str, material: Material, seeds: int | Sequence[int] | None, quick: bool, watch: Watch
) -> Record | DataError:
    try:
        return Experiment(name)(material, seeds=seeds, quick=quick, watch=watch)
    except DataError as error:
        return error


def _kept_apart(
    name: str, material: Material, seeds: int | Sequence[int] | None, quick: bool, watch: Watch
) -> Record | DataError:
    try:
        return _tried(name, material, seeds, quick, watch)
    except BatchnormError:
        raise
    except Exception as error:
        said = legible(f"{type(error).__name__}: {error}", most=_SAID)
        return DataError(f"it failed on these data ({said}); batchnorm lab {name} alone says where")


def _processors() -> int:
    """Those that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcome(future: Future[Record | DataError]) -> Record | DataError | BrokenProcessPool:
    try:
        return future.result()
    except BrokenProcessPool as error:
        return error


def _begin(told: Any, material: Material) -> None:
    """A worker begins: what it tells goes to `told`, what it works on is `material`."""
    global _told, _material
    _told, _material = told, material


def _in_worker(name: str, seeds: int | Sequence[int] | None, quick: bool) -> Record | DataError:
    assert _material is not None
    return _kept_apart(name, _material, seeds, quick, _Teller(name))


class _Teller(Watch):
    """Tells another process what it is told."""

    def __init__(self, name: str) -> None:
        self._name = name

    def began(self, name: str) -> None:
        """As Watch."""
        _told.put((self._name, "began", (name,)))

    def expected(self, cases: int) -> None:
        """As Watch."""
        _told.put((self._name, "expected", (cases,)))

    def advanced(self) -> None:
        """As Watch."""
        _told.put((self._name, "advanced", ()))

    # It has ended when the other process has its record, which says so then: what is shown as finished is kept.


@contextmanager
def _heard(told: Any, watch: Callable[[], Watch], begun: set[str]) -> Iterator[None]:
    """Within, what the workers tell reaches a watch of each experiment, and its name `begun`."""
    over = threading.Event()

    def hear() -> None:
        watches: dict[str, Watch] = {}
        while True:
            try:
                name, what, values = told.get(timeout=_PATIENCE)
            except queue.Empty:
                if over.is_set():
                    return
                continue
            begun.add(name)
            if name not in watches:
                watches[name] = watch()
            getattr(watches[name], what)(*values)

    # A daemon: a worker that is ended amid a message must not keep this process waiting for its rest.
    hearer = threading.Thread(target=hear, daemon=True)
    hearer.start()
    try:
        yield
    finally:
        over.set()
        hearer.join(timeout=10 * _PATIENCE)


@contextmanager
def _deaf() -> Iterator[None]:
    """Within, Ctrl-C is not heard; processes that are started here never hear it: whoever started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
