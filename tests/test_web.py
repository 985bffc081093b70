"""The pages for a browser: the index page is one file that needs nothing else, fits every screen,
answers for a reader's case, and reads a run of theirs.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.arms import summarise
from harness.analysis.ceilings import is_ceiling
from harness.analysis.run_cells import cells_of
from harness.analysis.statistics import Estimate, estimate, interval_rank
from harness.records.run_directory import REFERENCE, RunDirectory
from harness.records.sample import LATE
from harness.report.run_page import write_reports
from harness.report.web.run_html import page_html
from tests.helpers import ROOT, installed, make_sample
from tests.test_report import ARMS, CHECKPOINTS, cell_samples, make_run

pytestmark = pytest.mark.slow

WANTED = "WEIGHBRIDGE_BROWSER"
"""A variable that says that a browser is there: then a test that finds none fails."""
SCREENSHOTS = "WEIGHBRIDGE_SCREENSHOTS"
"""A folder to keep screenshots in, for a person to look at."""
BROWSERS, DRIVERS = (
    ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser"),
    ("chromedriver",),
)
PHONE, DESK = 390, 1440
MOST_BYTES = 600_000
"""What the index page may weigh."""
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
    """Return the page of a run with two figures of one drawing, and a wide table."""
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
    heads = " | ".join(f"a long head {number}" for number in range(20))
    wide = f"| {heads} |\n|{' --- |' * 20}\n| {' | '.join(['word'] * 20)} |"
    blocks = [
        *("## The answer", TABLE, f"**holds** {extra}", "[the run](20250101T000000Z-a.md)"),
        *("## The evidence", *figure, *other, wide, "## The answer", *third),
    ]
    return page_html("Run a", blocks, folder, {"figures/one.svg", "figures/two.svg"})


def test_every_figure_has_a_name_and_a_reading(tmp_path: Path) -> None:
    text = page(tmp_path)
    named = text.count('role="img" aria-label="A &quot;line&quot; &amp; its end"')
    assert named == text.count("<figure ") == 2
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(captions) == 2 and all(
        "How to read it" in one and 'href="../results/r/samples.jsonl"' in one for one in captions
    )
    assert "three.svg" not in text, "a figure that is not drawn in place is named, not linked"


def test_no_name_stands_twice_and_letters_are_shared(tmp_path: Path) -> None:
    text = page(tmp_path)
    ids = Counter(re.findall(r'\bid="([^"]*)"', text))
    assert [name for name, count in ids.items() if count > 1] == []
    links = set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text))
    assert links <= set(ids)
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


def test_a_run_links_to_the_page_of_another(tmp_path: Path) -> None:
    assert 'href="20250101T000000Z-a.html"' in page(tmp_path)


def test_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)


MACHINE = {
    "machine": {"cpu": "A <Processor>", "cores": 2, "kernel": "6.1", "gpus": []},
    "storage": {"device": "vda", "file_system": "ext4"},
}
SLOW = {"safetensors-load-file": (90.0, 95.0), "torch-load": (40.0, 60.0)}
HUNGRY = {"torch-load": 2.0, "torch-load-mmap": 1.2}
"""How much memory a loader takes at its peak, times the file; another once."""


def made_reports(folder: Path) -> Path:
    """Return the index page of a made run: three sizes, each cold and warm."""
    samples = [
        sample
        for name in CHECKPOINTS
        for state, arms in (("warm", ARMS), ("cold", ARMS | SLOW))
        for sample in cell_samples(arms=arms, checkpoint=name, cache_state=state)
    ]
    samples = [with_peak(sample) for sample in samples]
    run = make_run(folder / "results", samples, "20250101T000000Z-a", **MACHINE)
    return write_reports([run], folder / "reports").with_name("index.html")


def with_peak(sample: Any) -> Any:
    """Return a sample that took as much memory as its loader does."""
    peak = int(HUNGRY.get(sample.loader, 1.0) * sample.bytes)
    return type(sample)(**(sample.as_json() | {"peak_growth_bytes": peak}))


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


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index page of a made run."""
    return made_reports(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=["made", "committed"])
def opened(request: pytest.FixtureRequest, browser: Any, index: Path) -> Any:
    """The browser with each index page: of a made run, and the one that is committed."""
    path = index if request.param == "made" else ROOT / "reports/index.html"
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


def test_the_index_needs_nothing_but_itself(index: Path) -> None:
    for path in (index, ROOT / "reports/index.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
        assert "<img" not in text and "@import" not in text and "url(" not in text
        assert re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]*)"', text) == ["data:,"]
        assert len(text.encode()) <= MOST_BYTES
        ids = Counter(re.findall(r'\bid="([^"]*)"', text))
        assert max(ids.values()) == 1
        assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)


def test_every_page_the_index_links_to_is_there(index: Path) -> None:
    for path in (index, ROOT / "reports/index.html"):
        links = set(re.findall(r'href="([\w.-]+\.html)"', path.read_text(encoding="utf-8")))
        assert len(links) > 1
        assert [link for link in links if not (path.parent / link).is_file()] == []


