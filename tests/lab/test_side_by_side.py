"""Experiments in processes of their own: the same numbers, the same news, and nothing left when it is stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from batchnorm.errors import DataError
from batchnorm.lab import Experiment, Material
from batchnorm.lab.questions import bias
from batchnorm.lab.record import Record
from batchnorm.lab.side_by_side import carried_out
from batchnorm.lab.watch import Watch

QUICK = {"seeds": 1, "quick": True}


class Told(Watch):
    """Keeps what it is told."""

    def __init__(self):
        self.news = []

    def began(self, name):
        self.news.append(name)

    def expected(self, cases):
        self.news.append(cases)

    def advanced(self):
        self.news.append("case")

    def ended(self, verdict):
        self.news.append(verdict)


def test_two_processes_give_what_one_gives_and_tell_all_of_it():
    """One of the two does not suit the data, which is an answer among others."""
    watches = []

    def watch():
        watches.append(Told())
        return watches[-1]

    found = dict(carried_out(["speed", "bias"], Material("diabetes"), watch=watch, workers=2, **QUICK))
    assert isinstance(found["speed"], DataError)
    assert "expected classes to predict" in str(found["speed"])
    assert found["bias"].numbers == Experiment("bias")(Material("diabetes"), **QUICK).numbers
    told = {w.news[0]: sorted(map(str, w.news[1:])) for w in watches}
    assert told == {"speed": [], "bias": ["3", "case", "case", "case", "undecided"]}
    assert not multiprocessing.active_children()


def test_stopping_early_ends_the_processes():
    running = carried_out(["bias", "robustness"], Material("wine"), workers=2, **QUICK)
    next(running)  # which of them is first is the machine's business
    running.close()
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs processes that can be killed")
def test_killed_process_is_said_to_be_ended():
    class Killing(Told):
        def began(self, name):
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.2)

    found = dict(carried_out(["robustness", "depth"], Material("wine"), watch=Killing, workers=2, **QUICK))
    assert [str(outcome) for outcome in found.values()] == [
        "its process was ended from outside: is there memory enough?"
    ] * 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs processes that can be killed")
def test_what_had_not_begun_when_a_process_was_killed_is_carried_out():
    """Whatever was still to come was lost with it: seventeen experiments for one that had too little memory."""
    killed = []

    class KillingOnce(Told):
        def began(self, name):
            if not killed:
                killed.append(name)
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                time.sleep(0.2)

    names = ["robustness", "depth", "bias", "identity"]
    found = dict(carried_out(names, Material("wine"), watch=KillingOnce, workers=2, **QUICK))
    assert sorted(found) == sorted(names)
    assert str(found[killed[0]]) == "its process was ended from outside: is there memory enough?"
    assert isinstance(found["bias"], Record)
    assert isinstance(found["identity"], Record)


def test_one_that_fails_does_not_take_the_others_with_it(monkeypatch):
    def trip(bench):
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(bias, "measure", trip)
    found = dict(carried_out(["bias", "identity"], Material("wine"), workers=1, **QUICK))
    assert isinstance(found["identity"], Record)
    assert str(found["bias"]) == (
        "it failed on these data (ZeroDivisionError: float division by zero); batchnorm lab bias alone says where"
    )
    with pytest.raises(ZeroDivisionError):
        dict(carried_out(["bias"], Material("wine"), **QUICK))
