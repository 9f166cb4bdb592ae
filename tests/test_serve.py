"""`cmh.search --serve`: what its page is answered, whom it answers, and how it stands in a browser."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import http.client
import importlib.util
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cmh
from cmh import search, style
from cmh.errors import EncoderError
from cmh.use import answers, collection, serve
from cmh.use.answers import Answers
from cmh.use.collection import Items, Pictures
from cmh.use.encoder import Encoder
from tests import browser
from tests.test_search import by_hand

pytestmark = pytest.mark.skipif(
    None in map(importlib.util.find_spec, serve.EXTRA), reason="the extra [serve] is not installed"
)

EVIL = "<img src=//example.com/x onerror=alert(1)>"


@dataclasses.dataclass(frozen=True)
class Site:
    """A server that runs, and what it answers with."""

    port: int
    model: Encoder
    items: dict[str, Items]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer; a name's `_` is `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET" if body is None else "POST", path, body, named)
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()

    def json(self, path: str, body: bytes | None = None, status: int = 200, **query: object) -> Any:
        found, _, text = self.ask(f"{path}?{urllib.parse.urlencode(query)}", body)
        assert found == status, text
        return json.loads(text)


@contextlib.contextmanager
def running(model: Encoder, items: dict[str, Items]) -> Iterator[Site]:
    with serve.listening("127.0.0.1", 0) as at:
        server = serve.server(Answers(model, items, "runs/it", 20), "127.0.0.1")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        try:
            yield Site(at.getsockname()[1], model, items)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def site(run: Path) -> Iterator[Site]:
    model = cmh.load(run)
    with running(model, collection.of_dataset(model)) as found:
        yield found


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def places(found: Any) -> list[tuple[int, int]]:
    return [(one["distance"], one["item"]) for one in found["found"]]


# What it answers


@pytest.mark.parametrize("find", ["pictures", "texts"])
def test_texts_pictures_and_items_find_what_a_slow_scan_does(site: Site, find: str) -> None:
    items = site.items[find]
    raw = site.items["pictures"].pictures.some([40])[40]  # type: ignore[union-attr]
    text = site.model.encode_texts(["red guitar maps"], packed=True)[0]
    picture = site.model.encode_images([raw], packed=True)[0]
    by_text = site.json("/api/search", text="red guitar maps", find=find, top=7)
    assert places(by_text) == by_hand(text, items.codes, 7)
    assert by_text["used"] == ["red", "guitar"]
    assert list(by_text["left_out"]) == ["maps"]
    first = by_text["found"][0]
    assert (first["name"], first["caption"]) == (items.names[first["item"]], items.captions[first["item"]])
    by_picture = site.json("/api/search", raw, find=find)
    assert places(by_picture) == by_hand(picture, items.codes, 20)
    by_item = site.json("/api/search", like=40, of="pictures", find=find)
    assert places(by_item) == places(by_picture)
    assert site.items["pictures"].label(40) in by_item["query"]


def test_a_text_without_a_known_word_has_no_answer(site: Site) -> None:
    for text in ("map", "", " ", "\ud800 xyzzy".encode("utf-8", "replace").decode()):
        found = site.json("/api/search", text=text)
        assert found["found"] == []
        assert "no answer" in found["problem"]


def test_pictures_are_small_and_kept(site: Site) -> None:
    one = site.json("/api/search", text="penguin", top=1)["found"][0]
    status, headers, raw = site.ask("/" + one["picture"])
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "image/png", "private, max-age=3600")
    with Image.open(io.BytesIO(raw)) as picture:
        assert max(picture.size) <= answers.SIDE
    version, _, item = one["picture"].rpartition("/")
    for wrong in (f"{version}/99999", f"{version[:-1]}x/{item}"):
        assert site.ask("/" + wrong)[0] == 404


def test_questions_at_once_do_not_disturb_each_other(site: Site) -> None:
    draw = np.random.default_rng(0)
    texts = ["red guitar", "penguin", "flower", "green car"]
    raws = [png(draw.integers(0, 256, (30, 30, 3))) for _ in range(2)]
    alone = [site.json("/api/search", text=text) for text in texts] + [site.json("/api/search", raw) for raw in raws]
    with ThreadPoolExecutor(8) as pool:
        several = [pool.submit(site.json, "/api/search", text=text) for text in texts * 3]
        several += [pool.submit(site.json, "/api/search", raw) for raw in raws]
        together = [one.result() for one in several]
    assert together == alone[:4] * 3 + alone[4:]


# Whom it answers


def test_other_names_and_other_sites_are_refused(site: Site) -> None:
    ours = f"127.0.0.1:{site.port}"
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1.evil.example", "127.0.0.1@evil.example", ""):
        assert site.ask("/api/about", host=host)[0] == 400
    for host in (ours, f"localhost:{site.port}", f"[::1]:{site.port}"):
        assert site.ask("/api/about", host=host, origin=f"http://{host}")[0] == 200
    for origin in (
        "http://evil.example",
        "null",
        f"http://localhost:{site.port}",
        f"https://{ours}",
        f"http://{ours}0",
    ):
        for body in (None, png(np.zeros((9, 9, 3)))):
            assert site.ask("/api/search?text=red", body, host=ours, origin=origin)[0] == 403
    # an image or a script of ours in another's page; a link there is what people click on
    for where in ("cross-site", "same-site"):
        assert site.ask("/api/about", sec_fetch_site=where, sec_fetch_mode="no-cors")[0] == 403
        assert site.ask("/?text=red", sec_fetch_site=where, sec_fetch_mode="navigate")[0] == 200
    for path in ("/", "/page.js", "/style.css", "/api/about", "/gone", "/api/search"):
        headers = site.ask(path)[1]
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    code, headers, sheet = site.ask("/style.css")
    assert (code, headers["content-type"].partition(";")[0], sheet) == (200, "text/css", style.SHARED.read_bytes())


def test_no_path_leads_elsewhere(site: Site) -> None:
    version = site.json("/api/search", text="red", top=1)["found"][0]["picture"].split("/")[2]
    for path in (
        *("/../serve.py", "/%2e%2e/serve.py", "/..%2fserve.py", "//etc/passwd", "/%2fetc%2fpasswd", "/..%5cserve.py"),
        *("/page.js/../../serve.py", "/%00", "/api/../../serve.py", "/../../../../../../../etc/passwd"),
        *(f"/api/picture/{version}/{what}" for what in ("..%2f..%2fserve.py", "-1", "1e3", "9" * 5000, "%C2%B2", "")),
    ):
        status, _, body = site.ask(path)
        assert status in (400, 404), path
        assert b"import" not in body
        assert b"root:" not in body


def test_what_is_asked_wrongly_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    good = png(np.zeros((9, 9, 3)))
    for query, problem in (
        ({}, "nothing to search for"),
        ({"text": "red", "top": 0}, "top is '0', but must be an integer from 1 to 200"),
        ({"text": "red", "top": "9" * 5000}, "must be an integer"),
        ({"text": "red", "find": "pigs"}, "find is 'pigs', but must be pictures or texts"),
        ({"like": -1}, "like is '-1', but must be an integer"),
        ({"like": 1, "of": "pigs"}, "of is 'pigs'"),
    ):
        assert problem in site.json("/api/search", status=400, **query)["error"]
    assert site.json("/api/search", status=404, like=10**6)["error"] == "there is no such item"
    assert "may have at most 10,000" in site.json("/api/search", status=422, text="red " * 3000)["error"]
    for raw, problem in (
        (b"", "the picture is empty"),
        (b"<svg/>", "no picture in one of the formats"),
        (png(np.arange(300).reshape(10, 10, 3) % 251)[:70], "damaged"),
        (png(np.zeros((1, 1001))), "one side may be at most"),
    ):
        assert problem in site.json("/api/search", raw, status=422)["error"]
    monkeypatch.setattr(serve, "MOST_BYTES", len(good) - 1)
    assert "at most" in site.json("/api/search", good, status=413)["error"]


def test_names_of_any_bytes_are_shown_and_texts_keep_their_strokes(site: Site, tmp_path: Path) -> None:
    codes = np.zeros((2, 2), np.uint8)
    names = ["deep/caf\udce9.png", f"deep/{EVIL[:-1]}"]
    items = {
        "pictures": Items(codes, names, [], Pictures([tmp_path / "a", tmp_path / "b"])),
        "texts": Items(codes, ["1/2 cup", "\udce9"], []),
    }
    found = Answers(site.model, items, "it \udce9", 1000)
    assert found.about()["target"] == "it ?"
    assert [one["name"] for one in found.for_text("red", "pictures", None)["found"]] == [
        "caf?.png",
        "x onerror=alert(1)",
    ]
    assert [one["name"] for one in found.for_text("red", "texts", 1)["found"]] == ["1/2 cup"]
    assert found.for_item("texts", 0, "pictures", 1)["query"] == "“1/2 cup”"  # type: ignore[index]
    json.dumps(found.for_text("red", "texts", None), ensure_ascii=False).encode()
    version = found.for_text("red", "pictures", 1)["found"][0]["picture"].split("/")[2]
    assert found.picture(version, 0) is None  # gone since


def test_what_is_no_file_is_not_read() -> None:
    assert Pictures([Path("/dev/zero"), Path("/")]).some([0, 1]) == {}


def test_models_of_given_features_say_what_they_cannot_take(site: Site) -> None:
    def other(**changes: Any) -> Encoder:
        model = copy.copy(site.model)
        model.description = dataclasses.replace(model.description, **changes)
        return model

    matrix = dataclasses.replace(site.model.description.text, kind="matrix")
    blind = Answers(other(network=""), {"pictures": site.items["pictures"]}, "it", 5)
    assert blind.about()["cannot"] == "It was trained on given features of pictures, so that it sees no picture."
    assert len(blind.for_text("red", "pictures", None)["found"]) == 5
    with pytest.raises(EncoderError, match="sees no picture"):
        blind.for_picture(b"", "pictures", None)
    with pytest.raises(EncoderError, match="there are no texts to find"):
        blind.for_text("red", "texts", None)
    assert blind.for_item("texts", 0, "pictures", None) is None
    with pytest.raises(EncoderError, match="reads no text"):
        Answers(other(text=matrix), site.items, "it", 5).for_text("red", "pictures", None)
    with pytest.raises(EncoderError, match=r"--serve it: .* can take neither a text nor a picture"):
        Answers(other(network="", text=matrix), site.items, "it", 5)
    with pytest.raises(EncoderError, match="there is nothing to find"):
        Answers(site.model, {"texts": Items(np.zeros((0, 2), np.uint8), [], [])}, "it", 5)


# The command


def test_bad_options_are_one_message_each(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, problem in (
        (["--serve", "red"], "--serve takes no TEXT, --image or --sheet"),
        (["--serve", "--sheet", "s.png"], "--serve takes no TEXT, --image or --sheet"),
        (["red", "--port", "1"], "--host and --port are of --serve"),
        (["--serve", "--port", "65536"], "must be at most 65535"),
    ):
        with pytest.raises(SystemExit):
            search.main([str(run), *options])
        assert problem in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, why in (
            ("127.0.0.1", "Address already in use"),
            ("", "it is empty"),
            ("*", "not known"),
            ("x\0", "null"),
        ):
            assert search.main([str(run), "--serve", "--port", str(port), "--host", host]) == 2
            err = capsys.readouterr().err
            assert err.startswith(f"error: --host {host}")
            assert why in err
    monkeypatch.setattr(serve, "EXTRA", ("starlette", "uvicorm"))
    assert search.main([str(run), "--serve"]) == 2
    assert "--serve needs uvicorm, of the extra [serve]: pip install 'cmh[serve]'" in capsys.readouterr().err


def test_who_may_come_is_what_host_names() -> None:
    with serve.listening("127.0.0.1", 0) as at:
        port = at.getsockname()[1]
        assert serve.address("127.0.0.1", at) == f"http://127.0.0.1:{port}/"
        assert not serve.open_to_others(at)
    with serve.listening("0.0.0.0", 0) as at:  # noqa: S104
        assert serve.open_to_others(at)
        assert serve.address("0.0.0.0", at).startswith(f"http://{socket.gethostname()}:")  # noqa: S104
    assert serve._names("pictures.example") == [*serve.OURS, "pictures.example"]
    assert serve._names("fe80::1")[-1] == "[fe80::1]"


def test_an_interrupt_is_its_end(run: Path) -> None:
    command = [sys.executable, "-m", "cmh.search", str(run), "--serve", "--top", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            at = urllib.parse.urlsplit(address)
            assert (at.hostname, process.stdout.readline()) == ("127.0.0.1", "Ctrl-C ends it\n")
            assert at.port is not None
            connection = http.client.HTTPConnection(at.hostname, at.port)
            connection.request("GET", "/api/search?text=red")
            assert len(json.loads(connection.getresponse().read())["found"]) == 3
            process.send_signal(signal.SIGINT)  # while the connection stays open
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "\nended\n")
    assert "Traceback" not in err


# The page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with browser.browser() as driver:
            yield driver
    except RuntimeError as error:
        pytest.skip(str(error))


def answered(driver: Any, before: int) -> list[tuple[str, str]]:
    """(distance, caption) of each result, once a further answer stands and its first pictures are there."""
    script = (
        f"return Number(document.documentElement.dataset.answers || 0) > {before}"
        " && [...document.querySelectorAll('#found img')].slice(0, 4).every((image) => image.naturalWidth)"
    )
    end = time.monotonic() + 60
    while not driver.execute_script(script):
        assert time.monotonic() < end, driver.find_element("tag name", "body").text
        time.sleep(0.05)
    read = (
        "return [...document.querySelectorAll('#found li')].map((row) =>"
        " ['.distance', '.caption'].map((one) => row.querySelector(one).textContent))"
    )
    return [(distance, caption) for distance, caption in driver.execute_script(read)]


def answers_so_far(driver: Any) -> int:
    return int(driver.execute_script("return Number(document.documentElement.dataset.answers || 0)"))


def words(driver: Any, name: str) -> str:
    return str(driver.find_element("id", name).text)


def shown(found: Any) -> list[tuple[str, str]]:
    return [
        (f"{one['distance']} bit{'s' * (one['distance'] != 1)}", one["caption"] or one["name"])
        for one in found["found"]
    ]


def test_in_a_browser(site: Site, chromium: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for width in (1280, 390):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # typed; the box has the focus
        chromium.get(site.address)
        chromium.switch_to.active_element.send_keys("red guitar maps", Keys.ENTER)
        assert answered(chromium, 0) == shown(site.json("/api/search", text="red guitar maps"))
        assert chromium.current_url == f"{site.address}?text=red+guitar+maps&find=pictures"
        assert words(chromium, "used") == "words used: red, guitar"
        assert words(chromium, "unused").startswith("words not used: maps (names a label")
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
        # from the keyboard: on to the first result, and to what is like it
        first = site.json("/api/search", text="red guitar maps")["found"][0]
        chromium.find_element(By.CSS_SELECTOR, "#found a").send_keys(Keys.ENTER)
        like = site.json("/api/search", like=first["item"], of="pictures")
        assert answered(chromium, 0) == shown(like)
        assert words(chromium, "status") == f"the 20 nearest pictures for {like['query']}"
        # the address is the question
        chromium.get(f"{site.address}?text=penguin&find=texts")
        assert answered(chromium, 0) == shown(site.json("/api/search", text="penguin", find="texts"))
        chromium.get(f"{site.address}?{urllib.parse.urlencode({'text': EVIL + ' map'})}")
        assert answered(chromium, 0) == []
        assert "it has no answer" in words(chromium, "status")
        chromium.get(f"{site.address}?{urllib.parse.urlencode({'text': EVIL + ' red'})}")
        assert len(answered(chromium, 0)) == 20
        assert words(chromium, "status") == f"the 20 nearest pictures for “{EVIL} red”"
    # a picture: chosen, then dropped
    picture = tmp_path / "query.png"
    picture.write_bytes(site.items["pictures"].pictures.some([40])[40])  # type: ignore[union-attr]
    before = answers_so_far(chromium)
    chromium.find_element(By.ID, "file").send_keys(str(picture))
    wanted = shown(site.json("/api/search", picture.read_bytes()))
    assert answered(chromium, before) == wanted
    assert chromium.current_url == site.address
    assert chromium.execute_script("return document.getElementById('query').naturalWidth") > 0
    before = answers_so_far(chromium)
    chromium.find_element(By.CSS_SELECTOR, "input[value=texts]").click()
    assert answered(chromium, before) == shown(site.json("/api/search", picture.read_bytes(), find="texts"))
    chromium.get(site.address)
    drop = (
        "const transfer = new DataTransfer(), raw = Uint8Array.from(arguments[0]);"
        "transfer.items.add(new File([raw], 'query.png', {type: 'image/png'}));"
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}))"
    )
    while not chromium.execute_script("return document.getElementById('about').textContent"):
        time.sleep(0.05)
    chromium.execute_script(drop, list(picture.read_bytes()))
    assert answered(chromium, 0) == wanted
    assert all(address.startswith(site.address) for address in browser.asked_for(chromium))
    assert browser.said(chromium) == []
    # what is no picture, and what is too large
    chromium.get(f"{site.address}?text=red")
    answered(chromium, 0)
    chromium.execute_script(drop, list(b"<svg/>"))
    assert answered(chromium, 1) == []
    assert words(chromium, "status").startswith("no picture in one of the formats")
    chromium.execute_script(f"about.most_bytes = 5; {drop}", list(b"<svg/>"))
    assert words(chromium, "status") == "the picture has 6 bytes, but may have at most 5"
