"""The page, in a real browser: drop an image, see what is found."""

import base64
import io

import pytest
from PIL import Image

from support.browser import browser, missing
from support.served import png
from ziggurat.serving.exchange import PICTURE, ROWS, Ask

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], arguments[1], { type: "image/png" }));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""
SHOWN = "const image = document.getElementById('picture'); return image.hidden ? '' : image.src;"
ROWS_SHOWN = "return [...document.querySelectorAll('#rows tbody tr')].map((tr) => [...tr.cells].map((td) => td.innerText));"


@pytest.fixture(scope="module")
def window(live, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        found.go(live.url)
        found.until("return document.getElementById('model').options.length == 3;")
        yield found


def choose(window, model):
    window.run(
        "const s = document.getElementById('model'); s.value = arguments[0]; s.dispatchEvent(new Event('change'));",
        model,
    )
    window.run("document.getElementById('picture').hidden = true;")


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_an_image_that_is_dropped_is_shown_with_what_is_found(window, replicas, task):
    choose(window, task)
    window.run(DROP, base64.b64encode(png(3)).decode(), "noise.png")
    source = window.until(SHOWN)
    (expected,) = replicas[task].answer([Ask("", png(3), "noise.png", frozenset({ROWS, PICTURE}))])
    assert base64.b64decode(source.partition(",")[2]) == expected.picture
    rows = window.run(ROWS_SHOWN)
    assert 1 <= len(rows) <= 100
    classes = set(replicas[task].card.classes)
    assert all(row[0] in classes for row in rows)
    assert "noise.png" in window.run("return document.getElementById('state').innerText;")


def test_an_image_that_is_chosen_is_shown(window, tmp_path):
    choose(window, "detect")
    file = tmp_path / "chosen.png"
    file.write_bytes(png(0))
    window.type("#file", str(file))
    assert window.until(SHOWN).startswith("data:image/png;base64,")
    assert Image.open(io.BytesIO(window.screenshot())).size[0] > 500


def test_a_file_that_is_no_image_is_refused_in_words(window):
    choose(window, "detect")
    window.run(DROP, base64.b64encode(b"<b>no image</b>").decode(), "<img src=x onerror=alert(1)>.png")
    said = window.until(
        "const s = document.getElementById('state'); return s.className == 'wrong' ? s.innerText : '';"
    )
    assert said.startswith("an image must be png")
