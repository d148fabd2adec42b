"""Model files: what is written is read back, and everything else is refused with one sentence."""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from tests.model_cases import forge, model, number_schema, same

from batchnorm.errors import ModelFileError, OutputError
from batchnorm.model_file import ModelFile, read_model_file, write_model_file
from batchnorm.model_file.header import MAX_HEADER


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model_file(path, model())
    return path


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("changes", [{}, {"norm": None}, {"hidden": ()}, {"input_norm": False, "placement": "after"}])
def test_model_file_written_and_read_is_the_same(tmp_path: Path, changes: dict[str, Any], regression: bool) -> None:
    path = tmp_path / "model.safetensors"
    written = model(regression=regression, **changes)
    write_model_file(path, written)
    assert same(read_model_file(path), written)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_model_file_of_the_same_model_has_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for number in range(5):
        write_model_file(tmp_path / str(number), model())
        contents.add((tmp_path / str(number)).read_bytes())
    assert len(contents) == 1


def test_model_file_is_a_safetensors_file_that_any_reader_of_them_opens(good: Path) -> None:
    loaded = safetensors.numpy.load_file(good)
    assert {name: array.tobytes() for name, array in loaded.items()} == {
        name: array.tobytes() for name, array in model().tensors.items()
    }


def test_model_file_tensors_in_any_memory_layout_are_read_back(tmp_path: Path) -> None:
    plain = model()
    tensors = {name: np.asfortranarray(array) if array.ndim > 1 else array for name, array in plain.tensors.items()}
    tensors["head.bias"] = np.repeat(tensors["head.bias"], 2)[::2]
    tensors["layers.0.norm.bias"] = tensors["layers.0.norm.bias"].astype(">f4")
    write_model_file(tmp_path / "m", ModelFile(tensors, plain.network, plain.schema, plain.trained))
    assert same(read_model_file(tmp_path / "m"), plain)


def test_model_file_tensors_read_back_may_be_written_to(good: Path) -> None:
    assert all(array.flags.writeable for array in read_model_file(good).tensors.values())


def test_model_file_header_spaced_and_ordered_otherwise_reads_the_same(good: Path) -> None:
    def rewrite(header: dict[str, Any]) -> str:
        about = json.loads(header["__metadata__"]["batchnorm"])
        header["__metadata__"]["batchnorm"] = json.dumps(dict(reversed(about.items())), indent=3)
        return json.dumps(dict(reversed(header.items())), indent=1)

    edit_header(good, rewrite)
    assert same(read_model_file(good), model())


def test_model_file_of_impossible_parts_cannot_be_built() -> None:
    good = model()
    with pytest.raises(ModelFileError, match="the network expected 5 features, the schema makes 4"):
        ModelFile(good.tensors, good.network, number_schema(4, good.schema.target), {})
    with pytest.raises(ModelFileError, match="'price' expected 1 outputs, got 3"):
        ModelFile(good.tensors, good.network, model(regression=True).schema, {})
    with pytest.raises(ModelFileError, match=r"the tensor 'head\.bias' is missing"):
        ModelFile({k: v for k, v in good.tensors.items() if k != "head.bias"}, good.network, good.schema, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, np.float32(1), b"text"])
def test_model_file_with_training_notes_that_are_no_json_is_not_written(tmp_path: Path, value: object) -> None:
    good = model()
    with pytest.raises(ModelFileError, match="record of the training expected JSON values"):
        write_model_file(tmp_path / "m", ModelFile(good.tensors, good.network, good.schema, {"note": value}))
    assert list(tmp_path.iterdir()) == []


def test_model_file_with_too_large_a_header_is_not_written(tmp_path: Path) -> None:
    good = model()
    with pytest.raises(ModelFileError, match="at most 33,554,432 can be read back"):
        write_model_file(tmp_path / "m", ModelFile(good.tensors, good.network, good.schema, {"note": "a" * MAX_HEADER}))


def test_model_file_written_to_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*missing/m': No such file"):
        write_model_file(tmp_path / "missing" / "m", model())


def test_model_file_that_outgrows_the_disk_keeps_the_last_good_model(good: Path) -> None:
    code = f"""
        import resource
        from batchnorm.errors import OutputError
        from batchnorm.model_file import ModelFile, read_model_file, write_model_file
        model = read_model_file({str(good)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        try:
            write_model_file({str(good)!r}, model)
        except OutputError as error:
            print(error)
    """
    answer = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60)
    assert "File too large; the last good file is still there" in answer.stdout
    assert same(read_model_file(good), model())


