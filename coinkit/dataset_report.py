"""What prepare_dataset.py prints about a dataset: photos of each grade, warnings, and photos that were left out."""

from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

from coinkit.classes import bands_of, joined_by
from coinkit.cli import printable
from coinkit.faces import CIRCLES, FACE_WORDS
from coinkit.files import is_hidden
from coinkit.grades import is_proof, scale_order, sheldon_number
from coinkit.manifest import FULL_SIZE, MISSING, NOT_CHOSEN, Photo, usable
from coinkit.photos import ONE_FACE, PHOTO_FOLDER, SPLITS, TWO_PHOTOS, is_photo_name
from coinkit.splits import is_crossing, photos_by_group, split_sizes

PHOTO_COUNT_RATINGS = {"excellent": 100, "good": 50, "usable": 20, "too few": 0}  # photos of a grade, at least
IF_DIFFERENT = "If some are different coins: --group certificate."
MAX_IMBALANCE = 3  # warn if the largest grade has more than this many times the photos of the smallest
MAX_CUT_DIFFERENCE = 0.5  # warn if the shares of photos that are cut out differ by more from grade to grade
MAX_DEVIATION, MIN_DEVIATION = 0.5, 3  # warn if a split is further from its share: as a share of it, and in photos
WITHOUT = {"val": "the last epoch will be kept, not the best", "test": "nothing will say how good the network is"}
MAX_FOLDERS = 20  # whose photos are not used
MAX_LISTED = 20  # photos listed on screen; the manifest lists them all


def print_other_files(folder: Path) -> None:
    """Print how many files in a folder of photos do not have a photo's extension."""
    extensions = Counter(
        path.suffix.lower() or "none"
        for path in folder.iterdir()
        if not (is_photo_name(path) or is_hidden(path.name) or path.name == CIRCLES) and path.is_file()
    )
    if extensions:
        names = printable(", ".join(sorted(extensions)))
        count = extensions.total()
        print(f"Files not used, because of their file name extension ({names}): {count} in {printable(folder)}")


def print_unused(counts: dict[Path, int], source: Path) -> None:
    """Print how many photos are not used since they lie in the wrong folders, {folder: photos}, and the first ones."""
    for folder, count in list(counts.items())[:MAX_FOLDERS]:
        print(f"Photos not used, because they lie in the wrong folder: {count} in {printable(folder)}")
    if others := list(counts.values())[MAX_FOLDERS:]:
        print(f"... and {sum(others)} more in {len(others)} other folders")
    for face, words in FACE_WORDS.items():
        if folders := [folder for folder in counts if words.fullmatch(folder.name.lower())]:
            print(f"Rename {printable(folders[0])}, and others with this name, to {face}.")
    if counts:
        print(f"Photos of both faces go into {printable(source)}/<grade>/{PHOTO_FOLDER}/. {TWO_PHOTOS}")


def print_changed_classes(photos: list[Photo], previous: list[Photo]) -> None:
    """Print how many photos of the previous dataset are of another class now."""
    before = {old.source: old.grade for old in previous if old.output}
    changed = sum(photo.grade != before.get(photo.source, photo.grade) for photo in usable(photos))
    if changed:
        joined = joined_by(sorted(set(before.values()), key=scale_order))
        if joined_classes(photos) and not joined_classes(previous):
            flags = "without --classes"
        else:
            flags = f"with --classes {joined[0]}" if len(joined) == 1 else "with --classes or --keep-variants as before"
        print(
            f"Warning: {changed} photos are of another class than before. If you did not mean that, run it again "
            f"{flags}."
        )


def joined_classes(photos: list[Photo]) -> set[str]:
    """Return the classes that join grades."""
    return {photo.grade for photo in usable(photos) if photo.grade != photo.source_grade}


def print_changed_cutting(photos: list[Photo], previous: list[Photo]) -> None:
    """Print how many photos of the previous dataset were cut out and are not now, since --cut was left out."""
    before = {old.source for old in previous if old.output and old.circles}
    changed = sum(photo.source in before and not photo.circles for photo in usable(photos))
    if changed:
        print(f"Warning: {changed} photos were cut out before, and are not now. To cut them out again, add --cut.")


def print_changed_size(photos: list[Photo], previous: list[Photo]) -> None:
    """Print how many photos of the previous dataset had another size, which a forgotten --size may have changed."""
    size_of = {old.source: old.preparation.split()[0] for old in previous if old.output and old.preparation}
    now = {photo.source: photo.preparation.split()[0] for photo in usable(photos)}
    changes = Counter((size_of[source], size) for source, size in now.items() if size_of.get(source, size) != size)
    for (before, size), count in changes.items():
        if before not in FULL_SIZE and size not in FULL_SIZE:
            print(f"{count} photos were {before} pixels before, and are {size} now (--size).")


