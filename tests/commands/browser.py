"""A headless Chromium, driven by the DevTools protocol over a pipe."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One page of a browser of its own: `with Page(url, width=390) as page`.  `errors` holds what it complained of."""

    def __init__(self, url, width=1280, height=900, dark=False):
        self.url, self.size, self.dark, self.errors, self.last, self.rest = url, (width, height), dark, [], 0, b""

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs, ours, answers, theirs_out = *os.pipe(), *os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs, theirs_out)]  # out of the way of 3 and 4
        os.close(theirs), os.close(theirs_out)
        self.browser = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "-", PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu",
             "--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"],
            pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        [os.close(fd) for fd in high]
        self.out, self.answers, self.session = os.fdopen(ours, "wb", 0), os.fdopen(answers, "rb", 0), None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=self.size[0], height=self.size[1], deviceScaleFactor=1, mobile=self.size[0] < 600)
        self.media("screen")
        self.call("Page.navigate", url=self.url)
        self.wait("document.documentElement?.dataset.ready === 'yes'")
        return self

    def __exit__(self, *_):
        self.out.close()
        self.browser.kill()
        self.browser.wait()
        self.answers.close()
        self.profile.cleanup()

    def media(self, medium):
        scheme = "dark" if self.dark else "light"
        self.call("Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def read(self):
        while b"\0" not in self.rest:
            more = os.read(self.answers.fileno(), 1 << 20)
            assert more, "the browser has ended"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            said = self.read()
            if said.get("method") == "Runtime.exceptionThrown":
                self.errors.append(said["params"]["exceptionDetails"])
            if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] in ("error", "warning"):
                self.errors.append(said["params"]["entry"])
            if said.get("method") == "Runtime.consoleAPICalled" and said["params"]["type"] in ("error", "warning", "assert"):
                self.errors.append(said["params"])
            if said.get("method") == "Network.requestWillBeSent" and not said["params"]["request"]["url"].startswith(("file:", "data:", "blob:")):
                self.errors.append(said["params"]["request"])
            if said.get("id") == self.last:
                assert "result" in said, said
                return said["result"]

    def ask(self, expression):
        """The value of an expression, which may be a promise."""
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, condition):
        """Until it holds."""
        for _ in range(1500):
            if self.ask(condition):
                return
            time.sleep(0.02)
        raise AssertionError(f"never: {condition}")

    def key(self, name):
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode={"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}[name])