# ---- what is refused: altered on the way ----


def test_model_file_with_any_bit_of_its_tensors_flipped_is_refused(good: Path) -> None:
    """safetensors alone loads a flipped bit in silence."""
    data = good.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for position in range(start, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        good.write_bytes(changed)
        safetensors.numpy.load_file(good)
        refused(good, "it was altered after it was written")


def test_model_file_cut_anywhere_is_refused(good: Path) -> None:
    data = good.read_bytes()
    for length in {*range(0, len(data), 97), 1, 7, 8, 9, len(data) - 1}:
        good.write_bytes(data[:length])
        refused(good, "it is cut short|it is empty")


def test_model_file_with_bytes_after_its_end_is_refused(good: Path) -> None:
    with good.open("ab") as file:
        file.write(b"\0")
    refused(good, "it is too long: expected")


def test_model_file_with_numbers_or_words_changed_in_its_notes_is_refused(good: Path) -> None:
    for old, new in [(b"0.975", b"0.999"), (b"class 0", b"class 9"), (b"relu", b"tanh"), (b"1e-05", b"1e-04")]:
        data = good.read_bytes()
        assert old in data
        changed = good.with_name("changed")
        changed.write_bytes(data.replace(old, new))
        refused(changed, "it was altered after it was written")


def test_model_file_with_two_tensors_exchanged_is_refused(good: Path) -> None:
    def rewrite(header: dict[str, Any]) -> str:
        gamma, beta = "layers.0.norm.weight", "layers.0.norm.bias"
        return json.dumps(header | {gamma: header[beta], beta: header[gamma]})

    edit_header(good, rewrite)
    refused(good, "it was altered after it was written")


# ---- what is refused: never was a model file ----


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"{", "it is cut short"),
        (b"a,b\n1,2\n" * 20, "it is not a safetensors file"),
        (bytes(1000), "it is not a safetensors file"),
        (b"\xff" * 8 + b"{" + bytes(100), "it is cut short: its header alone claims 18,446,744,073,709,551,615 bytes"),
        (b"\x02" + bytes(7) + b"{}", "a safetensors file of something else"),
        (b"\x02" + bytes(7) + b"{\xff", "its header is damaged"),
        (b"\x0f" + bytes(7) + b'{"a":1, "a": 2}', "names 'a' twice"),
        (b"\x09" + bytes(7) + b'{"a":NaN}', "holds NaN, which is not a JSON value"),
    ],
)
def test_model_file_of_other_content_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "m").write_bytes(content)
    refused(tmp_path / "m", reason)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"batchnorm": "{}"}, {"batchnorm": "[]"}])
def test_model_file_of_another_safetensors_program_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    safetensors.numpy.save_file({"fc.weight": np.ones((2, 2), np.float32)}, tmp_path / "m", metadata)
    refused(tmp_path / "m", "a safetensors file of something else, not a batchnorm model")


def test_model_file_that_is_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(marker),)

    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Bomb()))
    torch.save({"weight": torch.ones(3), "bomb": Bomb()}, tmp_path / "m.pt")
    refused(tmp_path / "m.pkl", "not a safetensors file and was not opened any further")
    refused(tmp_path / "m.pt", "not a safetensors file and was not opened any further")
    assert not marker.exists()


def test_model_file_of_a_newer_format_asks_for_an_upgrade(good: Path) -> None:
    def rewrite(header: dict[str, Any]) -> str:
        about = json.loads(header["__metadata__"]["batchnorm"])
        header["__metadata__"]["batchnorm"] = json.dumps({**about, "format_version": 2, "unheard": "of"})
        return json.dumps(header)

    edit_header(good, rewrite)
    refused(good, "it has format 2, newer than the format 1 known here: upgrade batchnorm$")


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None])
def test_model_file_of_an_impossible_format_is_refused(good: Path, version: object) -> None:
    def rewrite(header: dict[str, Any]) -> str:
        about = json.loads(header["__metadata__"]["batchnorm"])
        header["__metadata__"]["batchnorm"] = json.dumps({**about, "format_version": version})
        return json.dumps(header)

    edit_header(good, rewrite)
    refused(good, "its metadata is incomplete or damaged")


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900])
def test_model_file_nested_deeply_is_refused(good: Path, deep: str) -> None:
    data = good.read_bytes()
    edit_header(good, lambda header: f'{{"__metadata__":{deep}')
    refused(good, "nested too deeply|header is damaged")
    good.write_bytes(data)
    edit_header(good, lambda header: json.dumps(header | {"__metadata__": {"batchnorm": deep}}))
    refused(good, "nested too deeply|header is damaged|something else")