def print_report(photos: list[Photo], ratios: list[float]) -> None:
    """Print all that the user should know about a dataset.

    Args:
        photos: the rows of its manifest.
        ratios: shares of train, val and test that were asked for, in any unit.
    """
    print_grades(photos)
    print_empty_splits(photos)
    print_doubtful_names(photos)
    print_doubtful_counts(photos)
    print_uneven_cutting(photos)
    print_coins_of_two_grades(photos)
    print_shares(photos, ratios)
    print_coins(photos)
    print_left_out(photos)
    print_notes(photos)


def print_grades(photos: list[Photo]) -> None:
    """Print how many photos each grade has in each split, whether that is enough, and which grades are joined in it."""
    photos = usable(photos)
    counts = Counter((photo.grade, photo.split) for photo in photos)
    totals = Counter(photo.grade for photo in photos)
    split_totals = Counter(photo.split for photo in photos)
    sources = defaultdict(set)
    for photo in photos:
        sources[photo.grade].add(photo.source_grade)
    width = max(map(len, [*totals, "grade"]))
    print(f"\n{'grade':{width}}  train    val   test  total")
    for grade in sorted(totals, key=scale_order):
        numbers = "".join(f"{number:7}" for number in (*(counts[grade, split] for split in SPLITS), totals[grade]))
        bar = "#" * max(1, round(20 * totals[grade] / max(totals.values())))
        rating = next(rating for rating, minimum in PHOTO_COUNT_RATINGS.items() if totals[grade] >= minimum)
        joined = ", ".join(sorted(sources[grade] - {grade}, key=scale_order))
        print(f"{grade:{width}}{numbers}  {bar:20}  {rating}{joined and f' ({joined})'}")
    numbers = "".join(f"{number:7}" for number in (*(split_totals[split] for split in SPLITS), totals.total()))
    print(f"{'all':{width}}{numbers}")


def print_empty_splits(photos: list[Photo]) -> None:
    """Print which grades are not in the training split, and which splits are empty."""
    grades_of_split = defaultdict(set)
    for photo in usable(photos):
        grades_of_split[photo.split].add(photo.grade)
    grades = set().union(*grades_of_split.values())
    if not_in_train := sorted(grades - grades_of_split["train"], key=scale_order):
        names = ", ".join(not_in_train)
        print(f"\nWarning: grades without photos in train, which cannot be learned: {names}; --reshuffle splits anew.")
    for split in ("val", "test"):
        if not grades_of_split[split]:
            print(f"\nWarning: no photo is in {split}: {WITHOUT[split]}.")


def print_doubtful_names(photos: list[Photo]) -> None:
    """Print which grades are not on the Sheldon scale, or have the same number on it."""
    grades = sorted({photo.grade for photo in usable(photos)}, key=scale_order)
    unknown = [grade for grade in grades if sheldon_number(grade) is None]
    places = {grade: (sheldon_number(grade), is_proof(grade)) for grade in grades if grade not in unknown}
    grades_in_place = {place: [grade for grade in places if places[grade] == place] for place in places.values()}
    same_number = [" and ".join(names) for names in grades_in_place.values() if len(names) > 1]
    if unknown:
        print(f"\nWarning: not on the Sheldon scale, so placed after its best grade: {', '.join(unknown)}.")
    if same_number:
        print(f"\nWarning: separate grades, but with the same number on the Sheldon scale: {'; '.join(same_number)}.")
    if details := [grade for grade in unknown if sheldon_number(grade.split()[0]) is not None]:
        print(f"Words after the number make a grade of its own, apart from the straight one: {', '.join(details)}.")
    if joined_classes(photos).intersection(unknown):
        print("In the table of --classes, name classes after their grades, such as vf or ms65, to give them a place.")
    elif unknown or same_number:
        print(
            "If you did not mean that, rename their folders, such as fine 12 to f12, or join them with --classes "
            "FILE.csv, and run this again."
        )


def print_doubtful_counts(photos: list[Photo]) -> None:
    """Print whether most grades have too few photos, and whether some have far more than others."""
    totals = Counter(photo.grade for photo in usable(photos))
    middle, bands = median(totals.values()), bands_of(sorted(totals, key=scale_order)).names
    if middle < PHOTO_COUNT_RATINGS["usable"] and 1 < len(bands) < len(totals):
        print(
            f"\nMost of the {len(totals)} grades have too few photos (median: {middle:g}): single grades will often be "
            "wrong. Classes that join them are far surer: docs/classes.md says how to get these."
        )
    imbalance = max(totals.values()) / min(totals.values())
    if imbalance > 1:
        print(f"\nThe largest grade has {imbalance:.1f} times the photos of the smallest.")
    if imbalance > MAX_IMBALANCE:
        print(f"Warning: above {MAX_IMBALANCE} times, the model favours large grades; train with --class-weights.")


