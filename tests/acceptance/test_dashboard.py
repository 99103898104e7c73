"""`celeriac dashboard`: its page in a real browser, wide and narrow, light and dark, by keyboard; who may change it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import redis

from producer.broker.shard_clients import ShardClients
from producer.dashboard.feed import TICK_SECONDS
from producer.records import job_store
from producer.records.job_store import JobState
from producer.report import charts, gather
from tasks.protocol import keys
from tasks.protocol.records import JobRecord
from tests import browser
from tests.acceptance.commands import Celeriac
from tests.dashboards import Dashboard, dashboard
from tests.played import Play
from tests.seals import SEALER
from tests.systems import RedisServer
from tests.waiting import wait_until
from worker_config.errors import ExitCode

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><b>rows</b>.npy"
READY = "document.body.dataset.ready === 'yes'"
JOB = "000000000000"
AT = "document.activeElement"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("s")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def play(server: RedisServer) -> Play:
    return Play(server.admin(), input_text=HOSTILE)


@pytest.fixture(scope="module")
def board(server: RedisServer, play: Play, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(server.url, tmp_path_factory.mktemp("d")) as board:
        yield board


def read(server: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    return job_store.read_known(server, job_id, SEALER)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_shows_what_goes_on(board: Dashboard, play: Play, tmp_path: Path, width: int, dark: bool) -> None:
    browser.check_there_is_one()
    play.beat_all()
    texts = "[...document.querySelectorAll('body *')].filter(one => one.innerText)"
    seen = browser.look_at(
        board.page,
        tmp_path / "page.png",
        width=width,
        dark=dark,
        ready=READY,
        whole=False,
        ask={
            "width": "document.documentElement.scrollWidth",
            "titles": "[...document.querySelectorAll('h2')].filter(one => one.offsetParent).map(one => one.innerText)",
            "rows": "document.querySelectorAll('#jobs-table tbody tr').length",
            "more": "document.getElementById('more-jobs').innerText",
            "slots": "document.querySelectorAll('.slots li').length",
            "busy": "document.querySelectorAll('.slots .busy').length",
            "runs": "document.querySelector('.slots .busy').title",
            "models": "[...document.querySelectorAll('#models-table tbody tr')].map(row => row.innerText)",
            "alien": "document.querySelectorAll('main img, main b').length",
            "title": "document.title",
            "smallest": f"Math.min(...{texts}.map(one => parseFloat(getComputedStyle(one).fontSize)))",
            "paper": "getComputedStyle(document.body).backgroundColor",
            "buttons": "[...document.querySelectorAll('.act button')].filter(one => one.offsetParent).length",
        },
    )
    assert (seen.console, seen.requests) == ([], [])
    assert seen.values["width"] <= seen.width == width
    assert seen.values["titles"] == ["Jobs", "Workers and slots", "Models"]
    assert (seen.values["rows"], seen.values["more"]) == (play.running + 20, "Show all 100 jobs")
    assert (seen.values["slots"], seen.values["busy"]) == (1_000, 950)
    assert "runs chunk" in seen.values["runs"]
    assert [row.split()[0].removeprefix("Model:") for row in seen.values["models"]] != []
    assert len(seen.values["models"]) == 2
    assert all("1,000 slots: " in row for row in seen.values["models"])
    assert (seen.values["alien"], seen.values["title"]) == (0, "Celeriac"), "a name was read as HTML"
    assert seen.values["smallest"] >= 10
    assert seen.values["paper"] == ("rgb(20, 24, 29)" if dark else "rgb(244, 245, 247)")
    assert seen.values["buttons"] == 0, "a button is there without the token"
    assert seen.colours > 20, "the picture is empty"
    for text in (HOSTILE, "20 of 100 jobs run, 950 of 1,000 slots", "of 1,000,000 rows", " left", "celery@host049"):
        assert text in seen.text


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_job_with_the_pictures_of_its_report(
    board: Dashboard, server: RedisServer, play: Play, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.check_there_is_one()
    play.beat_all()
    seen = browser.look_at(
        f"{board.page}#job={JOB}",
        tmp_path / "page.png",
        width=width,
        dark=dark,
        ready=f"document.body.dataset.drawn === '{JOB}'",
        whole=False,
        ask={
            "width": "document.documentElement.scrollWidth",
            "lanes": "document.querySelectorAll('#chart-lanes .yaxislayer-above .ytick').length",
            "kinds": "[...document.querySelectorAll('#chart-lanes .legendtext')].map(one => one.textContent)",
            "bars": "document.querySelectorAll('#chart-lanes .barlayer .point').length",
            "stages": "document.querySelectorAll('#chart-stages .barlayer .point').length",
            "paper": "document.querySelector('#chart-lanes .main-svg').style.background",
            "failures": "[...document.querySelectorAll('#failures tbody tr')].map(row => row.innerText)",
        },
    )
    assert (seen.console, seen.requests) == ([], [])
    assert seen.values["width"] <= width
    with server.admin() as client:
        drawn = charts(gather(ShardClients([server.url], [client]), JOB, SEALER), 300)
    bars = [trace for trace in drawn["lanes"]["data"] if trace["type"] == "bar"]
    assert seen.values["lanes"] == len({name for trace in bars for name in trace["y"]}) == 8
    assert set(seen.values["kinds"]) == {trace["name"] for trace in drawn["lanes"]["data"]}
    assert seen.values["bars"] == sum(len(trace["y"]) for trace in bars)
    assert seen.values["stages"] == 3
    assert seen.values["paper"] == ("rgb(29, 35, 42)" if dark else "rgb(255, 255, 255)")
    assert len(seen.values["failures"]) == 3
    assert ["50" in row and "ValueError" in row for row in seen.values["failures"]] == [True, False, False]
    for text in (f"Job {JOB}", "still running: ", "most of it infer", "3 rows failed."):
        assert text in seen.text


def test_the_page_is_used_by_keyboard_alone(board: Dashboard, server: RedisServer, play: Play, tmp_path: Path) -> None:
    """With the token: a job is looked at, given another priority, and cancelled; the page is live meanwhile."""
    browser.check_there_is_one()
    job = play.job_ids[3]
    place = list(reversed(play.job_ids[: play.running])).index(job)
    # The skip link and three links of the page; then of each running job: link, priority, cancel.
    before = 4 + 3 * place
    with play.going_on():
        seen = browser.look_at(
            f"{board.page}#token={board.token}",
            tmp_path / "page.png",
            ready=READY,
            whole=False,
            steps=[
                ("press", " ".join(["Tab"] * (before + 1))),
                ("until", f"{AT}.textContent === '{job}'"),
                ("press", "Enter"),
                ("until", f"{AT}.id === 'job-title' && document.getElementById('job-verdict').innerText"),
                ("press", "Tab Enter"),
                ("until", f"document.getElementById('job').hidden && {AT}.textContent === '{job}'"),
                ("press", "Tab"),
                ("until", f"{AT}.value === 'normal'"),
                ("press", "Down"),
                ("until", "document.getElementById('said').innerText.endsWith('is bulk now.')"),
                ("press", "Tab Space"),
                ("until", f"document.getElementById('ask').open && {AT}.value === 'no'"),
                ("press", "Escape"),
                ("until", f"!document.getElementById('ask').open && {AT}.innerText === 'Cancel'"),
                ("press", "Enter"),
                ("until", f"{AT}.value === 'no'"),
                ("press", "Tab"),
                ("until", f"{AT}.value === 'yes'"),
                ("press", "Enter"),
                ("until", "document.getElementById('said').innerText.includes('cancelled')"),
                ("until", f"{AT}.textContent === '{job}' && {AT}.closest('tr').innerText.includes('cancelled')"),
            ],
            ask={"address": "location.href", "said": "document.getElementById('said').getAttribute('role')"},
        )
    assert (seen.console, seen.requests) == ([], [])
    assert seen.values == {"address": board.page, "said": "status"}, "the token is left in the address"
    with server.admin() as client:
        state, record = read(client, job)
    assert state is JobState.CANCELLED
    assert record.weight == 1.0


def test_nothing_changes_without_the_token(board: Dashboard, server: RedisServer, play: Play) -> None:
    job = play.job_ids[5]
    node = "celery@host001"
    changes = [
        ("/token", None),
        (f"/jobs/{job}/cancel", None),
        (f"/jobs/{job}/priority", {"priority": "bulk"}),
        *((f"/workers/{node}/{command}", None) for command in ("drain", "resume", "reload")),
    ]
    for path, body in changes:
        for headers in (
            {},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {board.token[:-1]}"},
            {"Authorization": board.token},
            {"Cookie": f"token={board.token}"},
        ):
            status, _, text = board.ask("POST", path, body, **headers)
            assert (status, json.loads(text)["text"]) == (
                403,
                "This needs the token that `celeriac dashboard` printed when it started.",
            )
        assert board.ask("POST", f"{path}?token={board.token}", body)[0] == 403
        assert board.ask("GET", path, Authorization=f"Bearer {board.token}")[0] == 405
    with server.admin() as client:
        state, record = read(client, job)
    assert (state, record.weight) == (JobState.RUNNING, 4.0)


def test_what_buttons_say(board: Dashboard, play: Play) -> None:
    job = play.job_ids[6]
    assert board.press("/token") == (200, "The token is right.")
    assert board.press(f"/jobs/{job}/priority", {"priority": "7"}) == (200, f"Job {job} is 7 now.")
    status, said = board.press(f"/jobs/{job}/priority", {"priority": "none"})
    assert (status, said.startswith("priority is 'none'; it is one of")) == (409, True)
    assert board.press(f"/jobs/{job}/priority", {"importance": "high"}) == (400, "That is no priority.")
    assert board.press(f"/jobs/{job}/priority", {"priority": "x" * 2_000}) == (413, "That is no priority.")
    assert board.press(f"/jobs/{play.job_ids[-1]}/cancel") == (200, f"Job {play.job_ids[-1]} is done already.")
    status, said = board.press("/jobs/feed/cancel")
    assert (status, said.startswith("no job of this name, and none with an id that begins with 'feed'")) == (409, True)
    status, said = board.press("/workers/celery@host001/shutdown")
    assert (status, "cannot be told to 'shutdown'" in said) == (409, True)
    assert board.press("/workers/--help/drain")[0] == 409


def test_pages_of_other_sites_get_nothing(board: Dashboard) -> None:
    """Neither by a name of theirs that leads here, nor with the leave of this server."""
    for path in ("/", "/events", "/static/page.js"):
        assert board.ask("GET", path, Host="evil.example")[0] == 400
    status, headers, _ = board.ask("OPTIONS", f"/jobs/{JOB}/cancel", Origin="http://evil.example")
    assert status == 403
    assert not [name for name in headers if name.startswith("access-control")]
    status, headers, _ = board.ask("GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200
    assert "default-src 'none'" in policy
    assert "http" not in policy.replace("'self'", "")
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert board.ask("GET", "/static/..%2Fweb.py")[0] == 404


def test_redis_is_read_once_for_all_and_never_for_nobody(board: Dashboard, server: RedisServer, play: Play) -> None:
    with server.admin() as client:

        def looks() -> int:
            stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
            return stats["cmdstat_zrange"]["calls"]

        def looks_while(viewers: int) -> int:
            """How often Redis was looked at for jobs from one event of the first viewer to the one three later."""
            streams = [board.looking() for _ in range(viewers)]
            events = [stream.__enter__() for stream in streams]
            try:
                for one in events:
                    one.until(lambda values: values)
                before = looks()
                for _ in range(3):
                    play.step()
                    for one in events:
                        one.next()
                return looks() - before
            finally:
                for stream in streams:
                    stream.__exit__(None, None, None)

        alone, many = looks_while(1), looks_while(5)
        assert 2 <= many <= max(alone, 3) + 3, (alone, many)
        seen = [looks()]

        def has_ceased() -> bool:
            """Two ticks have passed without a look: the server has noticed that all have gone."""
            seen.append(looks())
            return len(seen) > 2 and seen[-1] == seen[-2]

        wait_until(has_ceased, "Redis is not read for nobody", every_seconds=2.5 * TICK_SECONDS)


def test_what_changes_is_told_and_nothing_else(board: Dashboard, play: Play) -> None:
    play.beat_all()  # none counts as gone, however long other tests took
    with board.looking() as events:
        events.until(lambda values: "worker:celery@host008" in values)
        whole = dict(events.values)
        assert {key.partition(":")[0] for key in whole} == {"job", "worker", "model", "notes"}
        play.steps += 1  # its slots run other chunks by now
        play.beat(7)
        told = events.until(lambda values: values["worker:celery@host007"] != whole["worker:celery@host007"])
        assert told
        assert events.kinds[0] == "whole"
        assert set(events.kinds[1:]) == {"change"}
        assert events.values["worker:celery@host008"] == whole["worker:celery@host008"]


def test_redis_goes_away_and_comes_back(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        Play(server.admin(), jobs=2, running=1, workers=1, slots=2)
        with dashboard(server.url, tmp_path) as board, board.looking() as events:
            events.until(lambda values: f"job:{JOB}" in values)
            server.stop()
            said = events.until(lambda values: values.get("problem"))
            assert "cannot be reached" in said
            assert f"job:{JOB}" in events.values, "what was known is not shown any more"
            server.start()
            events.until(lambda values: "problem" not in values)
            Play(server.admin(), jobs=3, running=1, workers=1, slots=2)
            events.until(lambda values: "job:000000000002" in values)
            assert board.process.poll() is None
    finally:
        server.stop()


def test_a_page_may_be_looked_at_before_redis_is_there(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, secured=False)
    with dashboard(server.url, tmp_path) as board, board.looking() as events:
        assert "cannot be reached" in events.until(lambda values: values.get("problem"))
        try:
            Play(server.start().admin(), jobs=1, running=1, workers=1, slots=1)
            events.until(lambda values: f"job:{JOB}" in values)
        finally:
            server.stop()
    assert "The page waits for it." in (tmp_path / "dashboard.err").read_text()


def test_a_job_that_is_gone(board: Dashboard) -> None:
    with board.looking("/jobs/feedfeedfeed/events") as events:
        assert "has expired" in events.until(lambda values: values.get("problem"))


def test_what_cannot_be_served(celeriac: Celeriac, board: Dashboard, server: RedisServer) -> None:
    at = ["--broker", server.url]
    told = celeriac.refuses(ExitCode.USAGE, "dashboard", *at, "--port", str(board.port))
    assert f"cannot listen at 127.0.0.1:{board.port}: Address already in use; choose another --port" in told
    told = celeriac.refuses(ExitCode.USAGE, "dashboard", *at, "--host", "no.such.host.invalid")
    assert "cannot listen at no.such.host.invalid:8765" in told
    told = celeriac.refuses(ExitCode.USAGE, "dashboard")
    assert "no broker" in told


def test_it_ends_at_once_though_somebody_looks(server: RedisServer, play: Play, tmp_path: Path) -> None:
    with dashboard(server.url, tmp_path) as board, board.looking() as events:
        events.until(lambda values: values)
        board.process.terminate()
        assert board.process.wait(30) == ExitCode.CANCELLED
    assert (tmp_path / "dashboard.err").read_text().strip() == "celeriac: interrupted"


def test_watchers_rights_will_do(tmp_path: Path) -> None:
    """To look; what changes something is refused in words."""
    from tasks.protocol.rights import WATCHER

    server = RedisServer(tmp_path, least_rights=True).start()
    try:
        play = Play(server.admin(), jobs=1, running=1, workers=1, slots=1)
        with dashboard(server.url_as(WATCHER), tmp_path) as board:
            with board.looking() as events, board.looking(f"/jobs/{JOB}/events") as of_job:
                events.until(lambda values: "worker:celery@host000" in values)
                of_job.until(lambda values: "chart:lanes" in values)
            status, said = board.press(f"/jobs/{play.job_ids[0]}/cancel")
            assert status == 409
            assert "refuses this user a right" in said
        assert [one for one in server.refused() if "watcher" in one] != []
        assert server.admin().hget(keys.job(JOB), "state") == b"running"
    finally:
        server.stop()