def test_model_file_with_a_key_twice_in_its_notes_is_refused(good: Path) -> None:
    def rewrite(header: dict[str, Any]) -> str:
        text = header["__metadata__"]["batchnorm"]
        header["__metadata__"]["batchnorm"] = text.replace('"eps":1e-05', '"eps":1e-05,"eps":1e-05')
        return json.dumps(header)

    edit_header(good, rewrite)
    refused(good, "its header names 'eps' twice")


# ---- what is refused: forged, the checksum fits ----

NAN, NEGATIVE = np.full(7, np.nan, np.float32), np.array([1, 1, -1e-9, 1, 1, 1, 1], np.float32)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"layers.0.norm.running_var": NEGATIVE}, "'layers.0.norm.running_var' holds a negative variance"),
        ({"layers.0.norm.running_var": NAN}, "'layers.0.norm.running_var' holds values that are not finite"),
        ({"layers.0.norm.running_mean": NAN}, "'layers.0.norm.running_mean' holds values that are not finite"),
        ({"layers.0.norm.running_var": NAN * 0 + np.inf}, "not finite"),
        ({"head.weight": np.full((3, 4), -np.inf, np.float32)}, "'head.weight' holds values that are not finite"),
        ({"input_norm.std": np.array([1.0, 0, -1, 1, 1])}, "'input_norm.std' holds a negative standard deviation"),
        ({"input_norm.mean": np.full(5, np.nan)}, "'input_norm.mean' holds values that are not finite"),
        ({"layers.0.norm.num_batches_tracked": np.array(-1)}, "holds a negative count"),
        ({"head.bias": None}, "'head.bias' is missing"),
        ({"surprise": np.ones(3, np.float32)}, "'surprise' does not belong to such a network"),
        ({"target.mean": np.array(0.0), "target.std": np.array(1.0)}, "'target.mean' does not belong"),
        ({"head.weight": np.ones((4, 3), np.float32)}, r"'head.weight' expected shape \(3, 4\), got \(4, 3\)"),
        ({"head.weight": np.ones((3, 4), np.float16)}, "'head.weight' expected dtype float32 or float64, got 'F16'"),
        ({"head.weight": np.ones((3, 4), np.int64)}, "'head.weight' expected dtype float32 or float64, got 'int64'"),
        ({"head.bias": np.ones((), np.float32)}, r"'head.bias' expected shape \(3,\), got \(\)"),
    ],
)
def test_model_file_with_impossible_tensors_is_refused(tmp_path: Path, tensors: dict[str, Any], reason: str) -> None:
    forge(tmp_path / "m", model())
    assert same(read_model_file(tmp_path / "m"), model())
    refused(forge(tmp_path / "m", model(), tensors=tensors), reason)


def test_model_file_with_a_standard_deviation_of_zero_is_read_as_a_constant_feature(tmp_path: Path) -> None:
    path = forge(tmp_path / "m", model(), tensors={"input_norm.std": np.array([1.0, 0, 1, 1, 1])})
    assert read_model_file(path).tensors["input_norm.std"][1] == 0


NETWORK, SCHEMA = model().network.to_dict(), model().schema.to_dict()


