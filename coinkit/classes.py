"""Which class a photo is of: its grade, or one that several grades are joined to (prepare_dataset.py --classes)."""

import csv
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinkit.cli import UserError, home_path
from coinkit.grades import BANDS, class_name, is_proof, scale_order, sheldon_number
from coinkit.tables import table_reader

# Each class with the lowest number that belongs to it. Proofs have the numbers of mint state.
JOINED = {
    "bands": {band: BANDS[band] for band in ("po", "fr", "ag", "g", "vg", "f", "vf", "xf", "au", "ms", "pr")},
    "five": {"g": 1, "f": 8, "vf": 20, "xf": 40, "ms": 60},
}
FIVE_IN_WORDS = "g is up to G6, f up to F15, vf up to VF35, xf up to AU58, ms above"
RANGE = re.compile(r"\s*[a-z]* ?\d{1,2} ?[-–—] ?[a-z]* ?\d{1,2}\s*", re.IGNORECASE)  # "F12-15", on no scale
# In the name of a folder, on one system or another; Windows also drops a dot at the end, and keeps names for devices
NOT_IN_A_NAME = re.compile(r'[<>:"/\\|?*]|\.$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)')


def choose_classes(
    grades: Collection[str], only: list[str] | None, classes: str | None, keep_variants: bool
) -> dict[str, str]:
    """Return the class of each grade that is used: {grade: class}.

    Args:
        grades: that there are.
        only: names of the grades to use; None for all.
        classes: a key of `JOINED`, or the name of a file for `read_classes`; None if each grade is a class.
        keep_variants: as `class_name` takes it.

    Raises:
        UserError: there is no such grade, or the file has a mistake.
    """
    chosen = [class_name(grade, keep_variants) for grade in only] if only else grades
    if unknown := [grade for grade in chosen if grade not in grades]:
        there = ", ".join(sorted(grades, key=scale_order))
        raise UserError(f"--grades: there are no photos of {', '.join(unknown)}, but of {there}.")
    if not classes:
        return {grade: grade for grade in chosen}
    class_of = class_table(chosen, classes, keep_variants)
    return {grade: class_of[grade] for grade in chosen if grade in class_of}


def class_table(grades: Collection[str], classes: str, keep_variants: bool) -> dict[str, str]:
    """Return the class of each grade, {grade: class}, as a key of `JOINED` or all of a file for `read_classes` says."""
    if classes in JOINED:
        return {grade: join_grade(grade, JOINED[classes]) for grade in grades}
    return read_classes(home_path(classes), keep_variants)


def read_classes(path: Path, keep_variants: bool) -> dict[str, str]:
    """Return the class of each grade in a CSV file with the columns grade and class.

    Raises:
        UserError: there is no such file, or a row cannot be used.
    """
    if not path.is_file():
        raise UserError(
            f"--classes {path}: there is no such table. Give {', '.join(JOINED)}, or a CSV file with the first line "
            "grade,class and a line for each grade: vf20,vf"
        )
    class_of = {}
    with table_reader(path) as rows:
        try:
            if not {"grade", "class"} <= {*rows.fieldnames}:
                raise UserError(f"{path}: the first line must be grade,class, and the others like vf20,vf")
            for row in rows:
                grade, name = class_name(row["grade"], keep_variants), class_name(row["class"], keep_variants=True)
                if not grade or not name or name.startswith(".") or NOT_IN_A_NAME.search(name):
                    raise ValueError
                if RANGE.fullmatch(row["grade"]):
                    raise UserError(f"{path}, grade {row['grade'].strip()}: write a line for each grade.")
                if RANGE.fullmatch(row["class"]):
                    advice = "name a class after its lowest grade, such as f12 or f, which has a place on the scale"
                    raise UserError(f"{path}, class {row['class'].strip()}: {advice}.")
                if class_of.setdefault(grade, name) != name:
                    advice = "" if keep_variants else " (--keep-variants keeps au58+ apart from au58)"
                    raise UserError(f"{path} has two classes for {grade}, {class_of[grade]} and {name}{advice}.")
        except (AttributeError, ValueError, csv.Error):
            raise UserError(
                f"{path}, line {rows.line_num + 1}: write a grade and the name of its class, such as vf20,vf, below "
                "the first line: grade,class"
            ) from None
    return class_of


def join_grade(grade: str, lowest: dict[str, int]) -> str:
    """Return the class that a grade belongs to; a grade that is not on the scale, such as "au58 details", is its own.

    Args:
        grade: as `class_name` returns it.
        lowest: an entry of `JOINED`.
    """
    number = sheldon_number(grade)
    if number is None:
        return grade
    if is_proof(grade) and "pr" in lowest:
        return "pr"
    return max((name for name in lowest if name != "pr" and lowest[name] <= number), key=lowest.get)


class Bands(NamedTuple):
    """Bands that join classes: those of the scale, or others (--classes)."""

    names: list[str]
    members: np.ndarray  # (classes, bands), 1.0 where a class is in a band; probabilities of classes @ members are sums
    tell: bool  # whether to tell a coin's band; not if each class is a band of its own, and nobody asked
    explained: str  # which grades the classes or the bands join, if that is not plain

    def of_class(self, label: int) -> str:
        """Return the band of a class, given by its index."""
        return self.names[self.members[label].argmax()]

    def likeliest(self, probabilities: np.ndarray) -> tuple[str, float] | None:
        """Return the likeliest band of a coin and its probability, from those of its classes, (classes,).

        None if it is not to be told.
        """
        if not self.tell:
            return None
        shares = probabilities @ self.members
        return self.names[shares.argmax()], round(float(shares.max()), 6)


def bands_of(classes: list[str], choice: str | None = None) -> Bands:
    """Return the bands that classes are in. A class that is one of the bands already stays it.

    Args:
        classes: names of grades. One that is not on the scale is a band of its own, if no file says otherwise.
        choice: a key of `JOINED`, or the name of a file for `read_classes`; None for the bands of the scale.

    Raises:
        UserError: the file has a mistake, or lacks one of the classes.
    """
    have_variants = any(class_name(name) != name for name in classes)
    table = class_table(classes, choice or "bands", have_variants)
    band_of = {band: band for band in table.values()} | table
    if missing := [name for name in classes if name not in band_of]:
        raise UserError(f"--classes {choice} has no line for {', '.join(missing)}, which the network names.")
    names = sorted({band_of[name] for name in classes}, key=scale_order)
    members = [[band_of[name] == band for band in names] for name in classes]
    explained = describe_classes(names if choice == "five" else classes)
    return Bands(names, np.array(members, dtype=np.float32), bool(choice) or len(names) < len(classes), explained)


def joined_by(classes: list[str]) -> list[str]:
    """Return which --classes may have given these classes: "bands", "five"; none for single grades and most files.

    All names of the five classes are those of bands as well, so if some of the five are missing, it may be either.
    Names off the scale, such as "au58 details", stay classes of their own with both.
    """
    names = [name for name in classes if sheldon_number(name) is not None]
    if names == list(JOINED["five"]):
        return ["five"]
    return [name for name, known in JOINED.items() if names and {*names} <= {*known}]


def describe_classes(classes: list[str]) -> str:
    """Return in words which grades the classes of --classes five join; "" for other classes."""
    return f"With --classes five, {FIVE_IN_WORDS}." if "five" in joined_by(classes) else ""
