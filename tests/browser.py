"""A headless Chromium, for pages that cmh writes: what they log, what they ask the network for, how long they take."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUIET = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
QUIET += ("disable-component-update", "disable-sync", "disable-dev-shm-usage")
DRAWN = "return document.documentElement.dataset.drawn"  # set by the page once its last chart stands


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900, *, dark: bool = False) -> Iterator[Any]:
    """A driver of a browser with a profile of its own. Raises RuntimeError that says what is not installed."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError as error:
        raise RuntimeError("selenium is not installed") from error
    chromium, chromedriver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or chromedriver is None:
        raise RuntimeError("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for option in (*QUIET, f"user-data-dir={profile}"):
            options.add_argument(f"--{option}")
        driver = webdriver.Chrome(options=options, service=Service(chromedriver))
        try:
            driver.get("about:blank")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            driver.get_log("performance")  # what the browser's own first page asked for
            yield driver
        finally:
            driver.quit()


def seconds_to_open(driver: Any, page: Path, patience: float = 120.0) -> tuple[float, float]:
    """Open a page: seconds until it is loaded, and until all its charts stand."""
    start = time.perf_counter()
    driver.get(page.resolve().as_uri())
    loaded = time.perf_counter() - start
    while not driver.execute_script(DRAWN):
        if time.perf_counter() - start > patience:
            raise AssertionError(f"{page}: its charts do not stand after {patience:.0f} s")
        time.sleep(0.05)
    return loaded, time.perf_counter() - start


def asked_for(driver: Any) -> list[str]:
    """Every address that was asked for since the last call, but those inside the page (`data:`, `blob:`)."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    found = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [address for address in found if not address.startswith(("data:", "blob:"))]


def said(driver: Any) -> list[str]:
    """What the page has logged."""
    return [entry["message"] for entry in driver.get_log("browser")]