@pytest.mark.parametrize(
    "about",
    [
        {"network": {**NETWORK, "hidden": [2**60, 2**60]}},
        {"network": {**NETWORK, "hidden": [1] * 100_000}},
        {"network": {**NETWORK, "inputs": -5}},
        {"network": {**NETWORK, "activation": "__import__('os').system('true')"}},
        {"network": {**NETWORK, "eps": 0}},
        {"network": {**NETWORK, "eps": -1e-5}},
        {"network": {**NETWORK, "eps": 10**400}},
        {"network": {**NETWORK, "norm": None}},
        {"network": {**NETWORK, "more": 1}},
        {"network": []},
        {"network": None},
        {"trained": []},
        {"schema": None},
        {"schema": []},
        {"schema": {}},
        {"schema": {**SCHEMA, "columns": 3}},
        {"schema": {**SCHEMA, "columns": [3]}},
        {"schema": {**SCHEMA, "columns": SCHEMA["columns"][:-1]}},
        {"schema": {**SCHEMA, "columns": [{**SCHEMA["columns"][0], "name": 5}, *SCHEMA["columns"][1:]]}},
        {"schema": {**SCHEMA, "columns": [{**SCHEMA["columns"][0], "kind": ["number"]}, *SCHEMA["columns"][1:]]}},
        {"schema": {**SCHEMA, "columns": [SCHEMA["columns"][0]] * 5}},
        {"schema": {**SCHEMA, "target": {**SCHEMA["target"], "classes": ["a", "b"]}}},
        {"schema": {**SCHEMA, "target": {**SCHEMA["target"], "classes": ["a", [], {}]}}},
        {"schema": {**SCHEMA, "target": None}},
        {"schema": {**SCHEMA, "header": "yes"}},
        {"more": 1},
    ],
)
def test_model_file_with_impossible_notes_is_refused(tmp_path: Path, about: dict[str, Any]) -> None:
    refused(forge(tmp_path / "m", model(), about=about))


def test_model_file_that_claims_a_vast_network_is_refused_without_taking_memory(tmp_path: Path) -> None:
    """A file of holes, 4 GiB long, with a header to match: nothing of it is read when its size does not fit."""
    path = forge(tmp_path / "m", model())
    os.truncate(path, 2**32)
    refused_within(path, "it is too long", 2**29)


def test_model_file_with_a_header_of_gigabytes_is_refused_without_taking_memory(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes((2**31).to_bytes(8, "little") + b"{")
    os.truncate(path, 2**32)
    refused_within(path, "its header claims 2,147,483,648 bytes, at most 33,554,432 are read", 2**29)


def test_model_file_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    large = model(hidden=(2**12, 2**12))  # 64 MiB
    write_model_file(tmp_path / "m", large)
    refused_within(tmp_path / "m", "it does not fit in this machine's memory", 2**25)


# ---- what is refused: no file ----


def test_model_file_that_is_a_folder_or_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path, "it is a folder or a device, not a file")
    refused(tmp_path / "pipe", "it is a folder or a device, not a file")
    refused(Path("/dev/zero"), "it is a folder or a device, not a file")


def test_model_file_that_is_missing_or_has_an_impossible_name_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "No such file or directory: check the path")
    refused(tmp_path / "a\0b", "no file can have this name")
    refused(tmp_path / ("a" * 300), "File name too long")


@pytest.fixture
def everyones_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_model_file_without_permission_is_refused(everyones_folder: Path) -> None:
    path = everyones_folder / "m"
    write_model_file(path, model())
    path.chmod(0)
    root = os.geteuid() == 0  # whom permissions do not bind
    if root:
        os.seteuid(65534)
    try:
        refused(path, "Permission denied: check the path and its permissions")
    finally:
        if root:
            os.seteuid(0)
    assert stat.S_IMODE(path.stat().st_mode) == 0


def test_model_file_import_loads_no_torch_nor_anything_heavy() -> None:
    code = "import sys, batchnorm.model_file; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "polars", "sklearn", "scipy", "pandas", "plotly"} & set(loaded)


def refused(path: Path, reason: str = "cannot use the model file") -> None:
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_model_file(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))


def refused_within(path: Path, reason: str, memory: int) -> None:
    """Refused by a process that may take so many bytes beyond what it has at its start."""
    code = f"""
        import resource
        from batchnorm.errors import ModelFileError
        from batchnorm.model_file import read_model_file
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + {memory},) * 2)
        try:
            read_model_file({str(path)!r})
        except ModelFileError as error:
            print(error)
    """
    if sys.platform != "linux":
        pytest.skip("needs Linux to limit a process's memory")
    answer = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60)
    assert reason in answer.stdout, answer.stderr


def edit_header(path: Path, rewrite: Callable[[dict[str, Any]], str]) -> None:
    """Replace the header of a safetensors file, keeping what follows it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = rewrite(json.loads(data[8 : 8 + length])).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
