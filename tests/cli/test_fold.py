"""`batchnorm fold`: the same answers from a file without batch normalization."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.program import batchnorm
from tests.model_cases import model

from batchnorm.model_file import read_model_file, save
from batchnorm.predictor import Predictor
from batchnorm.predictor.folded_file import answers, folded_file, largest_difference, typical_rows


@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("regression", [False, True])
def test_folded_file_answers_alike(regression: bool, activation: str, placement: str) -> None:
    whole = model(regression=regression, activation=activation, placement=placement)
    folded = folded_file(whole)
    assert folded.network.norm is None
    assert not [name for name in folded.tensors if ".norm." in name]
    rows = typical_rows(whole)
    assert largest_difference(answers(Predictor(whole), rows), answers(Predictor(folded), rows)) <= 1e-6


def test_a_person_folds_and_predicts_with_the_new_file(house_model: Path, houses: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    answer = batchnorm("fold", house_model, "--out", out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("folded 1 batch norm layer, checked on 256 rows: largest relative difference")
    assert f"model   {out}" in answer.out
    assert batchnorm("predict", out, houses).out == batchnorm("predict", house_model, houses).out
    assert batchnorm("inspect", out).code == 0
    assert read_model_file(out).trained["folded"]


def test_a_program_gets_one_json_value(wine_model: Path, tmp_path: Path) -> None:
    answer = batchnorm("fold", wine_model, "--out", tmp_path / "f.safetensors", "--json")
    said = answer.json
    assert (said["layers"], said["rows"], said["out"]) == (1, 256, str(tmp_path / "f.safetensors"))
    assert 0 <= said["difference"] <= 1e-5
    assert json.loads(answer.out) == said


def test_the_default_name_lies_beside_the_model_and_is_not_overwritten(tmp_path: Path) -> None:
    save(model(), tmp_path / "model.safetensors")
    assert batchnorm("fold", tmp_path / "model.safetensors").code == 0
    assert (tmp_path / "model.folded.safetensors").exists()
    again = batchnorm("fold", tmp_path / "model.safetensors")
    assert again.code == 2
    assert "expected a file that is not there yet" in again.err
    assert batchnorm("fold", tmp_path / "model.safetensors", "--overwrite").code == 0
    itself = batchnorm("fold", tmp_path / "model.safetensors", "--out", tmp_path / "model.safetensors", "--overwrite")
    assert itself.code == 2
    assert "another file than the model file" in itself.err


@pytest.mark.parametrize(
    ("changes", "said"), [({"norm": None}, "no batch normalization"), ({"hidden": ()}, "no hidden")]
)
def test_what_cannot_be_folded_is_one_message(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    save(model(**changes), tmp_path / "model.safetensors")
    answer = batchnorm("fold", tmp_path / "model.safetensors")
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert not (tmp_path / "model.folded.safetensors").exists()


def test_no_model_file_is_one_message() -> None:
    answer = batchnorm("fold", "nowhere.safetensors")
    assert answer.code == 2
    assert answer.err.startswith("batchnorm: cannot use the model file 'nowhere.safetensors'")


def test_a_fold_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(), tmp_path / "model.safetensors")
    monkeypatch.setattr("batchnorm.predictor.folded_file.largest_difference", lambda *_: np.inf)
    answer = batchnorm("fold", tmp_path / "model.safetensors")
    assert answer.code == 2
    assert "nothing is written" in answer.err
    assert not (tmp_path / "model.folded.safetensors").exists()
