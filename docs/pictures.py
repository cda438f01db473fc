"""Make the pictures that the README shows: demo/ -> docs/*.png and docs/*.jpg

    make demo                   first: it draws the coins and trains on them
    python -m docs.pictures

TensorBoard is seen through Debian's Chromium (apt-get install chromium chromium-driver), as tests/test_browser.py sees
it too.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from coin_classifier_custom import BEST
from coinkit.cli import ArgumentParser, UserError, run
from coinkit.faces import Faces, open_coin
from coinkit.photos import FACE_FOLDERS, open_photo, open_whole

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
DEMO = ROOT / "demo"
PHOTO_SIZE = (640, 320)
JPEG_QUALITY = 85
SHOWN_PHOTO = Path("vf30/40000003.jpg")  # the one that the README grades
SHOWN_COIN = "75000039.jpg"  # in a holder
SHOWN = "^(accuracy|confusion matrix|loss|worst mistakes)$"  # of TensorBoard's cards

PATIENCE = 60  # seconds for a page to show what it should
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root cannot have
    "--disable-component-update",  # no download
    "--window-size=1280,1200",
)

# Elements that a selector finds, in shadow roots too, and for which a condition is true
COUNT = """
const all = root => [...root.querySelectorAll("*")].flatMap(e => e.shadowRoot ? [e, ...all(e.shadowRoot)] : [e]);
return all(document).filter(e => e.matches(arguments[0]) && {condition}).length;
"""


def main() -> None:
    """Run the command."""
    ArgumentParser(__doc__).parse_args()
    photo = DEMO / "coin_dataset" / "test" / SHOWN_PHOTO
    if not photo.is_file() or not (DEMO / "report").is_dir():
        raise UserError(f"there is no demo in {DEMO}: run make demo first.")
    with tensorboard(DEMO / "runs") as address, browser() as page, TemporaryDirectory() as folder:
        page.get(f"{address}?tagFilter={SHOWN}#timeseries")
        wait_for(page, "scalar-card-data-table tb-data-table-content-row", count=4)
        wait_for(page, "image-card img", "e.naturalWidth", count=2)
        page.find_element(By.CSS_SELECTOR, "[aria-label='Close side pane']").click()
        page.save_screenshot(DOCS / "tensorboard.png")
        heatmap = Path(folder) / "heatmap.png"
        command = [sys.executable, ROOT / "predict.py", photo, "--checkpoint", DEMO / BEST, "--heatmap", heatmap]
        subprocess.run(command, check=True)
        shrink(heatmap, DOCS / "heatmap.jpg")
    shrink(photo, DOCS / "photo.jpg")
    show_cutting(DEMO / "images" / "ms65", DOCS / "cutting.jpg")


def shrink(photo: Path, target: Path) -> None:
    """Write a photo as a small JPEG file."""
    open_photo(photo, *PHOTO_SIZE)[0].save(target, quality=JPEG_QUALITY, optimize=True)


def show_cutting(grade: Path, target: Path) -> None:
    """Write a picture of the photos of a coin's faces, and of the coin cut out of them."""
    faces = Faces(*(grade / face / SHOWN_COIN for face in FACE_FOLDERS))
    pictures = [open_whole(path, 400, 400)[0].resize((240, 320)) for path in faces[:2]]
    pictures.append(open_coin(faces, 640, 320).photo)
    row = Image.new("RGB", (240 + 240 + 640, 320))
    for picture, left in zip(pictures, (0, 240, 480), strict=True):
        row.paste(picture, (left, 0))
    row.save(target, quality=JPEG_QUALITY, optimize=True)


@contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """Start TensorBoard on a folder of runs, at a free port; yield its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", runs, "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
        finally:
            server.terminate()


@contextmanager
def browser() -> Iterator[WebDriver]:
    """Start Chromium without a window; yield what drives it.

    Raises:
        UserError: it is not installed.
    """
    if not has_browser():
        raise UserError("there is no Chromium with its driver: apt-get install chromium chromium-driver.")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # what pages write on the console
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def has_browser() -> bool:
    """Return whether Chromium and its driver are installed."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


def wait_for(page: WebDriver, selector: str, condition: str = "true", count: int = 1) -> None:
    """Wait until a page has so many elements that a CSS selector finds, in shadow roots too.

    Args:
        page: where to look.
        selector: a CSS selector; it cannot reach across the edge of a shadow root.
        condition: JavaScript, what must be true of such an element `e`.
        count: how many there must be.

    Raises:
        TimeoutException: after `PATIENCE` seconds there are still fewer.
    """
    script = COUNT.replace("{condition}", condition)
    WebDriverWait(page, PATIENCE).until(
        lambda page: page.execute_script(script, selector) >= count,
        f"{page.current_url} does not show {count} of {selector} with {condition}",
    )


if __name__ == "__main__":
    run(main)
