"""`docs/tensorboard.png` and `docs/visdom.png`: a study in TensorBoard's HPARAMS, and a run in visdom's windows.

python -m cmh.tune --method dcmh && python docs/live_png.py studies/dcmh-clipart-32 trial-7

visdom's page needs its scripts, which `python -m visdom.server` downloads at its first start.
"""

from __future__ import annotations

import base64
import io
import multiprocessing
import socket
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from tensorboard import program

sys.path.insert(0, str(Path(__file__).parents[1]))

from cmh import studies
from tests.browser import browser

WIDTH = 1280  # of a page, in CSS pixels
HOST = "127.0.0.1"
PATIENCE = 90.0  # seconds
# Parts of both pages stand in shadow trees.
TEXT = """
const inside = (root) => [...root.querySelectorAll("*")].filter((one) => one.shadowRoot)
  .map((one) => one.shadowRoot.textContent + inside(one.shadowRoot)).join(" ");
return document.body.textContent + inside(document);
"""


def shot(address: str, height: int, words: tuple[str, ...], name: str) -> None:
    """The page as it stands once it shows all these words."""
    with browser(WIDTH, height) as driver:
        driver.get(address)
        until = time.monotonic() + PATIENCE
        while not all(word in driver.execute_script(TEXT) for word in words):
            if time.monotonic() > until:
                raise SystemExit(f"{address} does not show {', '.join(words)} after {PATIENCE:.0f} s")
            time.sleep(0.5)
        time.sleep(3)  # what is drawn meanwhile
        data = driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    image.quantize(128).save(Path(__file__).parent / name, optimize=True)


def serve(port: int, folder: str) -> None:
    from visdom.server.run_server import start_server

    start_server(port=port, env_path=folder, base_url="", bind_local=True)


def main() -> None:
    study, run = Path(sys.argv[1]), sys.argv[2]
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", str(study), "--host", HOST, "--port", "0"])
    shot(f"{board.launch()}#hparams", 720, ("trial-0",), "tensorboard.png")
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
        free.close()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, folder), daemon=True)
        process.start()
        try:
            until = time.monotonic() + PATIENCE
            while studies.main(["visdom", str(study), "--server", f"{HOST}:{port}"]) and time.monotonic() < until:
                time.sleep(1)
            shot(f"http://{HOST}:{port}/env/cmh_{study.name}_{run}", 430, ("MAP", "loss", "mean"), "visdom.png")
        finally:
            process.kill()


if __name__ == "__main__":
    main()
