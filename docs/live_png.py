"""`docs/tensorboard.png`: a study in TensorBoard's HPARAMS, as a browser shows it.

python -m cmh.tune --method dcmh && python docs/live_png.py studies/dcmh-clipart-32
"""

from __future__ import annotations

import base64
import io
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard import program

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import browser

WIDTH, HEIGHT = 1280, 720  # in CSS pixels
# The tab's elements stand in shadow trees, too; a row of its table names the trial's session.
TEXT = """
const all = (root) => [...root.querySelectorAll("*")].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])]);
return document.body.innerText + all(document).filter((one) => one.shadowRoot).map((one) => one.shadowRoot.textContent);
"""


def wait(driver: Any, word: str, patience: float = 90.0) -> None:
    """Until the page shows the word."""
    until = time.monotonic() + patience
    while word not in driver.execute_script(TEXT):
        if time.monotonic() > until:
            raise SystemExit(f"the page does not show {word!r} after {patience:.0f} s")
        time.sleep(0.5)


def main() -> None:
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", sys.argv[1], "--host", "127.0.0.1", "--port", "0"])
    url = board.launch()
    with browser(WIDTH, HEIGHT) as driver:
        driver.get(f"{url}#hparams")
        wait(driver, "trial-0")
        time.sleep(2)  # its rows come one after the other
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.quantize(128).save(Path(__file__).parent / "tensorboard.png", optimize=True)


if __name__ == "__main__":
    main()
