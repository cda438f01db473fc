"""The Sheldon scale: from the names that people give to grade folders to ordered classes.

Dr. William Sheldon's 70-point scale (Early American Cents, 1949), as the grading services use it today: letters for the
band, a number from 1 to 70 for the place on the scale, and often a variant after it ("au58+", "ms64rb", "pr69dcam").
"""

import re

# The bands, from worn to perfect, each with the lowest number that it covers. Proof and specimen coins are graded with
# the numbers of mint state, so they come right after it at the same number.
BANDS = {"po": 1, "p": 1, "fr": 2, "ag": 3, "g": 4, "vg": 8, "f": 12, "vf": 20, "ef": 40, "xf": 40, "au": 50}
BANDS |= {band: 60 for band in ("unc", "bu", "ms", "sp", "pf", "pr")}

_NAME = re.compile(r"(?P<band>[a-z]*)[ _-]*(?P<number>\d{1,2})(?P<variant>\D*)")


def class_name(folder: str, keep_variants: bool = False) -> str:
    """Return the class that a grade folder belongs to.

    That is its name in lower case up to the last digit: "AU58+" and "au58" are both "au58", "pr69dcam" is "pr69". A
    name without a digit ("vf", "details") is a class of its own. On the scale, numbers have two digits: "g4" is "g04".

    Args:
        folder: the name of a grade folder.
        keep_variants: keep what comes after the last digit, so that "au58+" and "au58" stay apart.
    """
    name = folder.strip().lower()
    if not keep_variants:
        name = re.sub(r"(?<=\d)\D+$", "", name)
    match = _NAME.fullmatch(name)
    if match and sheldon_number(name) is not None:
        name = f"{match['band']}{int(match['number']):02}{match['variant']}"
    return name


def sheldon_number(grade: str) -> int | None:
    """Return a grade's place on the scale, 1 to 70, or None for a name that is not on it.

    A band without a number ("vf") stands at its lowest number (20).
    """
    match = _NAME.fullmatch(grade)
    if match and match["band"] in (*BANDS, "") and 1 <= int(match["number"]) <= 70:
        return int(match["number"])
    return BANDS.get(grade)


def scale_order(grade: str) -> tuple:
    """Return a sort key: grades on the scale from worn to perfect, then other names by alphabet."""
    number = sheldon_number(grade)
    if number is None:
        return (1, grade)
    band = re.match("[a-z]*", grade)[0]
    return (0, number, list(BANDS).index(band) if band else -1, grade)
