"""`docs/report.png`: parts of a study's report as a browser shows them, beside each other.

python -m cmh.tune --method dcmh && python docs/report_png.py studies/dcmh-clipart-32
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from cmh.views import report
from tests.browser import browser, seconds_to_open

WIDTH, HEIGHT = 900, 1100  # of a part, in CSS pixels
PARTS = ("result", "curves", "sheets")  # the elements that stand at their tops


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, browser(WIDTH) as driver:
        page = report.write(Path(sys.argv[1]), Path(temporary) / "report.html")
        seconds_to_open(driver, page)
        image = Image.new("RGB", (len(PARTS) * WIDTH, HEIGHT), "white")
        for number, part in enumerate(PARTS):
            find = f"return document.getElementById('{part}').getBoundingClientRect().top + scrollY - 40"
            clip = {"x": 0, "y": driver.execute_script(find), "width": WIDTH, "height": HEIGHT, "scale": 1}
            options = {"captureBeyondViewport": True, "clip": clip}
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", options)
            image.paste(Image.open(io.BytesIO(base64.b64decode(shot["data"]))), (number * WIDTH, 0))
        image.resize((image.width // 2, image.height // 2)).quantize(256).save(
            Path(__file__).parent / "report.png", optimize=True
        )


if __name__ == "__main__":
    main()
