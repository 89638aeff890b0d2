"""The report in a real browser: what is pressed does what it says, and nothing is fetched."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from pistole.files import read_json
from pistole.report import figures
from pistole.stages import report
from tests.e2e.micro import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
LEFT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of synthetic results."""
    made = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests" / "unit")
        from report_artifacts import make_params, write_artifacts
        from report_theory_records import DRAWN

        drawn = {name: figures.CHECKS[name] for name in DRAWN}
        patch.setattr(figures, "CHECKS", drawn)
        write_artifacts(made / "artifacts")
        report.run(make_params(), made / "artifacts", made / "report")
    return made / "report"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        # root has no sandbox; the page is our own
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """The page in a window, and what it complained of or asked for."""

    def __init__(self, browser, file: Path, **options) -> None:
        self.context = browser.new_context(**{"viewport": WIDE, **options})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def check(self, file: Path) -> None:
        """Nothing was said, and nothing fetched but the file itself."""
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("data:")] == [file.as_uri()]
        self.context.close()


@pytest.fixture
def window(browser, folder: Path) -> Iterator[Opened]:
    """The page on a wide screen; at the end nothing was complained of or fetched."""
    opened = Opened(browser, folder / "index.html")
    yield opened
    opened.check(folder / "index.html")


def column(page, place: int) -> list[str]:
    """The first line of a column's cells, of the rows that are shown."""
    rows = page.locator("table.methods tbody tr:visible")
    return [
        rows.nth(i).locator("th, td").nth(place).inner_text().split("\n")[0]
        for i in range(rows.count())
    ]


def numbers(cells: list[str]) -> list[float]:
    return [float(re.sub("[^-+.0-9]", "", cell)) for cell in cells]


def test_the_table_is_sorted_by_sum_and_by_the_column_that_is_pressed(window: Opened) -> None:
    page = window.page
    head = page.locator("table.methods thead th")
    assert head.nth(1).get_attribute("aria-sort") == "descending"
    before = numbers(column(page, 1))
    assert before == sorted(before, reverse=True)
    for order in ("descending", "ascending"):
        head.nth(2).get_by_role("button").click()
        assert head.nth(2).get_attribute("aria-sort") == order
        assert head.nth(1).get_attribute("aria-sort") is None
        found = numbers(column(page, 2))
        assert found == sorted(found, reverse=order == "descending")
    head.nth(0).get_by_role("button").press("Enter")  # the keyboard does the same
    names = column(page, 0)
    assert names == sorted(names, key=str.casefold)
    head.nth(4).get_by_role("button").click()  # rows without a lambda come last
    assert column(page, 4)[-3:] == ["–", "–", "–"]


def test_ties_with_the_best_are_marked(window: Opened, folder: Path) -> None:
    page, metrics = window.page, read_json(folder / "metrics.json")
    sums = page.locator("table.methods tbody td[data-k$='.sum']")
    first = sums.first.inner_text().split("\n")[0]
    assert first == f"{100 * max(m['sum'] for m in metrics['models'].values()):.1f}"
    assert sums.first.locator(".best").count() == 1
    rows = page.locator("table.methods tbody tr")
    for i in range(1, rows.count()):
        gap = rows.nth(i).locator("td").nth(4).inner_text()
        low = gap.split("\n")[-1].split(" to ")[0]
        tied = rows.nth(i).locator("[data-k$='.sum'] .tie").count() == 1
        if gap != "–" and float(low) != 0:  # rounded to zero it tells nothing
            assert tied == (float(low) < 0)


def test_filters_hide_rows_in_tables_and_charts(window: Opened) -> None:
    page = window.page
    whole = len(column(page, 0))
    page.get_by_label("Controls", exact=True).uncheck()
    assert len(column(page, 0)) == whole - 9
    assert page.locator(".chart .m[data-family=controls]:visible").count() == 0
    assert page.locator(".heat tr[data-name=zero_nat]:visible").count() == 0
    assert page.locator(".filter output").inner_text() == f"{whole - 9} of {whole} rows"
    page.get_by_label("Name contains").fill("gism +")
    assert column(page, 0) == ["GISM + APT", "GISM + PCI"] or column(page, 0) == [
        "GISM + PCI",
        "GISM + APT",
    ]
    page.get_by_label("Name contains").fill("")
    page.get_by_label("Controls", exact=True).check()
    assert len(column(page, 0)) == whole


def test_a_chip_finds_and_hides_a_method_in_the_charts(window: Opened) -> None:
    page = window.page
    chip = page.locator(".chips").get_by_role("button", name="GISM", exact=True)
    chip.hover()
    assert page.locator(".chart .m.on").count() == 2  # its point and its frontier
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert page.locator(".chart .m[data-name=gism]:visible").count() == 0
    assert page.locator("table.methods tr[data-name=gism]:visible").count() == 1
    chip.click()
    assert page.locator(".chart .m[data-name=gism]:visible").count() == 2


