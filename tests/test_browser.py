"""What a person sees in a browser: TensorBoard on a run, and the report."""

import shutil
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from conftest import run_script
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from coin_classifier_custom import BEST
from docs.pictures import browser, has_browser, tensorboard, wait_for

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


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_coins_are_looked_at_on_a_desk_and_on_a_phone(trained, tmp_path, width, height):
    """Nothing is wider than the window, both faces are large, and coins are sorted and filtered."""
    for grade, other in (("g06", "vf30"), ("vf30", "ms65"), ("ms65", "ms65")):
        shutil.copytree(trained / "coin_dataset" / "test" / other, tmp_path / "coins" / grade)
    best, report = trained / BEST, tmp_path / "report"
    result = run_script("evaluate.py", "--data", "coins", "--checkpoint", best, "--device", "cpu", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    options = ["--html", "a.html", "--checkpoint", best, "--device", "cpu"]
    result = run_script("predict.py", tmp_path / "coins", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with browser() as page:
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        for name in (report / "index.html", tmp_path / "a.html"):
            page.get(name.as_uri())
            wait_for(page, ".coin", count=9)
            assert page.execute_script("return document.documentElement.scrollWidth") <= width
            page.execute_script("document.querySelector('.photo').scrollIntoView()")
            wait_for(page, ".photo img", "e.naturalHeight >= 256 && e.getBoundingClientRect().height >= 256")
            assert not errors(page)

        page.get((report / "index.html").as_uri())
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
