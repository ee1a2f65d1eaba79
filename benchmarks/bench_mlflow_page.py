"""How long a browser takes to show the runs of a large study in MLflow, in headless Chromium.

Seconds from navigation until the page counts the runs, for the table and for the study's charts, on
the first visit and on the next, with the scripts of MLflow in the cache.

    python benchmarks/bench_mlflow_page.py --runs 500
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import aiohttp
from bench_tracking import write_run

from pipeline.chart_view import QUERY
from pipeline.mlflow_ui import HOST, free_port, ui_command, ui_environment
from pipeline.tracking import Tracker

CHROMIUM = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
DEADLINE = 120.0
PAGE = 100  # the page loads so many runs, and more on request
TABLE = "workflowType=machine_learning"


class Browser:
    """One page of a browser, through its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0

    async def call(self, method: str, **params: Any) -> Any:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == self._count:
                return answer.get("result", {})

    async def seconds_until(self, url: str, text: str) -> float:
        """From asking for `url` until the page says `text`."""
        await self.call("Page.navigate", url="about:blank")
        began = time.perf_counter()
        await self.call("Page.navigate", url=url)
        look = f"document.body?.innerText.includes({text!r})"
        while time.perf_counter() - began < DEADLINE:
            found = await self.call("Runtime.evaluate", expression=look)
            if found.get("result", {}).get("value"):
                return time.perf_counter() - began
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{url} never said {text!r}")


async def measure(base: str, text: str, folder: Path) -> None:
    profile = folder / "profile"
    options = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    chromium = subprocess.Popen([*CHROMIUM, *options], stderr=subprocess.DEVNULL)
    try:
        while not (found := profile / "DevToolsActivePort").exists() or not found.read_text():
            await asyncio.sleep(0.1)
        server = f"http://{HOST}:{found.read_text().split()[0]}/json"
        async with aiohttp.ClientSession() as session:
            tabs = await (await session.get(server)).json()
            page = next(tab for tab in tabs if tab["type"] == "page")
            socket = await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
            browser = Browser(socket)
            for visit in ("first", "next"):
                for name, query in (("table", TABLE), ("charts", QUERY)):
                    seconds = await browser.seconds_until(f"{base}?{query}", text)
                    print(f"{visit} visit, {name}: {seconds:.2f} s")
    finally:
        chromium.terminate()
        chromium.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--points", type=int, default=20)
    asked = parser.parse_args()
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tracker = Tracker(None, folder, "bench")
        for number in range(asked.runs):
            config = write_run(folder, number, asked.points)
            tracker.forward(folder / "runs" / config.name, config)
        port = free_port(5000)
        environment = os.environ | ui_environment(tracker.uri)
        server = subprocess.Popen(ui_command(folder, port), env=environment, cwd=folder)
        try:
            while not _answers(f"http://{HOST}:{port}/health"):
                time.sleep(0.2)
            base = f"http://{HOST}:{port}/#/experiments/{tracker.experiment_id}/runs"
            asyncio.run(measure(base, f"{min(asked.runs, PAGE)} matching runs", folder))
        finally:
            server.terminate()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