def test_a_processors_name_is_text_and_never_markup(index: Path) -> None:
    text = index.read_text(encoding="utf-8")
    assert "&lt;" in text and "<Processor>" not in text


@pytest.mark.parametrize("width", [360, PHONE, DESK])
def test_nothing_overflows(opened: Any, width: int) -> None:
    show(opened, width, "light")
    opened.execute_script("document.querySelectorAll('details').forEach(one => one.open = false)")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_every_cell_of_a_table_is_in_view_on_a_phone(opened: Any) -> None:
    show(opened, PHONE, "light")
    opened.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    script = (
        "return [...document.querySelectorAll('td')].map(c => c.getBoundingClientRect())"
        ".filter(r => r.width > 0).map(r => [r.left, r.right])"
    )
    edges = opened.execute_script(script)
    assert edges
    assert [edge for edge in edges if edge[0] < 0 or edge[1] > PHONE] == []


def test_the_first_screen_asks_answers_and_says_what_to_type(opened: Any) -> None:
    show(opened, DESK, "light")
    opened.execute_script("scrollTo(0, 0)")
    bottom = (
        "return [...document.querySelectorAll(arguments[0])].map("
        "e => e.getBoundingClientRect().bottom)"
    )
    for element in (".brand", "h1", ".lead", "dl.type code", ".hero figure"):
        places = opened.execute_script(bottom, element)
        assert places and max(places) <= 900, element


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


def choose(browser: Any, **answers: str) -> str:
    """Choose answers in the form, in its order, and return what the page advises."""
    script = (
        "const s = document.querySelector(`select[name=${arguments[0]}]`);"
        " s.value = [...s.options].map(o => o.value).find(v => v.startsWith(arguments[1]));"
        " s.dispatchEvent(new Event('change'));"
    )
    for name, value in answers.items():
        browser.execute_script(script, name, value)
    return str(browser.execute_script("return document.getElementById('answer').textContent"))


def test_the_chooser_answers_for_a_case(browser: Any, index: Path) -> None:
    browser.get(index.as_uri())
    assert choose(browser, size="498 MB", state="yes").startswith("Use safetensors (mapped): ready")
    cold = choose(browser, state="no")
    assert cold.startswith("Use torch.load (mapped): ready after 31 ms")
    assert 'torch.load("model.pt", weights_only=True, mmap=True)' in cold


def test_a_memory_limit_leaves_loaders_out(browser: Any, index: Path) -> None:
    browser.get(index.as_uri())
    choose(browser, size="498 MB", state="no")
    assert choose(browser, limit="1.25").startswith("Use torch.load (mapped)")
    tight = choose(browser, limit="1 times")
    assert tight.startswith("Use safetensors (mapped)") and "2 of 3 loaders need more" in tight


def test_the_chooser_and_the_table_say_the_same(browser: Any, index: Path) -> None:
    browser.get(index.as_uri())
    data = browser.execute_script(
        "return JSON.parse(document.getElementById('cases').textContent).cells.map("
        "c => [c.label, c.state])"
    )
    browser.execute_script("document.getElementById('every-case').open = true")
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#every-case tbody tr')].map("
        "r => r.cells[1].textContent)"
    )
    states = {"cold": "no", "warm": "yes"}
    advised = [choose(browser, size=label, state=states[state]) for label, state in data]
    assert len(rows) == len(advised) == 2 * len(CHECKPOINTS)
    assert all(f"Use {row}:" in text for row, text in zip(rows, advised, strict=True))


