"""`batchnorm export`: other programs answer as `predict` does."""

from __future__ import annotations

import builtins
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.cli.program import batchnorm
from tests.model_cases import model

from batchnorm.cli.exported import check, written_as
from batchnorm.model_file import save
from batchnorm.model_file.spec import ACTIVATIONS
from batchnorm.predictor import Predictor
from batchnorm.predictor.folded_file import answers, typical_rows


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("placement", "ending"), [("before", ".onnx"), ("after", ".onnx"), ("before", ".pt2")])
def test_each_network_answers_alike(placement: str, ending: str, activation: str) -> None:
    predictor = Predictor(model(activation=activation, placement=placement))
    checked = check(ending, written_as(ending, predictor.model_file), predictor)
    assert checked.rows == 256
    assert checked.difference is not None
    assert checked.difference <= 1e-6


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    "changes",
    [{"regression": True}, {"hidden": ()}, {"norm": None}, {"input_norm": False}, {"inputs": 1, "outputs": 2}],
    ids=str,
)
def test_networks_of_any_shape(changes: dict[str, Any], ending: str) -> None:
    predictor = Predictor(model(**changes))
    checked = check(ending, written_as(ending, predictor.model_file), predictor)
    assert checked.difference is not None
    assert checked.difference <= 1e-6


def test_a_person_exports_and_onnxruntime_answers(house_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "houses.onnx"
    answer = batchnorm("export", house_model, "--out", out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("checked on 256 rows, each alone and all at once: largest relative difference")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    from batchnorm import load

    predictor = load(house_model)
    rows = typical_rows(predictor.model_file, 7)
    (got,) = session.run(None, {"features": rows})
    np.testing.assert_allclose(got, answers(predictor, rows), rtol=1e-5)
    about = {p.key: json.loads(p.value) for p in onnx.load(out).metadata_props}
    assert about["features"] == list(predictor.schema.feature_names)
    assert (about["target"], about["classes"]) == ("price", [])


def test_torch_export_takes_any_number_of_rows(wine_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "wine.pt2"
    assert batchnorm("export", wine_model, "--out", out).code == 0
    module = torch.export.load(io.BytesIO(out.read_bytes())).module()
    for count in (1, 2, 100):
        assert module(torch.zeros(count, 13, dtype=torch.float64)).shape == (count, 3)


def test_a_program_gets_one_json_value(wine_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "wine.onnx"
    said = batchnorm("export", wine_model, "--out", out, "--json").json
    assert (said["format"], said["rows"], said["bytes"]) == ("onnx", 256, out.stat().st_size)
    assert len(said["features"]) == 13
    assert 0 <= said["difference"] <= 1e-5


def test_another_ending_or_a_file_that_is_there_is_one_message(wine_model: Path, tmp_path: Path) -> None:
    answer = batchnorm("export", wine_model, "--out", tmp_path / "wine.txt")
    assert answer.code == 2
    assert "a name that ends in .onnx or .pt2" in answer.err
    (tmp_path / "wine.onnx").write_bytes(b"mine")
    assert batchnorm("export", wine_model, "--out", tmp_path / "wine.onnx").code == 2
    assert (tmp_path / "wine.onnx").read_bytes() == b"mine"


def without(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let importing these packages fail, as where they are not installed."""
    original = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] in names:
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_without_onnx_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(), tmp_path / "model.safetensors")
    without(("onnx",), monkeypatch)
    answer = batchnorm("export", tmp_path / "model.safetensors")
    assert answer.code == 2
    assert "pip install onnx onnxruntime, or write a torch.export program with --out NAME.pt2" in answer.err


def test_without_onnxruntime_it_says_that_nothing_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(), tmp_path / "model.safetensors")
    without(("onnxruntime",), monkeypatch)
    answer = batchnorm("export", tmp_path / "model.safetensors")
    assert answer.code == 0
    assert answer.out.startswith("not checked: onnxruntime is not installed")


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(), tmp_path / "model.safetensors")
    monkeypatch.setattr("batchnorm.cli.exported.largest_difference", lambda *_: np.inf)
    answer = batchnorm("export", tmp_path / "model.safetensors")
    assert answer.code == 2
    assert "nothing is written" in answer.err
    assert not (tmp_path / "model.onnx").exists()
