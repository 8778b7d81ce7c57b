"""The page of ``diffstyle report`` in a real browser, opened from disk."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.report_runs import key, made_up_run, with_frechet
from support.waiting import NEVER
from support.whole_jobs import manifest

from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.report import sheets, write
from pipeline.results.report.write import write_report
from pipeline.results.select.keep_list import read_keep_list
from pipeline.storage.place import Place

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

CONTENTS = [f"content {n:02}" for n in range(10)]
STYLES = [f"style {n:02}" for n in range(10)]
HOSTILE = "</script><img src=x onerror='window.hacked=1'>\"\U0001f600"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # In a container its shared memory may be small, and it may have no rights for a sandbox.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        try:
            chromium = started.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=1000 * NEVER)
        except playwright.Error as error:
            pytest.skip(f"this machine's chromium does not start: {error}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """200 pairs: ten contents in ten styles at two gammas, scored."""
    out = made_up_run(tmp_path_factory.mktemp("run") / "out", CONTENTS, STYLES, (0.3, 0.6))
    return write_report(Place.parse(str(out))).page


@pytest.fixture
def visit(browser):
    """Open a page; at the end of the test, nothing may have gone wrong in it or been asked of a network."""
    wrong, contexts = [], []

    def open_page(page: Path, **settings):
        contexts.append(browser.new_context(**settings))
        contexts[-1].set_default_timeout(1000 * NEVER)
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        # A picture that is still being read when its page is left is aborted, which is no failure.
        tab.on(
            "requestfailed",
            lambda request: request.failure == "net::ERR_ABORTED" or wrong.append(f"failed: {request.url}"),
        )
        tab.on(
            "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
        )
        tab.on("dialog", lambda dialog: dialog.accept())
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def count(tab) -> str:
    return tab.inner_text("#count")


def first(tab) -> str:
    """What the first tile of the list says."""
    return tab.locator(".tile").first.get_attribute("aria-label")


def title(tab) -> str:
    return tab.inner_text("#detail-title")


def test_the_matrix_opens_with_its_pictures(visit, report):
    tab = visit(report)
    assert tab.title() == "out - DiffStyle report"
    assert count(tab) == "200 pairs"
    assert tab.locator(".tile").count() >= 40
    tile = tab.get_by_role("button", name="content 02 in style 03, gamma 0.3", exact=True)
    x, y = tile.locator(".thumb").evaluate("one => [one.style.backgroundPositionX, one.style.backgroundPositionY]")
    assert (x, y) == (f"-{23 * 96}px", "0px")  # the 24th of 48 in the first row of the sheet
    tab.select_option("#setting", label="gamma 0.6")
    tab.get_by_role("button", name="content 02 in style 03, gamma 0.6", exact=True).wait_for()


def test_the_setting_is_chosen_for_the_matrix_alone(visit, report):
    """The other views show every setting that the filter lets pass, so they offer no menu of one."""
    tab = visit(report)
    assert tab.is_visible("#setting")
    for view in ("list", "plots", "troubles", "facts"):
        tab.click(f"#tab-{view}")
        assert not tab.is_visible("#setting"), view
    tab.click("#tab-matrix")
    assert tab.is_visible("#setting")
    assert tab.locator(".tile .setting").count() == 0  # the menu says it


def test_tiles_of_the_list_say_their_setting_below_the_picture(visit, report, tmp_path):
    tab = visit(report)
    tab.click("#tab-list")
    tiles = tab.locator(".tile")
    assert {tiles.nth(n).inner_text() for n in range(tiles.count())} == {"gamma 0.3"}  # those in sight
    tab.uncheck("[data-setting='0']")
    assert {tiles.nth(n).inner_text() for n in range(tiles.count())} == {"gamma 0.6"}
    picture, words = (tiles.first.locator(one).bounding_box() for one in (".thumb", ".setting"))
    assert words["y"] >= picture["y"] + picture["height"]
    boxes = [tiles.nth(n).bounding_box() for n in range(tiles.count())]
    below = min(box["y"] for box in boxes if box["y"] > boxes[0]["y"])
    assert below >= boxes[0]["y"] + boxes[0]["height"]  # rows don't overlap
    tiles.first.focus()
    tab.keyboard.press("k")
    assert "gamma 0.6" in tiles.first.inner_text()  # the tile that was drawn anew
    one = visit(write_report(Place.parse(str(made_up_run(tmp_path / "out", ["a", "b"], ["x"])))).page)
    one.click("#tab-list")
    assert one.locator(".tile").count() == 2
    assert one.locator(".tile .setting").count() == 0  # there is nothing to tell apart
    assert not one.is_visible("#setting")


def test_the_best_and_the_worst_are_a_click_away(visit, report):
    tab = visit(report)
    tab.click("[data-sort=content_kept-best]")
    assert first(tab).startswith("content 09 in style 09, gamma 0.6, content_kept 1")
    tab.click("[data-sort=content_kept-worst]")
    assert first(tab).startswith("content 00 in style 00, gamma 0.3, content_kept 0")
    tab.click("[data-sort=style_gram-best]")  # of a distance, the best is the least
    assert "style_gram 0" in first(tab)
    assert tab.get_attribute("[data-sort=style_gram-best]", "aria-pressed") == "true"


def test_filters_by_text_label_style_setting_and_score(visit, report):
    tab = visit(report)
    tab.fill("[data-filter=text]", "CONTENT 07")
    tab.wait_for_function("document.getElementById('count').textContent === '20 of 200 pairs'")
    tab.select_option("[data-filter=style]", label="style 04")
    assert count(tab) == "2 of 200 pairs"
    tab.uncheck("[data-setting='0']")
    assert count(tab) == "1 of 200 pairs"
    assert tab.locator(".tile").count() == 0  # the matrix is of the other setting
    tab.click("#tab-list")
    assert first(tab) == "content 07 in style 04, gamma 0.6"
    tab.get_by_role("button", name="Clear all filters").click()
    assert count(tab) == "200 pairs"
    tab.locator("[data-range=content_kept-0]").fill("500")
    tab.wait_for_function("document.getElementById('count').textContent === '100 of 200 pairs'")
    assert tab.get_attribute("[data-range=content_kept-0]", "aria-valuetext") == "0.5"


def test_arrows_move_through_the_matrix_and_the_sweep(visit, report):
    tab = visit(report)
    tab.get_by_role("button", name="content 01 in style 01, gamma 0.3", exact=True).click()
    for pressed, expected in (
        ("ArrowRight", "content 01 in style 02, gamma 0.3"),
        ("ArrowDown", "content 02 in style 02, gamma 0.3"),
        ("ArrowLeft", "content 02 in style 01, gamma 0.3"),
        ("ArrowUp", "content 01 in style 01, gamma 0.3"),
        (".", "content 01 in style 01, gamma 0.6"),
        (".", "content 01 in style 01, gamma 0.6"),
        ("ArrowRight", "content 01 in style 02, gamma 0.6"),
        (",", "content 01 in style 02, gamma 0.3"),
    ):
        tab.keyboard.press(pressed)
        assert title(tab) == expected
    tab.keyboard.press("Escape")
    assert not tab.locator("#detail").is_visible()
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.ariaLabel").startswith("content 02 in style 02")
    tab.keyboard.press("Enter")
    assert title(tab) == "content 02 in style 02, gamma 0.3"


def test_a_pair_enlarged_shows_the_picture_its_settings_and_scores(visit, report):
    tab = visit(report)
    tab.get_by_role("button", name="content 00 in style 05, gamma 0.3", exact=True).click()
    image = tab.locator("#detail img")
    image.evaluate("one => one.decode()")
    assert image.evaluate("one => one.naturalWidth") == 32
    assert image.get_attribute("src").endswith("/pictures/all/5.png")
    text = tab.inner_text("#detail")
    for said in ("t_edit\t400", "network_calls\t68", "content_kept\t0.0251", "caption\ta drawing of style 05"):
        assert said in text
    assert tab.locator(".sweep button").count() == 2


def test_choices_are_kept_and_exported(visit, report, tmp_path):
    tab = visit(report, accept_downloads=True)
    ids = {(row.content_key, row.style_key, row.gamma): row.pair for row in manifest(report.parents[1]).itertuples()}
    tab.get_by_role("button", name="content 00 in style 00, gamma 0.3", exact=True).click()
    for pressed in ("k", "ArrowRight", "r", "ArrowRight", "k", "k", "ArrowRight", "r", "k"):
        tab.keyboard.press(pressed)
    tab.keyboard.press("Escape")
    tab.reload()
    tab.wait_for_selector("body[data-ready]")
    assert tab.get_by_role("button", name="content 00 in style 01, gamma 0.3, reject").count() == 1
    with tab.expect_download() as waiting:
        tab.click("#export")
    waiting.value.save_as(tmp_path / "choices.csv")
    with (tmp_path / "choices.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = {0: "keep", 1: "reject", 3: "keep"}
    assert rows == [
        {"pair": ids[key("content 00"), key(f"style {n:02}"), 0.3], "decision": choice}
        for n, choice in expected.items()
    ]
    chosen = read_keep_list(tmp_path / "choices.csv")  # what `diffstyle select --keep` makes of it
    assert (len(chosen.keep), len(chosen.reject)) == (2, 1)
    tab.select_option("[data-filter=choice]", label="keep")
    assert count(tab) == "2 of 200 pairs"
    tab.click("#tab-facts")
    assert "per pair marked keep (2)\t50 s, 6,800 network calls" in tab.inner_text("#view")
    tab.get_by_role("button", name="All that the filter shows: clear").click()
    assert count(tab) == "0 of 200 pairs"


def test_names_are_shown_and_never_run(visit, tmp_path):
    out = made_up_run(tmp_path / "<b>run &amp;", [HOSTILE, "plain"], [HOSTILE])
    tab = visit(write_report(Place.parse(str(out))).page)
    assert tab.inner_text("h1") == "<b>run &amp;"
    tab.click(".tile >> nth=0")
    assert title(tab) == f"{HOSTILE} in {HOSTILE}, gamma 0.6"
    assert f"caption\ta drawing of {HOSTILE}" in tab.inner_text("#detail")
    tab.keyboard.press("Escape")
    for view in ("plots", "troubles", "facts"):
        tab.click(f"#tab-{view}")
    assert tab.evaluate("window.hacked") is None


def test_failures_are_listed_with_their_reasons(visit, tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x"], scored=False)
    row = Manifest(Place.parse(str(out))).table().to_pylist()[0]
    row |= {"pair": "other", "status": "failed", "error": "out of memory", "picture": None, "picture_hash": None}
    Manifest(Place.parse(str(out))).commit("failed-1", manifest_rows([row | {"content_key": key("c")}]))
    (out / "pictures" / "all" / "1.png").unlink()
    tab = visit(write_report(Place.parse(str(out))).page)
    assert "This run has no scores. `diffstyle score RUN` makes them" in tab.inner_text("#filters")
    tab.select_option("[data-filter=status]", label="failed")
    assert count(tab) == "1 of 3 pairs"
    tab.click("#tab-troubles")
    text = tab.inner_text("#view")
    assert "out of memory" in text
    assert "pictures/all/1.png: missing" in text


def test_frechet_distances_are_a_table_of_the_plots(visit, tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x"], (0.25, 0.75))
    with_frechet(out)
    tab = visit(write_report(Place.parse(str(out))).page)
    tab.click("#tab-plots")
    rows = [row.split("\t") for row in tab.inner_text("#frechet tbody").splitlines()]
    assert [row[0] for row in rows] == ["look", "look"]
    assert [row[2:] for row in rows] == [["1.5 (2)", "-", "2"], ["2.5 (2)", "-", "2"]]
    assert ["0.25" in rows[0][1], "0.75" in rows[1][1]] == [True, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_on_a_phone_in_light_and_dark(visit, report, scheme):
    tab = visit(report, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#count", ".says", "h1", "#tab-list"):
        assert contrast(tab, selector) >= 4.5, selector
    tab.click("summary")
    tab.click("[data-sort=content_kept-best]")
    box = tab.locator(".tile").first.bounding_box()
    assert box["y"] + box["height"] < 844  # the first picture is in sight, not below the filters
    tab.locator(".tile").first.click()
    assert tab.evaluate("document.getElementById('detail').getBoundingClientRect().width") <= 390


def contrast(tab, selector: str) -> float:
    """The contrast of an element's text with what is behind it, as WCAG has it."""
    return tab.evaluate(
        """selector => {
          const element = document.querySelector(selector);
          const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          let behind = element;
          while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
          const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light).sort();
          return (pair[1] + 0.05) / (pair[0] + 0.05);
        }""",
        selector,
    )


