"""The page for a browser: one file that needs nothing else, in which every table sorts and nothing
overflows, light and dark.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report.index_page import Front
from harness.report.web import web_page
from tests.helpers import installed

pytestmark = pytest.mark.slow

WANTED = "WEIGHBRIDGE_BROWSER"
"""A variable that says that a browser is there: then a test that finds none fails."""
SCREENSHOTS = "WEIGHBRIDGE_SCREENSHOTS"
"""A folder to keep screenshots in, for a person to look at."""
BROWSERS, DRIVERS = (
    ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser"),
    ("chromedriver",),
)
DRAWING = """<?xml version="1.0"?><!DOCTYPE svg>
<svg xmlns:xlink="x" width="500pt" height="100pt" viewBox="0 0 500 100" version="1.1">
 <metadata><x>secret</x></metadata>
 <defs><path id="DejaVuSans-41" d="M 1
 2" transform="scale(0.01)"/></defs>
 <g id="axes_1"><path d="M 0 0 L 9 9" clip-path="url(#p1)"
  style="fill: #ffffff; stroke: #000000"/><use xlink:href="#DejaVuSans-41"/>
 <path id="m1" d="M 0 0" style="stroke: #e69f00"/><use xlink:href="#m1"/></g>
 <defs><clipPath id="p1"><rect width="9" height="9"/></clipPath></defs>
</svg>
"""
TABLE = (
    "| loader | ready | note |\n| --- | ---: | --- |\n| b | 1.5 s | x |\n| a | 900 ms [1\u20132] |"
    " missing |\n| c | missing | <script>alert(1)</script> |\n| d | 1,200 ms | y |"
)


def page(folder: Path, extra: str = "") -> str:
    """Return a page with two figures of one drawing, a table, and a run folded below."""
    (folder / "figures").mkdir(exist_ok=True)
    for name in ("one", "two", "three"):
        (folder / f"figures/{name}.svg").write_text(DRAWING, encoding="utf-8")
    figure, other, third = (
        [
            f'![A "line" & its end](figures/{name}.svg)',
            "How to read it: from left to right. [Its samples](../results/r/samples.jsonl).",
        ]
        for name in ("one", "two", "three")
    )
    wide = (
        "| "
        + " | ".join(f"a long head {number}" for number in range(20))
        + " |\n|"
        + " --- |" * 20
        + "\n| "
        + " | ".join(["word"] * 20)
        + " |"
    )
    front = Front("Is it true?", "Here it is.", {"holds": 4, "does not hold": 1})
    sections = [
        ["## The answer", TABLE, f"**holds** {extra}", "[the run](20250101T000000Z-a.md)"],
        ["## The evidence", *figure, *other, wide],
    ]
    return web_page(
        front,
        sections,
        {"20250101T000000Z-a": ["# Run 20250101T000000Z-a", "## The answer", *figure, *third]},
        folder,
    )


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    assert (
        "<img" not in text and "@import" not in text and "url(" not in re.sub(r"url\(#", "", text)
    )
    assert re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]*)"', text) == ["data:,"]


def test_every_figure_has_a_name_a_reading(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert (
        text.count('role="img" aria-label="A &quot;line&quot; &amp; its end"')
        == text.count("<figure ")
        == 2
    )
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(captions) == 2 and all(
        "How to read it" in one and 'href="../results/r/samples.jsonl"' in one for one in captions
    )


def test_a_folded_run_has_the_way_to_its_figures(tmp_path: Path) -> None:
    """One that stands above leads there, another to its file."""
    text = page(tmp_path)
    assert re.findall(r'<p>Figure: <a href="([^"]*)">A .*? its end</a>.</p>', text) == ["#figure-1"]
    assert "three.svg" not in text, (
        "a page that stands by itself has no link to a file that is built"
    )


def test_no_name_stands_twice_and_letters_are_shared(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert [
        name for name, count in Counter(re.findall(r'\bid="([^"]*)"', text)).items() if count > 1
    ] == []
    names = set(re.findall(r'\bid="([^"]*)"', text))
    assert (
        set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text))
        <= names
    )
    assert text.count('id="DejaVuSans-41"') == 1 and text.count('href="#DejaVuSans-41"') == 2
    assert "secret" not in text


def test_inks_follow_the_page_and_the_palette_stays(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "fill: var(--sheet); stroke: var(--ink)" in text
    assert "stroke: #e69f00" in text.lower()


def test_what_a_run_says_is_text_and_never_markup(tmp_path: Path) -> None:
    text = page(tmp_path, extra="<b onclick=x>bold</b> [x](javascript:alert(1))")
    assert "<script>alert(1)</script>" not in text and "&lt;script&gt;" in text
    assert "<b onclick" not in text and 'href="javascript:' not in text


def test_a_runs_own_page_is_reached_inside_the_page(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert 'href="#20250101T000000Z-a"' in text and '<details id="20250101T000000Z-a">' in text


def test_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser without a window.

    The tests are skipped where there is none, and fail where one was promised.
    """

    binary, driver = (
        next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS)
    )
    if not binary or not driver:
        reason = f"no browser with its driver: looked for {', '.join((*BROWSERS, *DRIVERS))}"
        if os.environ.get(WANTED):
            pytest.fail(f"{reason}, though {WANTED} says that there is one")
        pytest.skip(reason)
    webdriver = installed("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=driver)
    )
    yield started
    started.quit()


