"""Releases understand each other: what an earlier one wrote is read as it was meant, and it can read what we write."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from producer.scheduling.model_pinning import usable
from tasks.protocol.messages import LEAST_VERSION, MESSAGE_VERSION, WRITTEN_VERSION, ModelRef, pack, unpack
from tests.release_forms import EXAMPLES, FOLDER

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
RELEASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
FORM_OF = {name: form for name, (_, form) in EXAMPLES.items()}


def without_defaults(read: Any, told: Any) -> Any:
    """Of what was read, what was told: a field that came later has its default."""
    if isinstance(told, dict):
        return {name: without_defaults(read[name], value) for name, value in told.items()}
    if isinstance(told, list):
        return [without_defaults(*pair) for pair in zip(read, told, strict=True)]
    return read


def test_there_is_a_release_before_or_the_present_one() -> None:
    assert RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_release_wrote_is_read_as_it_was_meant(release: str) -> None:
    for name, example in RELEASES[release]["written"].items():
        read = unpack(bytes.fromhex(example["hex"]), FORM_OF[name])
        assert without_defaults(json.loads(msgspec.json.encode(read)), example["means"]) == example["means"], name


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_reads_what_is_written_here(release: str) -> None:
    for value, form in EXAMPLES.values():
        schema = RELEASES[release]["read"].get(getattr(form, "__name__", "Answer"))
        if schema is not None:  # a form that came later is nothing that a release reads
            jsonschema.validate(json.loads(msgspec.json.encode(value)), schema)


@pytest.mark.parametrize(("name", "value", "form"), [(name, *example) for name, example in EXAMPLES.items()])
def test_a_later_release_may_tell_more_of_anything(name: str, value: msgspec.Struct, form: Any) -> None:
    assert unpack(msgspec.msgpack.encode(with_more(value)), form) == value


def with_more(value: Any) -> Any:
    """The same in plain values, with a field more, or an element at the end, of each form in it."""
    if isinstance(value, list | tuple):
        return [with_more(one) for one in value]
    if isinstance(value, dict):  # by names that people give, in which each means something
        return {name: with_more(one) for name, one in value.items()}
    if not isinstance(value, msgspec.Struct):
        return value
    config, fields = value.__struct_config__, value.__struct_fields__
    values = {name: with_more(getattr(value, name)) for name in fields}
    more = [1, {"x": None}]
    if config.array_like:
        return [*values.values(), more]
    return values | ({config.tag_field: config.tag} if config.tag else {}) | {"of_a_later_release": more}


def test_what_a_schema_requires_is_missed() -> None:
    example, schema = RELEASES[min(RELEASES)]["written"]["chunk, inline"]["means"], min(RELEASES)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**example, "index": -1}, RELEASES[schema]["read"]["ChunkMessage"])
    del example["models"]
    with pytest.raises(jsonschema.ValidationError, match="'models' is a required property"):
        jsonschema.validate(example, RELEASES[schema]["read"]["ChunkMessage"])


def test_versions_are_in_order_and_slots_that_understand_what_is_written_are_used() -> None:
    assert LEAST_VERSION <= WRITTEN_VERSION <= MESSAGE_VERSION
    assert MESSAGE_VERSION - LEAST_VERSION <= 1, "the release before, and no more"
    slot, _ = EXAMPLES["slot"]
    (model,) = slot.models  # type: ignore[attr-defined]
    for version, used in ((WRITTEN_VERSION - 1, 0), (WRITTEN_VERSION, 1), (WRITTEN_VERSION + 1, 1)):
        one: Any = msgspec.structs.replace(slot, message_version=version)
        assert len(usable([one], [ModelRef(model.name, model.digest)])) == used


def test_a_release_s_version_is_the_newest_of_the_changelog() -> None:
    heads = re.findall(r"^## (\S+)(?: \((.*)\))?$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [number for number, _ in heads]
    assert versions[0] == PROJECT["version"]
    assert len(set(versions)) == len(versions)
    for number, when in heads:
        assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", number)
        assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", when), number


def test_examples_are_packed_as_they_travel() -> None:
    assert all(unpack(pack(value), form) == value for value, form in EXAMPLES.values())
