"""CSV tables that people open in a spreadsheet: read one in whatever way it was saved, and write one."""

import csv
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coinkit.cli import UserError

# Of open(): file names that are not valid Unicode are written and read back as they are.
AS_THEY_ARE = "surrogateescape"
OPEN_OPTIONS = {"newline": "", "errors": AS_THEY_ARE}


class _Rows(csv.DictReader):
    """Rows as dictionaries, without those that are empty and without cells beyond the last column."""

    def __next__(self) -> dict[str, str]:
        while True:
            row = super().__next__()
            row.pop(self.restkey, None)
            if any(cell and cell.strip() for cell in row.values()):
                return row


@contextmanager
def table_reader(path: Path, errors: str = "strict") -> Iterator[csv.DictReader]:
    """Yield a reader of the rows of a CSV file, in whatever way a spreadsheet has saved it.

    The names of the columns are in lower case.

    Args:
        path: of the file.
        errors: what to do with text that is not valid Unicode: "strict", or `AS_THEY_ARE`.

    Raises:
        UserError: the first line cannot be read; or, if strict, the text is not valid Unicode.
    """
    with path.open("rb") as file:
        utf_16 = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)
    with path.open(encoding="utf-16" if utf_16 else "utf-8-sig", newline="", errors=errors) as file:
        try:
            if errors == "strict":  # before a row is used
                file.read()
                file.seek(0)
            header = file.readline()
            if header.startswith("sep="):  # Excel's own line
                header = file.readline()
            separator = max(",;\t", key=header.count)
            names = next(csv.reader([header], delimiter=separator), [])
        except (UnicodeError, csv.Error) as error:
            if errors == "strict" and isinstance(error, UnicodeError):
                raise UserError(f"{path} is not in UTF-8, so names may be wrong: save it as CSV UTF-8.") from None
            raise UserError(f"{path} is damaged, or no CSV table ({error}): put a backup of it there.") from None
        yield _Rows(file, [name.strip().lower() for name in names], delimiter=separator)


@contextmanager
def table_writer(path: Path) -> Iterator[Any]:
    """Yield a writer of rows to a CSV file, with the mark by which Excel knows that it is UTF-8."""
    with path.open("w", encoding="utf-8-sig", **OPEN_OPTIONS) as file:
        yield csv.writer(file)
