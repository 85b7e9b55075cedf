"""A headless Chromium by the WebDriver protocol (https://www.w3.org/TR/webdriver2/), spoken plainly."""

import base64
import contextlib
import shutil
import socket
import subprocess
import threading

import httpx

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1100,900",
    "--no-first-run",
]


def missing():
    """Return why there is no browser, or nothing if there is one."""
    names = ("chromium", "chromedriver")
    lacking = [name for name in names if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} in PATH" if lacking else ""


class Browser:
    """One window."""

    def __init__(self, url, profile):
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        self._client = httpx.Client(timeout=120)
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._url = (
            f"{url}/session/{self._client.post(f'{url}/session', json=wanted).json()['value']['sessionId']}"
        )

    def call(self, method, path, tree=None):
        answer = self._client.request(
            method, f"{self._url}{path}", json=tree if method == "POST" else None
        ).json()
        assert not (isinstance(answer["value"], dict) and "error" in answer["value"]), answer
        return answer["value"]

    def go(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *args):
        """Return what a script returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def type(self, selector, text):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def until(self, script):
        """Return what a script returns once that is true."""
        for _ in range(1500):
            if found := self.run(script):
                return found
            threading.Event().wait(0.02)
        raise AssertionError(f"{script}: {self.run('return document.body.innerText')}")

    def screenshot(self):
        return base64.b64decode(self.call("GET", "/screenshot"))

    def close(self):
        self.call("DELETE", "")
        self._client.close()


@contextlib.contextmanager
def browser(profile):
    """Open a window while a block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [shutil.which("chromedriver"), f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for line in driver.stdout:
            if "started successfully" in line:
                break
        window = Browser(f"http://127.0.0.1:{port}", profile)
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(30)
        driver.stdout.close()