@pytest.fixture(scope="module", params=["made", "committed"])
def opened(
    request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The browser with a page of each kind: a made one, and the one that is committed."""
    path = Path(__file__).parents[1] / "reports/index.html"
    if request.param == "made":
        path = tmp_path_factory.mktemp("page") / "index.html"
        path.write_text(page(path.parent), encoding="utf-8")
    browser.get(path.as_uri())
    browser.page_kind = request.param
    return browser


def show(browser: Any, width: int, mode: str) -> None:
    """Make the window this wide, in CSS pixels, with the colours a person prefers."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": mode}]},
    )


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_overflows(opened: Any, width: int) -> None:
    show(opened, width, "light")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_light_and_dark_are_two_pages_that_can_be_read(opened: Any, tmp_path: Path) -> None:
    folder = Path(os.environ.get(SCREENSHOTS) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    seen = {}
    for mode in ("light", "dark"):
        for width in (1440, 360):
            show(opened, width, mode)
            assert opened.save_screenshot(str(folder / f"{opened.page_kind}-{mode}-{width}.png"))
        of_ink = (
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map(c"
            " => c.match(/\\d+/g).slice(0, 3).map(Number))"
        )
        paper, ink = ([value / 255 for value in colour] for colour in opened.execute_script(of_ink))
        seen[mode] = tuple(paper)
        light, dark = sorted(
            (
                sum(w * v**2.2 for w, v in zip((0.2126, 0.7152, 0.0722), one, strict=True))
                for one in (paper, ink)
            ),
            reverse=True,
        )
        assert (light + 0.05) / (dark + 0.05) > 7, f"{mode}: text stands out from its ground"
    assert seen["light"] != seen["dark"]


def test_no_error_reaches_the_console(opened: Any) -> None:
    assert [
        entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ] == []


def test_a_table_is_put_in_the_order_of_a_column_by_its_figures(
    browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(tmp_path), encoding="utf-8")
    browser.get(path.as_uri())

    def press(column: int) -> tuple[list[str], str | None]:
        script = (
            "const t = document.querySelector('table'), h = t.tHead.rows[0].cells[arguments[0]];"
            " h.querySelector('button').click();"
        )
        script += (
            "return [[...t.tBodies[0].rows].map(r => r.cells[0].textContent),"
            " h.getAttribute('aria-sort')]"
        )
        return tuple(browser.execute_script(script, column))

    assert press(1) == (["a", "d", "b", "c"], "ascending")
    assert press(1) == (["b", "d", "a", "c"], "descending")
    assert press(0) == (["a", "b", "c", "d"], "ascending")
    assert browser.execute_script("return document.querySelectorAll('[aria-sort]').length") == 1


def test_a_link_to_a_run_opens_it(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(tmp_path), encoding="utf-8")
    browser.get(path.as_uri())
    show(browser, 1440, "light")
    # The page scrolls smoothly, and a click at where the link was a moment ago would miss it.
    link = browser.find_element("css selector", 'a[href="#20250101T000000Z-a"]')
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", link
    )
    link.click()
    # A browser tells a page of its new place only after the click is done.
    wait = installed("selenium.webdriver.support.wait").WebDriverWait(browser, 10)
    assert wait.until(
        lambda _: browser.execute_script("return document.querySelector('details').open")
    )
