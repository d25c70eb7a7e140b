"""The built site in a real browser: every page, narrow and wide, light and dark.

`make test-site` builds the site and runs this. Without the site, playwright or Chromium the tests are skipped.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

from guidance_core.recipes.finding import shipped as recipes

pytest.importorskip("griffe", reason="the extra `docs` is not installed")

from _pages.methods import shipped
from _pages.reference import public

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
SHOTS = ROOT / "out" / "site"
WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
LOOK = """() => ({
  wide: document.documentElement.scrollWidth - window.innerWidth,
  cut: [...document.querySelectorAll("pre")].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText),
  missing: [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.src),
  formulas: document.querySelectorAll("math").length,
  background: getComputedStyle(document.body).backgroundColor,
})"""

chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(chromium is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built: make docs"),
]


@pytest.fixture(scope="module")
def page():
    """Return a page of a browser, which collects what goes wrong in `page.troubles`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.troubles = []
        page.on("console", lambda said: said.type == "error" and page.troubles.append(said.text))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("requestfailed", lambda request: page.troubles.append(f"not loaded: {request.url}"))
        yield page
        browser.close()


@pytest.fixture(scope="module")
def address():
    """Serve the site on this machine, and return its address."""
    handler = functools.partial(_Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def pages():
    return sorted(path.relative_to(SITE) for path in SITE.rglob("*.html") if "_static" not in path.parts)


@pytest.mark.parametrize("path", pages(), ids=str)
def test_a_page_fits_and_loads(page, path):
    page.troubles.clear()
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.goto((SITE / path).as_uri())  # as a person who opens a file does
    backgrounds = set()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            seen = page.evaluate(LOOK)
            shot = SHOTS / f"{width}-{scheme}" / path.with_suffix(".png")
            page.screenshot(path=shot)
            assert seen["wide"] <= 0, f"at {width} pixels the page is {seen['wide']} pixels too wide"
            assert not seen["missing"]
            assert width < 1400 or not seen["cut"], f"a line of code is cut: {seen['cut']}"
            backgrounds.add(seen["background"])
    assert not page.troubles
    assert len(backgrounds) == 2, "light and dark look alike"
    if path.parent.name == "methods":
        assert seen["formulas"] > 0, "the formula is not typeset"


def test_search_finds_every_method_recipe_and_error(page, address):
    errors = [name.rpartition(".")[2] for name in public()["errors"]]
    wanted = {
        **{info.name: f"methods/{info.name}.html" for info in shipped()},
        **dict.fromkeys(recipes(), "recipes/"),
        **dict.fromkeys(errors, "reference/errors.html"),
    }
    lost = []
    page.goto(f"{address}/search.html?q=cfg")
    page.wait_for_selector("#search-results .search li")
    for name, place in wanted.items():
        found = page.evaluate(
            "name => Search._performSearch(...Search._parseQuery(name)).map(each => each[0] + '.html')", name
        )[::-1]  # the best stand last
        if not any(each.startswith(place) for each in found[:10]):
            lost.append((name, found[:5]))
    assert not lost


def test_search_works_without_a_server(page):
    page.goto((SITE / "search.html").as_uri() + "?q=rescale")
    page.wait_for_selector("#search-results .search li")
    assert "rescale" in page.inner_text("#search-results")


def test_every_page_leads_to_the_next_one(page):
    """From the first page, "next" visits every page of the contents once."""
    page.goto((SITE / "index.html").as_uri())
    seen = set()
    while (following := page.query_selector("a.next-page")) is not None:
        target = following.evaluate("e => e.href")
        assert target not in seen
        seen.add(target)
        page.goto(target)
    expected = {path.as_posix() for path in pages()} - {"index.html", "genindex.html", "search.html"}
    assert {Path(each.partition("/site/")[2]).as_posix() for each in seen} == expected
