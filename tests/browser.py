"""A real browser without a screen: what a page shows, says on its console, and asks others for.

look_at(page) --a process of its own--> Seen: text, console, requests, values of JavaScript, a picture

It is the machine's Chromium, driven by its devtools protocol (`tests.chromium`), else that in Qt, the extra `pages`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

TIMEOUT_SECONDS = 90.0
MOST_PIXELS = 8_000
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
LIBRARIES = "from PyQt6 import QtCore, QtGui, QtWebEngineCore, QtWebEngineWidgets, QtWidgets"
SETTLED = "document.readyState === 'complete' && document.fonts.status === 'loaded'"


# Keys that are pressed one after the other, by their names, or text that is written; an expression that comes true.
Step = tuple[Literal["press", "write", "until"], str]


@dataclass(frozen=True)
class Seen:
    """A page as the browser has it.

    Attributes:
        text: what can be read on it.
        console: every line on the console, as [level, text]; errors of scripts and of the page's policy too.
        requests: the URLs on other hosts that it asked for, in vain.
        values: of the expressions that were asked, by name.
        width, height: of the picture, in pixels; `colours` is how many it has.
    """

    text: str
    console: list[list[str]]
    requests: list[str]
    values: dict[str, Any]
    width: int
    height: int
    colours: int


def check_there_is_one() -> None:
    """Skip the test where there is no browser, and say what is missing."""
    if find_chromium():
        return
    tried = subprocess.run(
        [sys.executable, "-c", LIBRARIES], env=_environ(), capture_output=True, text=True, timeout=60, check=False
    )
    if tried.returncode:
        why = tried.stderr.strip().splitlines()[-1]
        pytest.skip(f"no browser: install Chromium, or run `make pages` (PyQt6 cannot be loaded: {why})")


def find_chromium() -> str | None:
    """The machine's own browser."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def look_at(
    page: Path | str,
    picture: Path,
    *,
    ask: Mapping[str, str] | None = None,
    ready: str = "true",
    height: int = 900,
    width: int = 1280,
    dark: bool = False,
    steps: Sequence[Step] = (),
    whole: bool = True,
) -> Seen:
    """Open a file or a URL in a window so wide, wait until it is drawn, and take a picture of all of it.

    Args:
        ask: expressions of JavaScript, by name.
        ready: an expression that is true when the page is drawn.
        dark: whether the reader likes pages dark.
        steps: what is done before anything is asked.
        whole: False where the page changes all the time, and what is in the window has to do.
    """
    url = page if isinstance(page, str) else page.resolve().as_uri()
    told = {"url": url, "picture": str(picture), "ask": dict(ask or {}), "ready": ready, "height": height}
    chromium = find_chromium()
    told |= {"width": width, "dark": dark, "steps": steps, "whole": whole}
    told |= {"settled": SETTLED, "most_pixels": MOST_PIXELS, "timeout_seconds": TIMEOUT_SECONDS, "program": chromium}
    program = Path(__file__).with_name("chromium.py") if chromium else Path(__file__)
    ended = subprocess.run(
        [sys.executable, str(program.resolve()), json.dumps(told)],
        env=_environ(dark),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS + 30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return Seen(**json.loads(ended.stdout.splitlines()[-1]))


def _environ(dark: bool = False) -> dict[str, str]:
    """No screen; no sandbox, which root may not have; no graphics card; nothing kept."""
    flags = "--disable-gpu --no-first-run --disable-background-networking --disable-dev-shm-usage"
    flags += f" --blink-settings=preferredColorScheme={0 if dark else 1}"
    return os.environ | {
        "QT_QPA_PLATFORM": "offscreen",
        "QTWEBENGINE_DISABLE_SANDBOX": "1",
        "QTWEBENGINE_CHROMIUM_FLAGS": flags,
    }


def _main(told: dict[str, Any]) -> int:
    from PyQt6.QtCore import QEvent, Qt, QTimer, QUrl
    from PyQt6.QtGui import QImage, QKeyEvent
    from PyQt6.QtWebEngineCore import (
        QWebEnginePage,
        QWebEngineProfile,
        QWebEngineSettings,
        QWebEngineUrlRequestInterceptor,
    )
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    application = QApplication([sys.argv[0]])
    console: list[list[str]] = []
    requests: list[str] = []

    own = QUrl(told["url"]).scheme(), QUrl(told["url"]).authority()

    class Requests(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info: Any) -> None:  # noqa: N802 - Qt's name
            url = info.requestUrl()
            inside = url.scheme() in ("data", "blob", "qrc") or (url.scheme(), url.authority()) == own
            if not inside:
                requests.append(url.toString())
                info.block(True)

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level: Any, text: str, line: int, source: str) -> None:  # noqa: N802
            console.append([level.name.removesuffix("MessageLevel").lower(), text])

    profile = QWebEngineProfile()  # off the record
    interceptor = Requests()
    profile.setUrlRequestInterceptor(interceptor)
    view = QWebEngineView()
    page = Page(profile, view)
    view.setPage(page)
    # Otherwise a page of a file may not even try.
    page.settings().setAttribute(QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls, True)
    view.resize(told["width"], told["height"])
    view.show()
    seen: dict[str, Any] = {}
    doing: list[str] = []

    def wait_for(expression: str, then: Any) -> None:
        def look(value: Any) -> None:
            if value is True:
                then()
            else:
                QTimer.singleShot(50, lambda: page.runJavaScript(expression, look))

        page.runJavaScript(expression, look)

    def loaded(well: bool) -> None:
        if not well:
            console.append(["error", f"{told['url']} did not load"])
        steps = list(told["steps"])
        view.setFocus()
        wait_for(f"({SETTLED}) && Boolean({told['ready']})", lambda: do(steps))

    def do(steps: list[Any]) -> None:
        if not steps:
            return ask()
        kind, what = steps.pop(0)
        doing[:] = [kind, what]
        if kind == "until":
            return wait_for(f"Boolean({what})", lambda: do(steps))
        for name in what.split() if kind == "press" else what:
            key = getattr(Qt.Key, f"Key_{name}") if kind == "press" else Qt.Key(0)
            text = {"Enter": "\r", "Space": " "}.get(name, "") if kind == "press" else name
            for event in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
                application.sendEvent(view.focusProxy(), QKeyEvent(event, key, Qt.KeyboardModifier.NoModifier, text))
        # Keys are on their way to the page; what they do is waited for by its own expression.
        page.runJavaScript("0", lambda _: do(steps))

    def ask() -> None:
        # Not by `eval`, which a page may forbid.
        values = ", ".join(f"{json.dumps(name)}: ({code})" for name, code in told["ask"].items())
        height = "document.documentElement.scrollHeight"
        script = f"JSON.stringify({{text: document.body.innerText, height: {height}, values: {{{values}}}}})"
        page.runJavaScript(script, answered)

    def answered(text: str) -> None:
        seen.update(json.loads(text))
        page_height = int(seen.pop("height"))
        height = min(MOST_PIXELS, max(told["height"], page_height)) if told["whole"] else told["height"]
        view.resize(told["width"], height)
        wait_for(f"innerHeight === {height}", lambda: take(QImage(), 60))

    def take(last: QImage, tries: int) -> None:
        """The picture lags behind the page: it is good when it is the same twice, and not of one colour."""
        image = view.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
        spots = range(0, image.width(), 7), range(0, image.height(), 7)
        colours = {image.pixel(x, y) for x in spots[0] for y in spots[1]}
        if ((image != last and told["whole"]) or len(colours) < 2) and tries:
            QTimer.singleShot(250, lambda: take(image, tries - 1))
            return
        image.save(told["picture"])
        seen.update(console=console, requests=requests, width=image.width(), height=image.height())
        seen["colours"] = len(colours)
        print(json.dumps(seen))
        application.exit(0)

    page.loadFinished.connect(loaded)
    at = "document.activeElement.outerHTML.slice(0, 200) + ' ' + document.body.innerText.slice(-500)"

    def give_up() -> None:
        page.runJavaScript(at, lambda text: (doing.append(text), application.exit(3)))

    QTimer.singleShot(int(TIMEOUT_SECONDS * 1000), give_up)
    page.load(QUrl(told["url"]))
    code = application.exec()
    if code:
        print(f"the page was not drawn in {TIMEOUT_SECONDS} s: {console} {requests} {doing}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Qt's own end may abort, in the order in which Python collects its objects


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