def repeated_sheets(folder, name, cell, output, pictures) -> sheets.Sheets:
    """Sheets of the first pictures, again and again: as many for the page, and made sooner."""
    each = (sheets.SHEET_SIDE // cell) ** 2
    made = sheets.make_sheets(folder, name, cell, output, pictures[:each])
    return replace(made, files=made.files * -(-len(pictures) // each), count=len(pictures))


@pytest.mark.parametrize(
    "all_thumbnails", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.long)]
)
def test_a_hundred_thousand_pairs_open_soon_and_scroll(visit, tmp_path, monkeypatch, all_thumbnails):
    """By the time that a page of a hundredth of them takes in the same browser: machines differ."""
    if not all_thumbnails:
        monkeypatch.setattr(write, "make_sheets", repeated_sheets)
    times_to_open, times_to_draw = [], []
    for n_contents in (10, 1000):
        contents, styles = [f"content {n:04}" for n in range(n_contents)], [f"style {n:02}" for n in range(50)]
        out = made_up_run(tmp_path / f"out-{n_contents}", contents, styles, (0.3, 0.6))
        report = write_report(Place.parse(str(out)))
        assert report.pairs == 100 * n_contents
        times = []
        for _ in range(3):  # the best of three: what else runs on the machine is not the page's fault
            tab = visit(report.page)
            times.append(tab.evaluate("performance.now()"))
            assert count(tab) == f"{report.pairs:,} pairs"
            if len(times) < 3:
                tab.close()
        times_to_open.append(min(times))
        tab.click("[data-sort=content_kept-best]")
        assert first(tab).startswith(f"content {n_contents - 1:04} in style 49, gamma 0.6, content_kept 1")
        times_to_draw.append(time_to_draw(tab))
        assert tab.locator(".tile").count() < 400  # however far it is scrolled, few tiles are elements
    print(times_to_open, times_to_draw)
    assert times_to_open[1] < 30 * times_to_open[0]
    assert times_to_draw[1] < 20 * max(1.0, times_to_draw[0])


def time_to_draw(tab) -> float:
    """Milliseconds that a step of scrolling takes, the median."""
    return tab.evaluate(
        """async () => {
          const scroll = document.querySelector(".scroll"), app = diffstyle.app;
          const steps = [];
          for (let i = 0; i < 50; i++) {
            scroll.scrollTop = (scroll.scrollHeight * i) / 50;
            const began = performance.now();
            app.list.draw();
            steps.push(performance.now() - began);
            await new Promise(requestAnimationFrame);
          }
          return steps.sort((a, b) => a - b)[25];
        }"""
    )
