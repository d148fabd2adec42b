"""The law of model files: whatever is done to one, it is refused with our error or still means exactly the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.model_cases import forge, model, same

from batchnorm.errors import ModelFileError
from batchnorm.model_file import ModelFile, read_model_file, write_model_file
from batchnorm.predictor import Predictor

MODELS = [
    model(1),
    model(2, regression=True, placement="after"),
    model(3, norm=None, activation="tanh"),
    model(4, hidden=(), input_norm=False),
]


def flip_a_bit(data: bytearray, chance: Random) -> bytearray:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def flip_a_bit_of_the_header(data: bytearray, chance: Random) -> bytearray:
    data[chance.randrange(header_end(data))] ^= 1 << chance.randrange(8)
    return data


def flip_many_bits(data: bytearray, chance: Random) -> bytearray:
    for _ in range(chance.randrange(2, 200)):
        flip_a_bit(data, chance)
    return data


def truncate(data: bytearray, chance: Random) -> bytearray:
    return data[: chance.randrange(len(data))]


def insert(data: bytearray, chance: Random) -> bytearray:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.randrange(1, 64)) + data[at:]


def delete(data: bytearray, chance: Random) -> bytearray:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randrange(1, 64) :]


def swap_blocks(data: bytearray, chance: Random) -> bytearray:
    size = chance.choice([1, 4, 8, 32])
    a, b = sorted(chance.sample(range(0, len(data) - size, size), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


def repeat_a_block(data: bytearray, chance: Random) -> bytearray:
    at = chance.randrange(len(data))
    return data[:at] + data[at : at + 64] + data[at:]


def clear_a_block(data: bytearray, chance: Random) -> bytearray:
    at = chance.randrange(len(data))
    end = min(at + chance.randrange(1, 64), len(data))
    data[at:end] = bytes(end - at)
    return data


def edit_the_length(data: bytearray, chance: Random) -> bytearray:
    length = chance.choice([chance.getrandbits(64), chance.randrange(len(data)), header_end(data) - 8 + 1, 0])
    data[:8] = length.to_bytes(8, "little")
    return data


def edit_the_header(data: bytearray, chance: Random) -> bytearray:
    """Change one value anywhere in the header, and let its length fit."""
    header = json.loads(data[8 : header_end(data)])
    about = json.loads(header["__metadata__"]["batchnorm"])
    change_something(chance.choice([header, about]), chance)
    if isinstance(header.get("__metadata__"), dict) and "batchnorm" in header["__metadata__"] and chance.random() < 0.5:
        header["__metadata__"]["batchnorm"] = json.dumps(about)
    return with_header(data, json.dumps(header))


def edit_the_text_of_the_header(data: bytearray, chance: Random) -> bytearray:
    """Change, remove or repeat a few characters of the header, and let its length fit."""
    text = data[8 : header_end(data)].decode()
    at = chance.randrange(len(text))
    new = chance.choice(["", " ", "0", "-", "9", "null", '"', "\\", "[", "}", ",", text[at : at + 5] * 2, "\u00e9"])
    return with_header(data, text[:at] + new + text[at + chance.randrange(3) :])


def space_the_header_otherwise(data: bytearray, chance: Random) -> bytearray:
    """Changes nothing that has a meaning."""
    header = json.loads(data[8 : header_end(data)])
    about = json.loads(header["__metadata__"]["batchnorm"])
    if chance.random() < 0.5:
        header["__metadata__"]["batchnorm"] = json.dumps(shuffled(about, chance), indent=chance.choice([None, 0, 2]))
    text = json.dumps(shuffled(header, chance), indent=chance.choice([None, 1, 4]))
    return with_header(data, text + " " * chance.randrange(30))


MUTATIONS: list[Callable[[bytearray, Random], bytearray]] = [
    flip_a_bit,
    flip_a_bit_of_the_header,
    flip_many_bits,
    truncate,
    insert,
    delete,
    swap_blocks,
    repeat_a_block,
    clear_a_block,
    edit_the_length,
    edit_the_header,
    edit_the_text_of_the_header,
    space_the_header_otherwise,
]


def test_model_file_mutants_are_refused_or_read_the_same(tmp_path: Path) -> None:
    check_mutants(tmp_path / "m", 65)


@pytest.mark.long
def test_model_file_many_mutants_are_refused_or_read_the_same(tmp_path: Path) -> None:
    check_mutants(tmp_path / "m", 520)


@pytest.mark.long
def test_model_file_with_any_one_bit_flipped_is_refused_or_reads_the_same(tmp_path: Path) -> None:
    """Every bit of a small file, the header's included."""
    small = model(5, inputs=1, hidden=(1,), outputs=2)
    path = tmp_path / "m"
    write_model_file(path, small)
    data = path.read_bytes()
    read = 0
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        read += reads_the_same(path, small, f"bit {bit}")
    assert read < 0.001 * 8 * len(data)


