"""What a person sees in a browser: TensorBoard on a run, and the report."""

import pytest

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


def test_an_error_on_the_console_is_seen(tmp_path):
    (tmp_path / "page.html").write_text("<img src=missing.png><script>nothing()</script>")
    with browser() as page:
        page.get((tmp_path / "page.html").as_uri())
        assert len(errors(page)) == 2
