"""The Sheldon scale: turn the names of grade folders into classes, and put them in order.

Dr. William Sheldon's 70-point scale (Early American Cents, 1949), as the grading services use it today: a grade is
letters for the band, a number from 1 to 70, and often a variant ("au58+", "ms64rb", "pr69dcam").
"""

import re

from coinkit.files import composed

# The bands from worn to perfect, each with its lowest number. Proof and specimen coins have the numbers of mint state,
# but look otherwise, so they come after it: neighbours in the order are taken for alike.
BANDS = {"po": 1, "p": 1, "fr": 2, "ag": 3, "g": 4, "vg": 8, "f": 12, "vf": 20, "ef": 40, "xf": 40, "au": 50}
PROOFS = ("sp", "pf", "pr")
BANDS |= {band: 60 for band in ("unc", "bu", "ms", *PROOFS)}

# What may follow the number and says nothing about wear: steps of a grade, colour, cameo, strike, stickers.
VARIANTS = {
    "+",
    "*",
    "★",
    "plus",
    "star",
    "pq",
    "cac",
    "rd",
    "rb",
    "bn",
    "red",
    "brown",
    "fb",
    "fbl",
    "fh",
    "fs",
    "5fs",
}
VARIANTS |= {"6fs", "ft", "pl", "dpl", "dmpl", "prooflike", "deep", "ultra", "cam", "dcam", "ucam", "uc", "dc", "cameo"}

_VARIANTS = "|".join(re.escape(variant) for variant in sorted(VARIANTS, key=len, reverse=True))
_NAME = re.compile(r"(?P<band>[a-z]*)[ _-]*(?P<number>\d{1,2})(?P<rest>(?!\d).*)", re.DOTALL)
_ONLY_VARIANTS = re.compile(rf"(?:{_VARIANTS}|[ _./-])*")
_VARIANTS_BEFORE_WORDS = re.compile(rf"^(?:[ _./-]*(?:{_VARIANTS})(?=[ _.,–—-]))+")
# What systems call a copied folder, in some of their languages: "ms65 (2)", "ms65 - Copy", "Kopie von ms65".
_COPY = "(?:copy|kopie|copie|copia|cópia|kopia|kopi|копия|副本|コピー)"
_COPIED_FOLDER = re.compile(
    rf"^{_COPY} (?:of|von|van|de|di|av) | *(?:[-_–— ] *{_COPY}(?: ?\d+)?| ?\(\d+\)| ?\((?:\w+ )?{_COPY}(?: \d+)?\))$"
)


def class_name(folder: str, keep_variants: bool = False) -> str:
    """Return the class of a grade folder: its name in lower case, without the variant.

    "AU58+" and "au58" are both "au58", "pr69dcam" is "pr69", and "ms65 (2)" or "ms65 - Copy", a copied folder, "ms65".
    Other words after the number make a class of their own: "AU58_details" is "au58 details", since a coin that was
    cleaned or damaged has no straight grade. So does a name that is not on the scale. Grades on it get two digits:
    "g4" is "g04".

    Args:
        folder: name of a grade folder.
        keep_variants: keep the variant, so that "au58+" and "au58" are two classes.
    """
    name = composed(folder.strip().lower())
    while name != (original := _COPIED_FOLDER.sub("", name)):
        name = original
    match = _parse(name)
    if not match:
        return name
    grade, rest = f"{match['band']}{int(match['number']):02}", match["rest"]
    if _ONLY_VARIANTS.fullmatch(rest):
        variant = re.sub("[ _./-]+", "", rest)
        return grade + (" " if variant[:1].isdigit() else "") + variant if keep_variants else grade
    words = rest if keep_variants else _VARIANTS_BEFORE_WORDS.sub("", rest)
    return f"{grade} {' '.join(re.split('[ _.,–—-]+', words)).strip()}"


def sheldon_number(grade: str) -> int | None:
    """Return the number of a grade on the scale, 1 to 70, or None if it is not on the scale.

    A band without a number ("vf") has its lowest number (20).
    """
    match = _parse(grade)
    if match and _ONLY_VARIANTS.fullmatch(match["rest"]):
        return int(match["number"])
    return BANDS.get(grade)


def _parse(name: str) -> re.Match | None:
    """Return the band, the number and the rest of a name that begins with a grade on the scale; None for others."""
    match = _NAME.fullmatch(name)
    return match if match and match["band"] in (*BANDS, "") and 1 <= int(match["number"]) <= 70 else None


def is_proof(grade: str) -> bool:
    """Tell whether a grade is of proof or specimen coins."""
    return _letters(grade) in PROOFS


def scale_order(grade: str) -> tuple:
    """Return a sort key: grades from worn to perfect, then proofs, then names off the scale in alphabetical order."""
    number = sheldon_number(grade)
    if number is None:
        return (1, grade)
    band = _letters(grade)
    return (0, is_proof(grade), number, list(BANDS).index(band) if band else -1, grade)


def _letters(grade: str) -> str:
    return re.match("[a-z]*", grade)[0]