def test_without_a_script_there_is_the_table(browser: Any, index: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(index.as_uri())
        assert not browser.find_element("id", "ask").is_displayed()
        browser.find_element("css selector", "#every-case summary").click()
        assert browser.find_element("css selector", "#every-case td").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_table_is_put_in_the_order_of_a_column_by_its_figures(
    browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(tmp_path), encoding="utf-8")
    for name in ("page.css", "page.js"):
        shutil.copy(ROOT / "harness/report/web" / name, tmp_path)
    browser.get(path.as_uri())
    show(browser, DESK, "light")

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


def test_a_wide_table_of_a_run_keeps_its_first_column_in_view(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(tmp_path), encoding="utf-8")
    for name in ("page.css", "page.js"):
        shutil.copy(ROOT / "harness/report/web" / name, tmp_path)
    browser.get(path.as_uri())
    show(browser, PHONE, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    script = (
        "const s = [...document.querySelectorAll('.scroll')].find(e => e.scrollWidth > 900);"
        " s.scrollLeft = 500; const r = s.querySelector('td').getBoundingClientRect();"
        " return [r.left, r.right]"
    )
    left, right = browser.execute_script(script)
    assert 0 <= left < right <= PHONE


# Open my run


def smallest_run() -> RunDirectory:
    """Return the smallest committed run of loads whose samples are not packed."""
    runs = [run for run in RunDirectory.all_in(ROOT / REFERENCE) if run.samples()]
    plain = [run for run in runs if (run.path / "samples.jsonl").exists()]
    return min(plain, key=lambda run: (run.path / "samples.jsonl").stat().st_size)


def summarised(browser: Any, run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Return what the page makes of a run's samples, by cell and loader."""
    lines = "\n".join(json.dumps(sample.as_json()) for sample in run.samples())
    cells = browser.execute_script(
        "return weighbridge.summarise(weighbridge.parse(arguments[0]))", lines
    )
    return {f"{cell['cell']} {row['loader']}": row for cell in cells for row in cell["rows"]}


def test_the_page_computes_what_the_report_does(browser: Any, index: Path) -> None:
    browser.get(index.as_uri())
    run = smallest_run()
    theirs = summarised(browser, run)
    ours = [(cell, arm) for cell in cells_of(run.manifest(), run.samples()) for arm in cell.arms]
    assert len(theirs) == len(ours) > 0
    for cell, arm in ours:
        key = cell.key
        ranks = f"{key.ranks} ranks" if key.ranks else None
        ahead = f"readahead {key.read_ahead_kb} KiB" if key.read_ahead_kb is not None else None
        what = (key.scenario, key.checkpoint, key.part, ranks, key.cache_state, key.device, ahead)
        row = theirs[f"{' / '.join(filter(None, what))} {arm.loader}"]
        assert as_estimate(row["ready"]) == arm.ready
        assert as_estimate(row["returned"]) == arm.returned
        if not is_ceiling(arm.loader):
            assert as_estimate(row["ratio"]) == arm.ratio_ready
        assert (row["valid"], row["total"]) == (arm.valid, arm.total)


def test_the_page_leaves_out_what_the_report_does(
    browser: Any, index: Path, tmp_path: Path
) -> None:
    """A loader that returned wrong tensors once, and one that shaped storage kept late."""
    faults = {("torch-load", 0): "wrong-content"} | {
        ("safetensors-load-file", block): LATE for block in range(3)
    }
    samples = [
        make_sample(
            loader=loader,
            block=block,
            valid=(loader, block) not in faults,
            reason=faults.get((loader, block)),
        )
        for block in range(8)
        for loader in ("torch-load", "safetensors-load-file", "torch-load-mmap")
    ]
    browser.get(index.as_uri())
    rows = summarised(browser, make_run(tmp_path, samples))
    with_figures = {name.split()[-1] for name, row in rows.items() if row["ready"]}
    assert with_figures == {arm.loader for arm in summarise(samples) if arm.ready}
    assert with_figures == {"torch-load-mmap"}


def as_estimate(content: dict[str, Any] | None) -> Estimate | None:
    return Estimate(**content) if content else None


def test_the_pages_intervals_are_the_exact_ones(browser: Any, index: Path) -> None:
    browser.get(index.as_uri())
    counts = [*range(1, 130), 999, 1000, 1001]
    ranks = browser.execute_script("return arguments[0].map(weighbridge.intervalRank)", counts)
    assert ranks == [interval_rank(count) for count in counts]
    values = [5.0, 1.0, 4.0, 2.0, 3.5, 0.1, 7.25, 6.0]
    found = browser.execute_script("return weighbridge.estimate(arguments[0])", values)
    assert as_estimate(found) == estimate(values)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_persons_run_is_opened(browser: Any, index: Path, tmp_path: Path, packed: bool) -> None:
    browser.get(index.as_uri())
    run = make_run(tmp_path, cell_samples())
    path = run.path / "samples.jsonl"
    if packed:
        content = path.read_bytes()
        path = path.with_suffix(".jsonl.gz")
        path.write_bytes(gzip.compress(content))
    text = opened_run(browser, path)
    assert "24 of 24 samples are valid" in text
    assert "full-load / gpt2 / warm / cpu" in text and "torch-load-mmap" in text
    assert browser.execute_script(
        "return document.querySelectorAll('#run-result .row').length"
    ) == len(ARMS)


def test_a_failed_try_under_a_memory_limit_is_no_invalid_sample(
    browser: Any, index: Path, tmp_path: Path
) -> None:
    browser.get(index.as_uri())
    tries = [
        make_sample(valid=False, reason="killed", memory_limit_bytes=1 << 20, block=block)
        for block in range(3)
    ]
    path = make_run(tmp_path, [*cell_samples(), *tries]).path / "samples.jsonl"
    assert "24 of 24 samples are valid" in opened_run(browser, path)


def test_a_file_that_is_no_run_is_named(browser: Any, index: Path, tmp_path: Path) -> None:
    browser.get(index.as_uri())
    path = tmp_path / "notes.jsonl"
    path.write_text('{"a": 1}\n', encoding="utf-8")
    assert opened_run(browser, path).startswith("Line 1 is no sample of a load.")


def opened_run(browser: Any, path: Path) -> str:
    """Choose a file and return what the page says of it."""
    browser.find_element("id", "run-file").send_keys(str(path))
    wait = installed("selenium.webdriver.support.wait").WebDriverWait(browser, 10)
    script = "return document.getElementById('run-result').textContent"
    return str(wait.until(lambda _: browser.execute_script(script)))