def test_pointing_at_a_point_tells_its_numbers(window: Opened, folder: Path) -> None:
    page, model = window.page, read_json(folder / "metrics.json")["models"]["pistole"]
    marks = page.locator(".chart .m[data-name=pistole] .mark")
    marks.first.hover()
    low, high = (f"{100 * end:.1f}" for end in model["ci95"]["robust_mean"])
    told = page.locator("#tip").inner_text()
    assert told.startswith("PISTOLE, λ = 0.5")
    assert f"robust {100 * model['robust_mean']:.1f} [{low}, {high}]" in told
    marks.last.hover()
    assert "PISTOLE, λ = 1\nclean 86.5 ± " in page.locator("#tip").inner_text()


def test_a_number_gives_the_command_that_traces_it(window: Opened, folder: Path) -> None:
    page, metrics = window.page, read_json(folder / "metrics.json")
    page.locator("[data-k='models.pistole.robust_mean']").first.click()
    command = page.locator("#trace code").inner_text()
    assert command == "pistole trace report/metrics.json:models.pistole.robust_mean"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#trace").get_by_role("button", name="Copy").click()
    page.locator("#trace").get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.locator("#trace").get_by_role("button", name="Close").click()
    assert page.locator("#trace:visible").count() == 0
    keys = page.locator("[data-k]").evaluate_all("cells => cells.map(cell => cell.dataset.k)")
    told = page.locator(".lineage .command").all_text_contents()
    keys += [shlex.split(text)[2].removeprefix("report/metrics.json:") for text in told]
    assert len(told) == 3 * len(metrics["models"])
    for key in set(keys):
        value = metrics
        for part in key.split("."):
            value = value[part]
        assert isinstance(value, int | float), key


def test_a_sample_of_the_gallery_opens(window: Opened) -> None:
    page = window.page
    samples = page.locator(".sample")
    assert samples.count() == 4
    first = samples.first
    assert first.locator("table:visible").count() == 0
    first.locator("summary").click()
    assert first.locator("tbody tr:visible").count() == 5
    assert first.locator("tbody img").count() == 10
    for picture in first.locator("img").all():
        assert picture.get_attribute("alt")
        assert picture.evaluate("image => image.naturalWidth") == 16
    assert first.locator("tbody tr").nth(1).inner_text().count("✓") == 1
    page.locator("select.tasks").select_option("digit")
    assert page.locator(".sample:visible").count() == 2


def test_it_is_dark_where_the_reader_wants_it_dark(browser, folder: Path) -> None:
    file, ground = folder / "index.html", "getComputedStyle(document.body).backgroundColor"
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 25, 29)")):
        opened = Opened(browser, file, color_scheme=scheme)
        assert opened.page.evaluate(ground) == colour
        opened.check(file)


def test_a_phone_scrolls_down_only(browser, folder: Path) -> None:
    file = folder / "index.html"
    opened = Opened(browser, file, viewport=PHONE, has_touch=True, is_mobile=True)
    assert opened.page.evaluate(LEFT) == 0
    opened.page.evaluate(
        "for (const part of document.querySelectorAll('details')) part.open = true"
    )
    assert opened.page.evaluate(LEFT) == 0
    opened.check(file)


def test_it_prints(browser, folder: Path, tmp_path: Path) -> None:
    file = folder / "index.html"
    opened = Opened(browser, file)
    opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    opened.page.emulate_media(media="print")
    hidden = "nav:visible, form:visible, .copy:visible, .intervals:visible"
    assert opened.page.locator(hidden).count() == 0
    opened.check(file)


@pytest.mark.parametrize(("width", "height"), [(8.5, 11), (8.27, 11.69)])  # inches: letter, A4
def test_the_first_sheet_holds_the_summary_and_the_charts(
    browser, folder: Path, width: float, height: float
) -> None:
    inside = {"width": round(96 * width - 106), "height": round(96 * height - 106)}  # 14 mm left
    opened = Opened(browser, folder / "index.html", viewport=inside)
    opened.page.emulate_media(media="print")
    ends = "figures => figures.map(figure => figure.getBoundingClientRect().bottom)"
    bottoms = opened.page.locator("section:has(#plane) figure").evaluate_all(ends)
    assert len(bottoms) == 2
    assert max(bottoms) < inside["height"]
    opened.check(folder / "index.html")


def test_without_scripts_everything_is_there(browser, folder: Path) -> None:
    file = folder / "index.html"
    opened = Opened(browser, file, java_script_enabled=False)
    page = opened.page
    assert page.locator("table.methods tbody tr:visible").count() == 18
    assert page.locator("form:visible, select:visible, .js:visible").count() == 0
    assert page.locator("table.methods thead button").count() == 0
    opened.check(file)
