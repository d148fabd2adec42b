"""`batchnorm recalibrate`: the statistics of all rows, at the weights of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.program import batchnorm, tensors_of
from tests.model_cases import model

from batchnorm.cli.recalibrated import recalibrated
from batchnorm.data import read_features
from batchnorm.model_file import read_model_file, save


@pytest.mark.parametrize("placement", ["before", "after"])
def test_statistics_become_those_of_all_rows(placement: str) -> None:
    """By hand for the first layer, in float64."""
    whole = model(placement=placement, activation="tanh")
    rows = np.random.default_rng(1).normal(size=(300, 5))
    done = recalibrated(whole, rows, batch_size=32, sequential=False)
    tensors = {name: array.astype(np.float64) for name, array in whole.tensors.items()}
    x = (rows - tensors["input_norm.mean"]) / tensors["input_norm.std"]
    z = x @ tensors["layers.0.linear.weight"].T
    z = np.tanh(z) if placement == "after" else z
    new = done.model_file.tensors
    np.testing.assert_allclose(new["layers.0.norm.running_mean"], z.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["layers.0.norm.running_var"], z.var(0), rtol=1e-4)
    kept = [name for name in new if ".running_" not in name]
    assert all(np.array_equal(new[name], whole.tensors[name]) for name in kept)
    assert [layer.name for layer in done.record.layers] == ["layers.0.norm", "layers.1.norm"]
    assert done.model_file.trained["recalibrated"] == {"rows": 300, "batches": 10}


def test_rows_count_as_often_as_they_are_said_to() -> None:
    rows = np.random.default_rng(1).normal(size=(40, 5))
    counts = np.arange(40) % 3
    weighted = recalibrated(model(), rows, counts, batch_size=256, sequential=False).model_file.tensors
    repeated = recalibrated(model(), np.repeat(rows, counts, 0), batch_size=256, sequential=False).model_file.tensors
    for name in weighted:
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=1e-5, atol=1e-6)


def test_a_column_of_weights(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    lines = ["a,b,n,y", *(f"{i * 7 % 11},{i * 5 % 13},{i % 3},{'pq'[i % 2]}" for i in range(60))]
    table.write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    settings = ("--target", "y", "--weight", "n", "--hidden", "8", "--epochs", "1", "--out", run)
    assert batchnorm("train", table, *settings).code == 0
    found = []
    for options in (("--weight", "n"), ()):
        out = tmp_path / f"{len(options)}.safetensors"
        answer = batchnorm("recalibrate", run / "model.safetensors", table, *options, "--out", out)
        assert (answer.code, "ignored" in answer.err) == (0, False)
        found.append(read_model_file(out).tensors["layers.0.norm.running_var"])
    assert not np.allclose(*found, rtol=1e-3)
    for column, text in (("m", "--weight"), ("a", "is a feature and cannot be --weight"), ("y", "got texts")):
        answer = batchnorm("recalibrate", run / "model.safetensors", table, "--weight", column, "--out", tmp_path / "x")
        assert answer.code == 2
        assert text in answer.err


def test_sequential_feeds_layers_with_the_new_statistics() -> None:
    rows = np.random.default_rng(1).normal(size=(300, 5))
    found = [recalibrated(model(), rows, batch_size=4, sequential=way).model_file.tensors for way in (False, True)]
    first, second = (tensors["layers.1.norm.running_var"] for tensors in found)
    assert not np.allclose(first, second, rtol=1e-3)


def test_a_person_recalibrates_and_predicts(house_model: Path, houses: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    before = house_model.read_bytes()
    answer = batchnorm("recalibrate", house_model, houses, "--out", out)
    assert answer.code == 0
    assert answer.out.startswith("recalibrated 1 layer on 1 batch (population); old to new, in standard errors:")
    assert f"model   {out}" in answer.out
    assert house_model.read_bytes() == before
    assert batchnorm("predict", out, houses).code == 0
    rows = read_features(str(houses), read_model_file(out).schema).x
    assert len(rows) == 120


def test_built_in_data_and_json(wine_model: Path, tmp_path: Path) -> None:
    said = batchnorm("recalibrate", wine_model, "wine", "--out", tmp_path / "w.safetensors", "--json").json
    assert (said["rows"], said["batches"]) == (178, 1)
    assert [layer["layer"] for layer in said["layers"]] == ["layers.0.norm"]
    assert said["layers"][0]["distance"] > 0
    again = batchnorm("recalibrate", tmp_path / "w.safetensors", "wine", "--out", tmp_path / "v.safetensors", "--json")
    assert again.json["layers"][0]["distance"] < 1e-3  # nothing is left to correct


def test_the_default_name_lies_beside_the_model(wine_model: Path, tmp_path: Path) -> None:
    save(read_model_file(wine_model), tmp_path / "m.safetensors")
    assert batchnorm("recalibrate", tmp_path / "m.safetensors", "wine").code == 0
    assert (
        tensors_of(wine_model.parent).keys() == read_model_file(tmp_path / "m.recalibrated.safetensors").tensors.keys()
    )
    assert batchnorm("recalibrate", tmp_path / "m.safetensors", "wine").code == 2
    assert batchnorm("recalibrate", tmp_path / "m.safetensors", "wine", "--overwrite").code == 0


def test_bad_input_is_one_message_and_writes_nothing(wine_model: Path, tmp_path: Path) -> None:
    save(model(norm=None), tmp_path / "plain.safetensors")
    one = tmp_path / "one.csv"
    lines = batchnorm("predict", wine_model, "wine")
    assert lines.code == 0
    names = read_model_file(wine_model).schema.feature_names
    one.write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    out = tmp_path / "out.safetensors"
    for arguments, said in (
        ((tmp_path / "plain.safetensors", one), "columns"),
        ((wine_model, one), "at least two rows, got 1"),
        ((wine_model, "wine", "--batch-size", "1"), "--batch-size expected 2 or more, got 1"),
        ((wine_model, tmp_path / "nowhere.csv"), "nowhere.csv"),
    ):
        answer = batchnorm("recalibrate", *arguments, "--out", out)
        assert (answer.code, answer.out) == (2, ""), arguments
        assert said in answer.err
        assert not out.exists()


def test_a_network_without_layers_is_refused() -> None:
    from batchnorm.errors import ModelFileError

    with pytest.raises(ModelFileError, match="expected a network with batch norm layers, got one without"):
        recalibrated(model(norm=None), np.zeros((4, 5)), batch_size=2, sequential=False)
