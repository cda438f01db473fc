"""Pages to look at in a browser: fill in a template, embed a picture."""

import base64
import io
from pathlib import Path

from PIL import Image

TEMPLATES = Path(__file__).with_name("templates")


def write_page(template: str, target: Path, **values: object) -> None:
    """Fill in a template of coinkit/templates and write the page."""
    from jinja2 import Environment, FileSystemLoader  # slow to import

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(values)
    target.write_text(page, "utf-8", "backslashreplace")  # file names may be invalid Unicode


def encode_picture(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return the content of a picture file, of the kind "jpeg" or "png", with options as Pillow takes them."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def data_uri(file: bytes, kind: str) -> str:
    """Return a picture file as a data: URI, which embeds it in a page."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
