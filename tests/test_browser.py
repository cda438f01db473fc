"""What a person sees in a browser: TensorBoard on a run, and the pages that the commands write."""

import shutil
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from conftest import run_script
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select
from test_faces import draw_faces

from coin_classifier_custom import BEST
from docs.pictures import browser, has_browser, tensorboard, wait_for

LONG = 8 * "1234567890"  # a name that no browser breaks by itself

pytestmark = pytest.mark.skipif(
    not has_browser(), reason="no Chromium with its driver: apt-get install chromium chromium-driver"
)


def errors(page):
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_tensorboard_and_the_report_show_curves_and_pictures(trained):
    with browser() as page:
        with tensorboard(trained / "runs") as address:
            page.get(f"{address}?tagFilter=^(loss|confusion matrix)$#timeseries")
            wait_for(page, "scalar-card-data-table tb-data-table-content-row", count=2)  # train and val on one chart
            wait_for(page, "image-card img", "e.naturalWidth > 100")
            page.get(f"{address}#scalars")
            wait_for(page, "path.line", "e.getTotalLength() > 100", count=2)
            page.get(f"{address}#images")
            wait_for(page, "img", "e.naturalWidth > 100")
            page.get(f"{address}#hparams")
            wait_for(page, "vaadin-grid-cell-content", "e.textContent.includes('coin_custom')")
            assert not errors(page)

        page.get((trained / "report" / "index.html").as_uri())
        wait_for(page, "h1", "e.textContent.includes('of 9 photos')")
        wait_for(page, "img", "e.naturalWidth > 100", count=2)  # the confusion matrix and the reliability diagram
        wait_for(page, "td", "e.textContent.includes('%')")
        assert not errors(page)


def visible(page):
    """The headings of the coins that are shown, in their order."""
    shown = "return [...document.querySelectorAll('.coin:not([hidden]) h3')].map(e => e.textContent)"
    return page.execute_script(shown)


def choose(page, name, value):
    Select(page.find_element(By.NAME, name)).select_by_value(value)


@pytest.fixture(scope="module")
def pages(trained, tmp_path_factory):
    """A folder with the pages that commands write: report/index.html, grades.html and coin_dataset/cut_coins.html."""
    folder = tmp_path_factory.mktemp("pages")
    for seed, (grade, other) in enumerate((("g06", "vf30"), ("vf30", "ms65"), ("ms65", "ms65"))):
        shutil.copytree(trained / "coin_dataset" / "test" / other, folder / "coins" / grade)
        draw_faces(folder / LONG / grade, LONG, seed)
    options = ["--checkpoint", trained / BEST, "--device", "cpu"]
    for command in (
        ("evaluate.py", "--data", "coins", *options),
        ("predict.py", "coins", "--html", "grades.html", *options),
        ("prepare_dataset.py", "--source", LONG),
    ):
        result = run_script(*command, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844), (320, 568)])
def test_coins_are_looked_at_on_a_desk_and_on_a_phone(pages, width, height):
    """Nothing is wider than the window, both faces are large, and coins are sorted and filtered."""
    report, grades, cut = (pages / name for name in ("report/index.html", "grades.html", "coin_dataset/cut_coins.html"))
    with browser() as page:
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        for name in (report, grades, cut):
            page.get(name.as_uri())
            assert page.execute_script("return document.documentElement.scrollWidth") <= width, name
            assert not errors(page)
        wait_for(page, "figure img", "e.naturalWidth > 100 && e.getBoundingClientRect().width > 250", count=3)
        for name in (report, grades):
            page.get(name.as_uri())
            wait_for(page, ".coin", count=9)
            page.execute_script("document.querySelector('.photo').scrollIntoView()")
            wait_for(page, ".photo img", "e.naturalHeight >= 256 && e.getBoundingClientRect().height >= 256")

        everything = visible(page)  # of grades.html
        confidence = [int(heading.split()[-1].rstrip("%")) for heading in everything]
        assert confidence == sorted(confidence)
        choose(page, "order", "predicted")
        by_grade = [heading.split(",")[0] for heading in visible(page)]
        assert by_grade == sorted(by_grade, key=["g06", "vf30", "ms65"].index)
        choose(page, "predicted", "ms65")
        assert visible(page) == [heading for heading in everything if heading.startswith("ms65")]
        assert page.find_element(By.TAG_NAME, "output").text == f"{len(visible(page))} of 9 coins"

        page.get(report.as_uri())
        everything = visible(page)
        assert all(" taken for " in heading for heading in everything[:6])
        choose(page, "kind", "right")
        assert len(visible(page)) == 3 and all("ms65 (right)" in heading for heading in visible(page))
        choose(page, "kind", "")
        choose(page, "true", "g06")
        assert len(visible(page)) == 3 and all(heading.startswith("g06 taken") for heading in visible(page))
        choose(page, "true", "")
        choose(page, "predicted", "ms65")
        assert len(visible(page)) == 6
        choose(page, "predicted", "")
        choose(page, "order", "confidence")
        confidence = [int(heading.split()[-1].rstrip("%")) for heading in visible(page)]
        assert confidence == sorted(confidence) and sorted(visible(page)) == sorted(everything)
        choose(page, "order", "worst")
        assert visible(page) == everything

        shown = "return document.querySelectorAll('.heatmap:not([hidden])').length"
        assert page.execute_script(shown) == 0
        page.execute_script("document.querySelector('.show-heatmap').click()")
        assert page.execute_script(shown) == 1
        page.execute_script("document.querySelector('[name=heatmaps]').click()")
        assert page.execute_script(shown) == 9
        link = page.find_element(By.CSS_SELECTOR, "a.photo").get_attribute("href")
        assert Path(url2pathname(urlparse(link).path)).is_file()


def test_an_error_on_the_console_is_seen(tmp_path):
    (tmp_path / "page.html").write_text("<img src=missing.png><script>nothing()</script>")
    with browser() as page:
        page.get((tmp_path / "page.html").as_uri())
        assert len(errors(page)) == 2
