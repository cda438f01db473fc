"""The Sheldon scale: turn the names of grade folders into classes, and put them in order.

Dr. William Sheldon's 70-point scale (Early American Cents, 1949), as the grading services use it today: a grade is
letters for the band, a number from 1 to 70, and often a variant ("au58+", "ms64rb", "pr69dcam").
"""

import re

# The bands from worn to perfect, each with its lowest number. Proof and specimen coins have the numbers of mint state;
# at the same number, they come after it.
BANDS = {"po": 1, "p": 1, "fr": 2, "ag": 3, "g": 4, "vg": 8, "f": 12, "vf": 20, "ef": 40, "xf": 40, "au": 50}
BANDS |= {band: 60 for band in ("unc", "bu", "ms", "sp", "pf", "pr")}

_NAME = re.compile(r"(?P<band>[a-z]*)[ _-]*(?P<number>\d{1,2})(?P<variant>\D*)")


def class_name(folder: str, keep_variants: bool = False) -> str:
    """Return the class of a grade folder: its name in lower case, up to the last digit.

    "AU58+" and "au58" are both "au58", and "pr69dcam" is "pr69". A name without a digit ("vf", "details") is a class of
    its own. Grades on the scale get two digits: "g4" is "g04".

    Args:
        folder: name of a grade folder.
        keep_variants: keep what follows the last digit, so that "au58+" and "au58" are two classes.
    """
    name = folder.strip().lower()
    if not keep_variants:
        name = re.sub(r"(?<=\d)\D+$", "", name)
    match = _NAME.fullmatch(name)
    if match and sheldon_number(name) is not None:
        name = f"{match['band']}{int(match['number']):02}{match['variant']}"
    return name


def sheldon_number(grade: str) -> int | None:
    """Return the number of a grade on the scale, 1 to 70, or None if it is not on the scale.

    A band without a number ("vf") has its lowest number (20).
    """
    match = _NAME.fullmatch(grade)
    if match and match["band"] in (*BANDS, "") and 1 <= int(match["number"]) <= 70:
        return int(match["number"])
    return BANDS.get(grade)


def scale_order(grade: str) -> tuple:
    """Return a sort key: grades on the scale from worn to perfect, then other names in alphabetical order."""
    number = sheldon_number(grade)
    if number is None:
        return (1, grade)
    band = re.match("[a-z]*", grade)[0]
    return (0, number, list(BANDS).index(band) if band else -1, grade)