def print_uneven_cutting(photos: list[Photo]) -> None:
    """Print whether the coins of some grades are cut out, and those of others are not."""
    cut_out = defaultdict(list)
    for photo in usable(photos):
        cut_out[photo.grade].append(bool(photo.circles))
    shares = {grade: sum(values) / len(values) for grade, values in cut_out.items()}
    most, least = max(shares, key=shares.get), min(shares, key=shares.get)
    if shares[most] - shares[least] > MAX_CUT_DIFFERENCE:
        print(f"\nWarning: most coins of {most} are cut out, and most of {least} are not, so a network can tell these")
        print("grades by the ground, without a look at the coin. Add --cut, which cuts out all.")


def print_coins_of_two_grades(photos: list[Photo]) -> None:
    """Print which photos are taken for one coin, but lie under different grades."""
    grades_of_group = defaultdict(set)
    for photo in usable(photos):
        grades_of_group[photo.group].add(photo.grade)
    if doubtful := [photo.source for photo in photos if len(grades_of_group.get(photo.group, ())) > 1]:
        print_photos("look like one coin, or share a certificate number, but differ in grade; check them:", doubtful)


def print_shares(photos: list[Photo], ratios: list[float]) -> None:
    """Print which splits are far from the shares that they would have if every photo was of a coin of its own."""
    photos = usable(photos)
    counts = Counter(photo.split for photo in photos)
    grades = Counter(photo.grade for photo in photos)
    for split in SPLITS:
        expected = sum(split_sizes(count, ratios)[split] for count in grades.values())
        if abs(counts[split] - expected) > max(MAX_DEVIATION * expected, MIN_DEVIATION):
            coin = max(Counter(photo.group for photo in photos).values())
            print(f"\nWarning: {split} has {counts[split]} photos, and by its ratio it would have {expected}.")
            print(f"Photos of one coin stay in one split, up to {coin} here; and photos keep the split that they had.")


def print_coins(photos: list[Photo]) -> None:
    """Print the groups of photos that are taken for one coin."""
    groups = photos_by_group(usable(photos)).values()
    several = sorted((group for group in groups if len(group) > 1), key=len, reverse=True)
    if several:
        sizes = Counter(map(len, several))
        sizes = ", ".join(f"{count} with {size}" for size, count in sorted(sizes.items()))
        print(f"\nCoins with several photos: {len(several)} ({sizes} photos). {IF_DIFFERENT}")
        lines = [f"{photo.source}: {photo.match}" for group in several for photo in group if photo.match]
        if lines:
            print_photos("taken for another photo of a coin:", lines)


def print_crossing(photos: list[Photo], moving: int) -> None:
    """Print which photos were left out because their coin is in another split, too.

    Args:
        photos: all photos.
        moving: how many would be in another split after --reshuffle.
    """
    crossing = [f"{photo.source} ({photo.split}): {photo.reason}" for photo in photos if is_crossing(photo)]
    print_photos("LEFT OUT, since one coin in two splits makes the score too good:", crossing)
    print(f"They keep their splits in manifest.csv. --reshuffle uses them again, and moves {moving} photos to another")
    print(f"split; models that were trained before must then be trained anew. {IF_DIFFERENT}")


def print_left_out(photos: list[Photo]) -> None:
    """Print which photos were left out, and why."""
    left_out = [
        f"{photo.source}: {photo.reason}"
        for photo in photos
        if photo.reason not in ("", MISSING, NOT_CHOSEN) and not is_crossing(photo)
    ]
    if left_out:
        print_photos("left out:", left_out)
    if not_chosen := Counter(photo.source_grade for photo in photos if photo.reason == NOT_CHOSEN):
        counts = ", ".join(f"{grade}: {not_chosen[grade]}" for grade in sorted(not_chosen, key=scale_order))
        print(f"\nPhotos of grades that are not used (--grades, --classes): {not_chosen.total()} ({counts}).")
    if missing := sum(photo.reason == MISSING for photo in photos):
        print(f"\nPhotos of the dataset that are no longer there: {missing}; their splits are kept.")


def print_notes(photos: list[Photo]) -> None:
    """Print which photos are used but unusual."""
    if noted := [f"{photo.source}: {photo.note}" for photo in usable(photos) if photo.note]:
        print_photos("used, but worth a look:", noted)
    if any(ONE_FACE in photo.note for photo in usable(photos)):
        print(TWO_PHOTOS)


def print_photos(heading: str, lines: list[str]) -> None:
    """Print the number of photos with a heading, and the first of them."""
    print(f"\n{len(lines)} photo{'' if len(lines) == 1 else 's'} {heading}")
    print("\n".join(f"  {printable(line)}" for line in lines[:MAX_LISTED]))
    if len(lines) > MAX_LISTED:
        print(f"  ... and {len(lines) - MAX_LISTED} more")
