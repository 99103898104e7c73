"""The machine's Chromium, driven by its devtools protocol; a program of its own, for `tests.browser`.

a page's URL, expressions --commands, NUL after each, through a pipe--> Chromium
                          <--answers, what the console says, requests--
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OPTIONS = (
    "--headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --hide-scrollbars --force-color-profile=srgb about:blank"
).split()
# By Qt's names: the web's name, the number that it has since Windows, and what it writes.
_KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "Escape": ("Escape", 27, ""),
    "Down": ("ArrowDown", 40, ""),
    "Up": ("ArrowUp", 38, ""),
}
NEXT_FRAME = "new Promise(requestAnimationFrame)"
# Of a picture, in a page of its own: its size, and the colours of every seventh pixel both ways.
COLOURS = """new Promise(done => {
    const image = new Image()
    image.onload = () => {
        const canvas = new OffscreenCanvas(image.width, image.height)
        const brush = canvas.getContext("2d"), colours = new Set()
        brush.drawImage(image, 0, 0)
        const pixels = new Uint32Array(brush.getImageData(0, 0, image.width, image.height).data.buffer)
        for (let y = 0; y < image.height; y += 7)
            for (let x = 0; x < image.width; x += 7) colours.add(pixels[y * image.width + x])
        done({width: image.width, height: image.height, colours: colours.size})
    }
    image.src = "data:image/png;base64,%s"
})"""


class Chromium:
    """One browser, with what its page has said and asked for."""

    def __init__(self, program: str, profile: str, timeout_seconds: float) -> None:
        self.console: list[list[str]] = []
        self.requests: list[str] = []
        self._own: tuple[str, str] | None = None
        self._deadline = time.monotonic() + timeout_seconds
        self._number = 0
        self._last = ""
        self._data = b""
        # It reads descriptor 3 and writes 4: ours must be others.
        (theirs_in, self._out), (self._in, theirs_out) = _pipe(), _pipe()
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)
        command = [program, f"--user-data-dir={profile}", *OPTIONS]
        self.process = subprocess.Popen(command, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for descriptor in (3, 4, theirs_in, theirs_out):
            os.close(descriptor)

    def open_tab(self) -> str:
        """A new page; returns its session."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session: str = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return session

    def watch(self, session: str, url: str) -> None:
        """Note what a page says, and what it asks of others than its own place, which it does not get."""
        self._own = urlsplit(url)[:2]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable", session)
        self.ask("Fetch.enable", session, patterns=[{"urlPattern": "*"}])

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send a command, and wait for its answer."""
        number = self._send(method, session, **parameters)
        while True:
            message = self._next()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def value(self, session: str, expression: str) -> Any:
        """What an expression gives, or its promise."""
        told = self.ask("Runtime.evaluate", session, expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression[:200]}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait_for(self, session: str, expression: str) -> None:
        """Wait until an expression is true, by looking before each frame that the page draws."""
        self.value(session, f"(async () => {{ while (({expression}) !== true) await {NEXT_FRAME} }})()")

    def press(self, session: str, name: str) -> None:
        """A key by its name, or a character."""
        key, code, text = _KEYS.get(name, (name, 0, name))
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", session, type="keyDown", text=text, **common)
        self.ask("Input.dispatchKeyEvent", session, type="keyUp", **common)

    def picture(self, session: str) -> str:
        """What the page looks like once more has been drawn than was at first."""
        self.value(session, f"{NEXT_FRAME}.then(() => {NEXT_FRAME})")
        data: str = self.ask("Page.captureScreenshot", session, format="png")["data"]
        return data

    def _send(self, method: str, session: str | None, **parameters: Any) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._last = f"{method} {parameters}"
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return self._number

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._data:
            ready, _, _ = select.select([self._in], [], [], max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"not in time: {self._last[:300]}; {self.console} {self.requests}")
            if not (data := os.read(self._in, 1 << 20)):
                raise RuntimeError(f"the browser has ended: {self.process.wait()}")
            self._data += data
        line, _, self._data = self._data.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        told, session = message.get("params", {}), message.get("sessionId")
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                texts = (str(one.get("value", one.get("description", ""))) for one in told["args"])
                self.console.append([told["type"], " ".join(texts)])
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.console.append(["error", details.get("exception", {}).get("description", details["text"])])
            case "Log.entryAdded":
                self.console.append([told["entry"]["level"], told["entry"]["text"]])
            case "Fetch.requestPaused":
                url = urlsplit(told["request"]["url"])
                if url.scheme in ("data", "blob") or url[:2] == self._own:
                    self._send("Fetch.continueRequest", session, requestId=told["requestId"])
                else:
                    self.requests.append(told["request"]["url"])
                    self._send("Fetch.failRequest", session, requestId=told["requestId"], errorReason="BlockedByClient")


def _pipe() -> tuple[int, int]:
    """Both ends with numbers above those that Chromium wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _look(browser: Chromium, told: dict[str, Any]) -> dict[str, Any]:
    easel, page = browser.open_tab(), browser.open_tab()
    browser.ask("Page.bringToFront", page)  # one that is not in front is not drawn
    browser.watch(page, told["url"])
    _resize(browser, page, told["width"], told["height"])
    scheme = {"name": "prefers-color-scheme", "value": "dark" if told["dark"] else "light"}
    browser.ask("Emulation.setEmulatedMedia", page, features=[scheme])
    went = browser.ask("Page.navigate", page, url=told["url"])
    if "errorText" in went:
        browser.console.append(["error", f"{told['url']} did not load: {went['errorText']}"])
    browser.wait_for(page, f"({told['settled']}) && Boolean({told['ready']})")
    for kind, what in told["steps"]:
        if kind == "until":
            browser.wait_for(page, f"Boolean({what})")
        else:
            for name in what.split() if kind == "press" else what:
                browser.press(page, name)
    # Not by `eval`, which a page may forbid.
    values = ", ".join(f"{json.dumps(name)}: ({code})" for name, code in told["ask"].items())
    height = "document.documentElement.scrollHeight"
    seen = json.loads(
        browser.value(
            page, f"JSON.stringify({{text: document.body.innerText, height: {height}, values: {{{values}}}}})"
        )
    )
    pixels = min(told["most_pixels"], max(told["height"], int(seen["height"]))) if told["whole"] else told["height"]
    _resize(browser, page, told["width"], pixels)
    browser.wait_for(page, f"innerHeight === {pixels}")
    last, form = "", {"colours": 0}
    # The picture may lag behind the page: it is good when it is the same frames later, and not of one colour.
    while ((data := browser.picture(page)) != last and (told["whole"] or not last)) or form["colours"] < 2:
        last, form = data, browser.value(easel, COLOURS % data)
    Path(told["picture"]).write_bytes(base64.b64decode(last))
    return {**seen, "console": browser.console, "requests": browser.requests, **form}


def _resize(browser: Chromium, page: str, width: int, height: int) -> None:
    browser.ask(
        "Emulation.setDeviceMetricsOverride", page, width=width, height=height, deviceScaleFactor=1, mobile=False
    )


def _main(told: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(told["program"], profile, told["timeout_seconds"])
        try:
            print(json.dumps(_look(browser, told)))
            with suppress(RuntimeError, TimeoutError):
                browser.ask("Browser.close")
        finally:
            browser.process.kill()
            browser.process.wait()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
