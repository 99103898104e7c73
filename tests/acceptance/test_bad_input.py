"""Whatever a user gets wrong ends with a named exit code and one line that says what, where, and what to do."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from tests.acceptance.commands import Celeriac
from tests.ports import free_port
from tests.systems import RedisServer, System
from worker_config.broker import redacted
from worker_config.errors import ExitCode

ROWS = 12
RIGHT, WRONG = "right-pass/word", "wrong-pass@word"
Make = Callable[[Path], object]


@pytest.fixture
def celeriac(celeriac: Celeriac) -> Celeriac:
    np.save(celeriac.folder / "rows.npy", digits_rows())
    return celeriac


@pytest.fixture
def unused(special_models: Path) -> Path:
    """A manifest whose one model, `broken`, ends every worker: who is told something else started no worker."""
    return special_models / "broken.toml"


@dataclass
class PasswordRedis(RedisServer):
    """A server that asks for a password."""

    options: tuple[str, ...] = ("--requirepass", RIGHT)
    secured: bool = False

    def __post_init__(self) -> None:
        self.address = self.url_with(RIGHT)

    def url_with(self, password: str) -> str:
        return f"unix://:{quote(password, safe='')}@{self.folder}/redis.sock"


def digits_rows(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(3).random((rows, 64), np.float32)


def pair_rows(rows: int = ROWS) -> dict[str, np.ndarray]:
    left = np.random.default_rng(4).random((rows, 4), np.float32)
    return {"left": left, "right": np.arange(3 * rows, dtype=np.int32).reshape(rows, 3) % 10}


def check_says(line: str, *words: object) -> None:
    for word in words:
        assert str(word) in line


# --- the data set ---------------------------------------------------------------------------------------------------


def write_nothing(path: Path) -> None:
    path.touch()


def write_cut_short(path: Path) -> None:
    np.save(path, digits_rows())
    path.write_bytes(path.read_bytes()[:-100])


def write_cut_in_the_header(path: Path) -> None:
    np.save(path, digits_rows())
    path.write_bytes(path.read_bytes()[:20])


def write_pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def write_text(path: Path) -> None:
    path.write_text("1.0, 2.0, 3.0\n")


def write_one_value(path: Path) -> None:
    np.save(path, np.float32(1))


def write_times(path: Path) -> None:
    np.save(path, np.zeros((3, 64), "M8[s]"))


def write_zip_cut_short(path: Path) -> None:
    np.savez(path, **pair_rows())
    path.write_bytes(path.read_bytes()[:-30])


def write_zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("left.npy", "hello")


def write_empty_zip(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


def write_unequal_lengths(path: Path) -> None:
    np.savez(path, left=np.zeros((3, 4), np.float32), right=np.zeros((2, 3), np.int32))


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("none.npy", None, ["no such file", "check the path"]),
        ("folder.npy", Path.mkdir, ["has no files in it"]),
        ("empty.npy", write_nothing, ["empty", "0 bytes", "np.save"]),
        ("short.npy", write_cut_short, ["cut short", "of 3200", "copy or write it again"]),
        ("header.npy", write_cut_in_the_header, ["damaged or cut short", "copy or write it again"]),
        ("pickle.npy", write_pickle, ["pickled", "numeric or string array"]),
        ("rows.txt", write_text, [".txt", "save as .npy, .npz"]),
        ("rows", write_text, ["(none)", "save as .npy, .npz"]),
        ("text.npy", write_text, ["is not a NumPy array", "np.save"]),
        ("value.npy", write_one_value, ["one value, not rows", "first axis"]),
        ("times.npy", write_times, ["datetime64", "convert it to numbers"]),
        ("short.npz", write_zip_cut_short, ["damaged or cut short", "copy or write it again"]),
        ("text.npz", write_text, ["damaged or cut short", "zip"]),
        ("member.npz", write_zip_of_text, ["'left'", "is not a NumPy array"]),
        ("empty.npz", write_empty_zip, ["holds no arrays"]),
        ("unequal.npz", write_unequal_lengths, ["same number of rows", "'left' has 3", "'right' has 2"]),
    ],
)
def test_a_file_that_is_no_data_set_is_refused_before_a_worker_is_started(
    celeriac: Celeriac, unused: Path, name: str, make: Make | None, words: list[str]
) -> None:
    if make:
        make(celeriac.folder / name)
    line = celeriac.refuses(ExitCode.INPUT, "predict", "broken", name, "-o", "out.npz", "--models", unused)
    check_says(line, name, *words)


def test_a_device_is_not_read_as_a_data_set(celeriac: Celeriac, unused: Path) -> None:
    os.mkfifo(celeriac.folder.parent / "pipe.npy")
    line = celeriac.refuses(ExitCode.INPUT, "predict", "broken", "../pipe.npy", "-o", "out.npy", "--models", unused)
    check_says(line, "pipe.npy", "not a regular file", "copy")


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("digits", np.zeros((5, 63), np.float32), ["pixels (?, 64) float32", "(63)"]),
        ("digits", np.zeros((5, 8, 8), np.float32), ["pixels (?, 64) float32", "(8, 8)"]),
        ("digits", np.zeros(5, np.float32), ["pixels (?, 64) float32", "()"]),
        ("digits", np.zeros((0, 63), np.float32), ["pixels (?, 64) float32", "(63)"]),
        ("digits", np.full((5, 64), "seven"), ["pixels (?, 64) float32", "does not convert"]),
        ("digits", np.zeros((5, 64), np.complex64), ["pixels (?, 64) float32", "complex64", "does not convert"]),
        ("digits", pair_rows(), ["'pixels'", "'left', 'right'"]),
        ("pair", pair_rows() | {"right": np.zeros((ROWS, 3), np.float32)}, ["right (?, 3) int32", "float32"]),
        ("pair", {"left": pair_rows()["left"]}, ["'left', 'right'", "has 'left'"]),
        ("pair", pair_rows()["left"], ["'left', 'right'", "one array"]),
    ],
    ids=[
        "one feature too few",
        "images not flattened",
        "one number a row",
        "no rows, of the wrong length",
        "strings for floats",
        "complex for floats",
        "two inputs for a model with one",
        "floats for int32",
        "an input missing",
        "one array for two inputs",
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused_before_they_are_sent(
    celeriac: Celeriac, running_system: System, model: str, data: object, words: list[str]
) -> None:
    name = "odd.npz" if isinstance(data, dict) else "odd.npy"
    with (celeriac.folder / name).open("wb") as stream:
        np.savez(stream, **data) if isinstance(data, dict) else np.save(stream, data)
    line = celeriac.refuses(ExitCode.INPUT, "predict", model, name, "-o", "out.npz", "--broker", running_system.url)
    check_says(line, f"model {model}", *words)


def test_an_integer_that_the_model_s_input_cannot_hold_is_a_row_that_fails(
    celeriac: Celeriac, running_system: System
) -> None:
    with (celeriac.folder / "odd.npz").open("wb") as stream:
        np.savez(stream, **pair_rows() | {"right": np.full((ROWS, 3), 2**40)})
    arguments = ["pair", "odd.npz", "-o", "out.npz", "--broker", running_system.url]
    line = celeriac.refuses(ExitCode.ROWS_FAILED, "predict", *arguments)
    check_says(line, "row 0 failed", "right (?, 3) int32", str(2**40))


# --- models and manifest --------------------------------------------------------------------------------------------


def test_an_unknown_model_is_told_with_the_names_that_the_manifest_has(celeriac: Celeriac, models: Path) -> None:
    line = celeriac.refuses(
        ExitCode.MODEL, "predict", "digit", "rows.npy", "-o", "out.npy", "--models", models / "models.toml"
    )
    check_says(line, "'digit'", models / "models.toml", "digits, digits_h5, digits_saved, pair, pair_saved")


def test_an_unknown_model_is_told_with_the_names_that_workers_hold(celeriac: Celeriac, running_system: System) -> None:
    line = celeriac.refuses(
        ExitCode.MODEL, "predict", "digits,words", "rows.npy", "-o", "out.npz", "--broker", running_system.url
    )
    check_says(line, "no worker holds model 'words'", "digits, digits_h5, digits_saved, pair, pair_saved")


@pytest.mark.parametrize("names", ["broken,broken", "broken,", ","])
def test_models_named_twice_or_not_at_all_are_refused_before_a_worker_is_started(
    celeriac: Celeriac, unused: Path, names: str
) -> None:
    line = celeriac.refuses(ExitCode.USAGE, "predict", names, "rows.npy", "-o", "out.npz", "--models", unused)
    check_says(line, "each one once")


MANIFESTS = {
    "not TOML": (b"[models.digits\npath =", ["is not TOML"]),
    "not text": (b"\xff\xfe\x00", ["is not TOML"]),
    "empty": (b"", ["models"]),
    "no models": (b"[models]\n", ["names no model", "[models.NAME]"]),
    "a key too many": (b'[models.digits]\npath = "a.keras"\nbatchrows = 3\n', ["batchrows", "digits"]),
    "a table too many": (b'[models.digits]\npath = "a.keras"\n[model.b]\npath = "b"\n', ["unknown field", "`model`"]),
    "a number as text": (b'[models.digits]\npath = "a.keras"\nbatch_rows = "many"\n', ["batch_rows", "digits", "int"]),
    "no path": (b"[models.digits]\nbatch_rows = 3\n", ["path", "digits"]),
    "a path that is a number": (b"[models.digits]\npath = 3\n", ["path", "digits", "str"]),
    "no rows in a batch": (b'[models.digits]\npath = "a.keras"\nbatch_rows = 0\n', ["digits.batch_rows", "least is 1"]),
    "an odd name": (b'[models."a/b"]\npath = "a.keras"\n', ["a/b", "letters"]),
}


@pytest.mark.parametrize(("text", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_wrong_manifest_is_refused_with_its_path_and_the_key(
    celeriac: Celeriac, text: bytes, words: list[str]
) -> None:
    (celeriac.folder / "wrong.toml").write_bytes(text)
    name = "a/b" if b"a/b" in text else "digits"
    line = celeriac.refuses(ExitCode.USAGE, "predict", name, "rows.npy", "-o", "out.npy", "--models", "wrong.toml")
    check_says(line, "the manifest wrong.toml", *words)


@pytest.mark.parametrize(("path", "cause"), [("none.toml", "No such file"), (".", "Is a directory")])
def test_a_manifest_that_cannot_be_read_is_told_with_how_to_name_another(
    celeriac: Celeriac, path: str, cause: str
) -> None:
    line = celeriac.refuses(ExitCode.USAGE, "predict", "digits", "rows.npy", "-o", "out.npy", "--models", path)
    check_says(line, f"the manifest {path}", cause, "--models", "CELERIAC_MODELS")


def test_without_a_manifest_the_usual_name_is_told(celeriac: Celeriac) -> None:
    check_says(celeriac.refuses(ExitCode.USAGE, "models"), "models.toml", "No such file", "CELERIAC_MODELS")


def test_a_broken_model_file_is_told_with_model_path_and_cause(celeriac: Celeriac, special_models: Path) -> None:
    line = celeriac.refuses(
        ExitCode.MODEL, "predict", "broken", "rows.npy", "-o", "out.npy", "--models", special_models / "broken.toml"
    )
    check_says(line, "model broken", special_models / "broken.keras", "ValueError", "not a .keras file")


@pytest.mark.parametrize("command", [["predict", "gone", "rows.npy", "-o", "out.npy"], ["models"]])
def test_a_model_file_that_does_not_exist_is_told_with_model_and_path(celeriac: Celeriac, command: list[str]) -> None:
    (celeriac.folder / "models.toml").write_text('[models.gone]\npath = "gone.keras"\n')
    line = celeriac.refuses(ExitCode.MODEL, *command)
    check_says(line, "model gone", celeriac.folder / "gone.keras", "no such file", "mend the path in models.toml")


def test_a_model_that_loses_a_row_is_told_by_its_name(celeriac: Celeriac, special_models: Path) -> None:
    np.save(celeriac.folder / "four.npy", np.zeros((ROWS, 4), np.float32))
    line = celeriac.refuses(
        ExitCode.MODEL, "predict", "shorter", "four.npy", "-o", "out.npy", "--models", special_models / "shorter.toml"
    )
    check_says(line, "model shorter", "63 rows", "64 rows")


def test_rows_that_the_model_refuses_are_told_with_their_cause_and_nothing_is_left(
    celeriac: Celeriac, special_models: Path
) -> None:
    words = np.arange(3 * 40, dtype=np.int32).reshape(40, 3) % 10
    words[5] = 17  # the model knows ten words
    np.save(celeriac.folder / "words.npy", words)
    (celeriac.folder / "out.npy").write_bytes(b"from before")
    line = celeriac.refuses(
        ExitCode.ROWS_FAILED,
        *("predict", "words", "words.npy", "-o", "out.npy", "--force", "--chunk-rows", 10, "--quiet"),
        *("--models", special_models / "words.toml"),
    )
    check_says(line, "row 5 failed", "InvalidArgumentError", "17 is not in [0, 10)")


# --- Redis and workers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["predict", "digits", "rows.npy", "-o", "out.npy"], ["jobs"]])
def test_a_socket_where_no_redis_listens_is_told(celeriac: Celeriac, command: list[str]) -> None:
    url = f"unix://{celeriac.folder}/none.sock"
    line = celeriac.refuses(ExitCode.BROKER, *command, "--broker", url)
    check_says(line, url, "cannot be reached", "is it running", "broker URL")


def test_a_port_where_no_redis_listens_is_told_without_the_password(celeriac: Celeriac) -> None:
    port = free_port()
    url = f"redis://:{WRONG}@127.0.0.1:{port}/0"
    line = celeriac.refuses(ExitCode.BROKER, "predict", "digits", "rows.npy", "-o", "out.npy", "--broker", url)
    check_says(line, f"redis://:***@127.0.0.1:{port}/0", "cannot be reached", "is it running")
    assert WRONG not in line


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6379/0",
        "localhost:6379",
        "redis://localhost:many/0",
        "redis://localhost:99999/0",
        "redis://localhost:6379/first",
        "unix://",
        "unix:///tmp/redis.sock?db=first",
        "unix:///tmp/redis.sock?socket_timeout=soon",
    ],
)
def test_what_is_no_redis_url_is_refused_with_the_form_of_one(celeriac: Celeriac, url: str) -> None:
    line = celeriac.refuses(ExitCode.USAGE, "predict", "digits", "rows.npy", "-o", "out.npy", "--broker", url)
    check_says(line, "--broker", url, "is not a Redis URL", "redis://HOST:PORT/DB")


def test_a_wrong_url_in_the_environment_is_told_by_the_variable_and_without_its_password(celeriac: Celeriac) -> None:
    url = f"amqp://guest:{WRONG}@localhost"
    line = celeriac.refuses(ExitCode.USAGE, "jobs", CELERIAC_BROKER_URL=url)
    check_says(line, "CELERIAC_BROKER_URL", "amqp://guest:***@localhost", "is not a Redis URL")
    assert WRONG not in line


@pytest.mark.parametrize("command", [["jobs"], ["status", "3f"], ["cancel", "3f"]])
def test_a_command_that_needs_a_broker_says_how_to_give_one(celeriac: Celeriac, command: list[str]) -> None:
    line = celeriac.refuses(ExitCode.USAGE, *command)
    check_says(line, "no broker", "--broker", "CELERIAC_BROKER_URL", "redis://HOST:6379/0")


def test_a_database_that_redis_does_not_have_is_told(celeriac: Celeriac, running_system: System) -> None:
    url = replace(running_system.redis, database=999).url
    line = celeriac.refuses(ExitCode.BROKER, "predict", "digits", "rows.npy", "-o", "out.npy", "--broker", url)
    check_says(line, redacted(url), "DB index is out of range")


def test_passwords_are_never_shown(
    celeriac: Celeriac, special_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("s")
    server = PasswordRedis(folder)
    system = System(server.start(), folder)
    try:
        shown = f"unix://:***@{folder}/redis.sock"
        predict = ["predict", "words", "words.npy", "-o", "out.npy", "--worker-timeout-seconds", "1"]
        np.save(celeriac.folder / "words.npy", np.full((4, 3), 17, np.int32))  # the model knows ten words

        for url in (server.url_with(WRONG), f"unix://{folder}/redis.sock"):
            line = celeriac.refuses(ExitCode.BROKER, *predict, "--broker", url)
            check_says(line, "refuses the user or password", "mend the broker URL")
            check_hides(line)
        check_says(celeriac.refuses(ExitCode.BROKER, "jobs", "--broker", server.url_with(WRONG)), shown)

        check_hides(celeriac.refuses(ExitCode.NO_WORKER, *predict, "--broker", server.url))

        worker = system.start_ready_worker(special_models / "words.toml", 1)
        line = celeriac.refuses(ExitCode.ROWS_FAILED, *predict, "--broker", server.url)
        check_says(line, "rows 0-4")
        check_hides(line)
        jobs = celeriac.succeeds("jobs", "--broker", server.url, "--json")
        check_hides(jobs.stdout)
        check_hides(worker.output())
    finally:
        system.stop()


def check_hides(text: str) -> None:
    for password in (RIGHT, WRONG):
        assert password not in text
        assert quote(password, safe="") not in text


def test_without_a_worker_the_command_says_how_to_start_one(celeriac: Celeriac, system: System) -> None:
    line = celeriac.refuses(
        ExitCode.NO_WORKER,
        *("predict", "digits", "rows.npy", "-o", "out.npy"),
        *("--broker", system.url, "--worker-timeout-seconds", 1),
    )
    check_says(line, "no worker is up", "celeriac worker")


# --- the output -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("none/out.npy", ["none/out.npy", "there is no folder", "make it first"]),
        ("folder.npy", ["folder.npy", "is a folder", "name a file in it"]),
        ("rows.npy/out.npy", ["rows.npy/out.npy", "there is no folder"]),
        ("rows.npy", ["rows.npy", "exists", "--force"]),
        ("out.txt", ["out.txt", "'.txt'", "use .npy or .npz"]),
        ("out", ["out", "(none)", "use .npy or .npz"]),
        (f"{'o' * 300}.npy", ["ooo.npy", "File name too long"]),
        ("/proc/out.npy", ["/proc/out.npy", "cannot be written", "check the folder"]),
    ],
    ids=["no folder", "a folder", "below a file", "exists", "unknown type", "no type", "long name", "read-only"],
)
def test_an_output_that_cannot_be_written_is_refused_before_a_worker_is_started(
    celeriac: Celeriac, unused: Path, output: str, words: list[str]
) -> None:
    (celeriac.folder / "folder.npy").mkdir()
    line = celeriac.refuses(ExitCode.USAGE, "predict", "broken", "rows.npy", "-o", output, "--models", unused)
    check_says(line, *words)


def test_a_file_that_exists_is_replaced_with_force_alone(celeriac: Celeriac, running_system: System) -> None:
    output = celeriac.folder / "out.npy"
    output.write_bytes(b"from before")
    predict = ["predict", "digits", "rows.npy", "-o", "out.npy", "--broker", running_system.url, "--quiet"]
    check_says(celeriac.refuses(ExitCode.USAGE, *predict), output, "exists", "--force")
    assert output.read_bytes() == b"from before"
    celeriac.succeeds(*predict, "--force")
    assert np.load(output).shape == (ROWS, 10)


def test_several_outputs_do_not_go_into_one_array(celeriac: Celeriac, running_system: System) -> None:
    np.savez(celeriac.folder / "pair.npz", **pair_rows())
    line = celeriac.refuses(
        ExitCode.USAGE, "predict", "pair", "pair.npz", "-o", "out.npy", "--broker", running_system.url
    )
    check_says(line, "out.npy", "2 outputs", "narrow", "wide", "use .npz")


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--chunk-rows", "0"], ["--chunk-rows", "x>=1"]),
        (["--chunk-rows", "many"], ["--chunk-rows", "many"]),
        (["--workers", "0"], ["--workers", "x>=1"]),
        (["--worker-timeout-seconds", "-1"], ["--worker-timeout-seconds", "x>=0"]),
        (["--batch-rows", "7"], ["--batch-rows"]),
        (["--on-error", "weep"], ["--on-error", "raise"]),
        (["--workers", "2", "--broker", "redis://localhost"], ["--workers", "with a broker"]),
        (["a/1.txt", "a/2.txt"], ["'a/1.txt'", "quote it, as 'images/*.jpg'"]),
    ],
)
def test_a_wrong_option_is_shown_with_the_usage(
    celeriac: Celeriac, unused: Path, words: list[str], told: list[str]
) -> None:
    line = celeriac.misused("predict", "broken", "rows.npy", "-o", "out.npy", "--models", unused, *words)
    check_says(line, *told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["predict", "broken", "rows.npy"], ["--output"]),
        (["predict", "broken"], ["INPUT"]),
        (["predicts"], ["predicts"]),
        (["status"], ["JOB"]),
    ],
)
def test_a_command_without_what_it_needs_is_shown_the_usage(
    celeriac: Celeriac, words: list[str], told: list[str]
) -> None:
    check_says(celeriac.misused(*words), *told)


def test_a_manifest_of_the_command_line_goes_before_a_broker_of_the_environment(
    celeriac: Celeriac, running_system: System
) -> None:
    by_variable = {"CELERIAC_BROKER_URL": running_system.url}
    predict = ["predict", "digits", "rows.npy", "-o", "out.npy"]
    for listed in ([], ["--queue"], ["--json"]):
        line = celeriac.refuses(ExitCode.USAGE, "models", *listed, "--models", "nope.toml", **by_variable)
        check_says(line, "nope.toml cannot be read")
    check_says(
        celeriac.misused("models", "--models", "nope.toml", "--broker", running_system.url), "--models", "--broker"
    )
    check_says(celeriac.misused(*predict, "--models", "nope.toml", **by_variable), "--models", "with a broker")
    celeriac.succeeds(*predict, **by_variable, CELERIAC_MODELS="nope.toml")  # which may be set for all commands
    assert "digits" in celeriac.succeeds("models", **by_variable, CELERIAC_MODELS="nope.toml").stdout


def test_a_setting_that_is_no_number_is_told_by_its_variable(celeriac: Celeriac, unused: Path) -> None:
    line = celeriac.refuses(
        ExitCode.USAGE,
        *("predict", "broken", "rows.npy", "-o", "out.npy", "--models", unused),
        CELERIAC_LOAD_TIMEOUT_SECONDS="soon",
    )
    check_says(line, "CELERIAC_LOAD_TIMEOUT_SECONDS", "'soon'", "whole number")


def test_a_module_in_the_current_folder_that_hides_ours_is_named(celeriac: Celeriac, unused: Path) -> None:
    (celeriac.folder / "tasks.py").write_text("")
    line = celeriac.refuses(ExitCode.USAGE, "predict", "broken", "rows.npy", "-o", "out.npy", "--models", unused)
    check_says(line, celeriac.folder / "tasks.py", "hides", "rename it")
