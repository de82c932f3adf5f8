"""A headless Chromium, driven by the DevTools protocol over a pipe: no driver, no port."""

import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find():
    """The path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser of its own; ``call`` is a DevTools method, with the page's events
    collected in ``events``.
    """

    def __init__(self, program, folder, seconds=60):
        self.seconds, self.events, self._count, self._rest = seconds, [], 0, b""
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        options = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
            *("--disable-component-update", "--hide-scrollbars"),
            *(f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"),
        ]
        # The browser reads descriptor 3 and writes 4, whatever numbers the pipes have here; sh
        # itself need not know numbers of two digits.
        self._log = (folder / "browser.log").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", program, *options],
            pass_fds=(read, write),
            stdout=self._log,
            stderr=self._log,
        )
        os.close(read)
        os.close(write)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.wait(timeout=30)
        for descriptor in (self._read, self._write):
            os.close(descriptor)
        self._log.close()

    def call(self, method, **parameters):
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self.seconds
        while (answer := self._next(until)).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def wait_for(self, event):
        """The first event of that name since the last ``open``, as soon as it is there."""
        until = time.monotonic() + self.seconds
        while True:
            for message in self.events:
                if message.get("method") == event:
                    return message["params"]
            self.events.append(self._next(until))

    def _next(self, until):
        while b"\0" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"no answer of the browser in {self.seconds} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("the browser has gone, see browser.log")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, address, width, height=900, scheme="light"):
        """Show a page at that width in CSS pixels, in that colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")

    def evaluate(self, script):
        """The value of an expression of JavaScript, a promise's too."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")