@pytest.mark.parametrize("seed", range(4))
def test_model_file_forged_with_odd_notes_is_refused_or_predicts(tmp_path: Path, seed: int) -> None:
    """The checksum fits, one value of the notes does not: never another error than ours."""
    chance = Random(seed)
    refused = 0
    for _ in range(40):
        base = chance.choice(MODELS)
        about = {"network": base.network.to_dict(), "schema": base.schema.to_dict(), "trained": dict(base.trained)}
        change_something(about[chance.choice(["network", "schema"])], chance)
        try:
            Predictor(read_model_file(forge(tmp_path / "m", base, about=about))).predict([[0.5] * 5])
        except ModelFileError:
            refused += 1
    assert refused >= 10


def check_mutants(path: Path, count: int) -> None:
    read = 0
    for number in range(count):
        chance = Random(number)
        original, mutation = MODELS[number % len(MODELS)], MUTATIONS[number % len(MUTATIONS)]
        write_model_file(path, original)
        data = path.read_bytes()
        path.write_bytes(mutation(bytearray(data), chance))
        unchanged = reads_the_same(path, original, f"{mutation.__name__} {number}")
        assert unchanged or mutation is not space_the_header_otherwise, f"number {number} was refused"
        read += unchanged
    assert read >= count // len(MUTATIONS)
    assert read <= count // 4


def reads_the_same(path: Path, original: ModelFile, case: str) -> bool:
    """Whether a file reads, as `original` then; False where it is refused as it should be."""
    try:
        found = read_model_file(path)
    except ModelFileError as error:
        message = str(error)
    else:
        assert same(found, original), case
        return True
    assert message.startswith(f"cannot use the model file {str(path)!r}: "), case
    assert "\n" not in message, case
    return False


def change_something(values: Any, chance: Random) -> None:
    """Replace, remove, rename or add one value somewhere in nested JSON values."""
    while True:
        keys: list[Any] = list(values) if isinstance(values, dict) else list(range(len(values)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(values[key], dict | list) or not values[key] or chance.random() < 0.2:
            break
        values = values[key]
    match chance.randrange(4):
        case 0:
            del values[key]
        case 1 if isinstance(values, dict):
            values[f"{key}x"] = values.pop(key)
        case 2 if isinstance(values, dict):
            values["extra"] = values[key]
        case _:
            odd = [None, -1, 0, 3, 1e300, 10**30, True, "", "odd", [], [[]], {}, {"a": 1}, [3], ["a", "a"]]
            values[key] = chance.choice(odd)


def shuffled(values: dict[str, Any], chance: Random) -> dict[str, Any]:
    keys = list(values)
    chance.shuffle(keys)
    return {key: values[key] for key in keys}


def header_end(data: bytearray) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def with_header(data: bytearray, header: str) -> bytearray:
    encoded = header.encode()
    return bytearray(len(encoded).to_bytes(8, "little")) + encoded + data[header_end(data) :]
