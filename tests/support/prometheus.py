"""Debian's Prometheus as a process, on a port of loopback, with the repository's own configuration."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.support.ports import end_process, free_port, start_process, wait_for_port

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
_INTERVAL = "250ms"
_PAUSE_SECONDS = 0.05
_ANSWER_SECONDS = 10.0


class Prometheus:
    """Scrapes one target by the repository's configuration, four times a second, and waits for no alert's ``for``."""

    def __init__(self, target: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="prometheus-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("prometheus.yml", "alerts.yml"):
            text = (CONFIGURATION / name).read_text(encoding="utf-8").replace("mirror:5000", target)
            text = re.sub(r"(_interval): \w+", rf"\1: {_INTERVAL}", text)
            text = re.sub(r"^( +for): \w+", r"\1: 0s", text, flags=re.MULTILINE)
            (self._folder / name).write_text(text, encoding="utf-8")

    def __enter__(self) -> Self:
        command = ["prometheus", f"--config.file={self._folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={self._folder / 'data'}", f"--web.listen-address=127.0.0.1:{self._port}"]
        with (self._folder / "log").open("wb") as log:
            self._process = start_process(command, output=log, errors=log, folder=self._folder)
        wait_for_port(self._port, process=self._process)
        self.until(self._is_ready)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            end_process(self._process)
        self._temporary.cleanup()

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """Evaluate an expression now: what it selects, each with its labels as ``metric`` and its ``value``."""
        result: list[Mapping[str, Any]] = self._get("query", query=expression)["result"]
        return result

    def firing(self) -> dict[str, list[Mapping[str, Any]]]:
        """Return the alerts that fire, by name."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def rules(self) -> list[Mapping[str, Any]]:
        """Return the alert rules, each with ``name``, ``query``, ``health`` and ``lastError``."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def values_of(self, label: str, series: str) -> list[str]:
        """Return the values that a label has in some series."""
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": series})
        return found

    def until(self, condition: Callable[[], bool], *, timeout_seconds: float = 15.0) -> None:
        """Look again and again, as another scrape may change everything.

        Raises:
            TimeoutError: the condition did not hold in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the condition did not hold within {timeout_seconds} s")
            time.sleep(_PAUSE_SECONDS)

    def until_scraped(self) -> None:
        """Wait for another scrape than the last."""
        before = self._scraped_at()
        self.until(lambda: self._scraped_at() > before)

    def _scraped_at(self) -> float:
        return max((float(sample["value"][1]) for sample in self.query("timestamp(up)")), default=0.0)

    def _is_ready(self) -> bool:
        try:
            self._get("alerts")
        except HTTPError:  # 503: it listens before it has read what it has
            return False
        return True

    def _get(self, path: str, **query: str) -> Any:  # noqa: ANN401 - JSON
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(query)}"
        with urlopen(url, timeout=_ANSWER_SECONDS) as response:
            return json.load(response)["data"]
