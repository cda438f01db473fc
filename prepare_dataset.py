"""Make a dataset from a folder of coin photos: images/<grade>/6000x3000/ -> coin_dataset/{train,val,test}/<grade>/

    python prepare_dataset.py                                       70 % train, 10 % val, 20 % test
    python prepare_dataset.py --dry-run                             only report, write nothing
    python prepare_dataset.py --source ~/coins --ratios 60 20 20    other photos, other ratios
    python prepare_dataset.py --classes bands                       vf20, vf25 and so on as one class, vf

Two photos of a coin, images/<grade>/obverse/1.jpg and images/<grade>/reverse/1.jpg, are one: the coin is cut out of
both. coin_dataset/cut_coins.html shows how; a circle in images/circles.csv (file,x,y,radius) corrects it.

Photos of one coin stay in one split, so that the test split has only coins that the model has never seen. After adding
photos, or after an interruption, run it again: photos in the dataset keep their split and are not decoded again.
coin_dataset/manifest.csv lists every photo that was found, and why a photo was left out.
"""

if __name__ == "__main__":
    import coinkit.quiet_start  # noqa: F401

import argparse
import hashlib
import math
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from coinkit.classes import FIVE_IN_WORDS, choose_classes
from coinkit.cli import ArgumentParser, UserError, printable, quoted, run, usable_cores, worker_pool
from coinkit.coin_finder import FINDER_VERSION
from coinkit.cut_page import CUT_PAGE, write_cut_page
from coinkit.dataset_report import (
    print_changed_classes,
    print_changed_cutting,
    print_changed_size,
    print_crossing,
    print_left_out,
    print_other_files,
    print_report,
    print_unused,
)
from coinkit.faces import Faces, find_coins, first_file, format_circles, open_coin, source_of
from coinkit.files import (
    DISK_FULL,
    atomic_folder,
    composed,
    exclusive_lock,
    hidden_sibling,
    is_hidden,
    is_system_file,
    link_or_copy,
    require_disk_space,
    restore_previous,
)
from coinkit.grades import class_name
from coinkit.manifest import (
    COPY,
    FULL_SIZE,
    MANIFEST,
    MISSING,
    NOT_CHOSEN,
    Photo,
    append_to_manifest,
    read_interrupted,
    read_manifest,
    usable,
    write_manifest,
)
from coinkit.near_duplicates import GROUPINGS, assign_groups, other_hashes, perceptual_hash
from coinkit.photos import DATASET, FACE_FOLDERS, PHOTO_FOLDER, PhotoError, find_photos, prefetch
from coinkit.splits import assign_splits, is_crossing

SOURCE = Path("images")
RATIOS = (70, 10, 20)  # train, val and test
SEED = 0
SIZE = (1024, 512)  # of prepared photos: width and height in pixels
JPEG_QUALITY = 95  # saved at full colour resolution, since toning is a matter of colour

START_BYTES = 64  # of a photo; in each format, some of them are not zero

# To estimate the disk space.
JPEG_BYTES_PER_PIXEL = 0.5  # photos of real Morgan dollars take 0.34 to 0.62
MANIFEST_BYTES_PER_PHOTO = 1600  # with its copy

EXPECTED_FOLDERS = f"""Put the photos into folders like these:

    vf30/
      obverse/            two photos of each coin,
        12345678.jpg      with the same name
        ...
      reverse/
        12345678.jpg
        ...
    ms65/
      {PHOTO_FOLDER}/          or one of both faces
        12345678.jpg
        ..."""


def parse_arguments() -> argparse.Namespace:
    """Return the checked command-line options."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--source", type=Path, default=SOURCE, help=f"folder with the photos, in <grade>/{PHOTO_FOLDER}/")
    add("--output", type=Path, default=DATASET, help="folder for the dataset")
    add("--ratios", type=float, nargs=3, default=RATIOS, metavar=("TRAIN", "VAL", "TEST"), help="shares, in any unit")
    add("--seed", type=int, default=SEED, help="the same seed and photos give the same splits")
    add("--size", type=int, nargs=2, default=SIZE, metavar=("WIDTH", "HEIGHT"), help="of prepared photos, in pixels")
    add("--cut", action="store_true", help=f"cut the coins out of the photos in {PHOTO_FOLDER}/, too")
    add("--full-size", choices=FULL_SIZE, help="do not shrink photos, but hard-link or copy their files")
    add("--workers", type=int, default=usable_cores(), help="processes that read photos")
    add("--grades", nargs="+", metavar="GRADE", help="use only these grades")
    classes_help = (
        f"join grades: to the bands of the scale; to five classes ({FIVE_IN_WORDS}); or as a table says, whose columns "
        "are grade and class"
    )
    add("--classes", metavar="bands|five|FILE.csv", help=classes_help)
    add("--min-per-grade", type=int, default=1, help="leave out classes with fewer photos")
    add("--keep-variants", action="store_true", help="keep au58+ apart from au58, ms64rb from ms64")
    add(
        "--group", choices=GROUPINGS, default="both", help="how to find photos of one coin; both: certificate and looks"
    )
    add("--reshuffle", action="store_true", help="split all photos anew; some will move from train to test")
    add("--dry-run", action="store_true", help="read the photos and report, but write nothing")
    args = parser.parse_args()
    if not all(0 <= ratio < math.inf for ratio in args.ratios) or not args.ratios[0]:
        parser.error("--ratios must be numbers of at least 0, and TRAIN must be above 0")
    if args.cut and args.full_size:
        parser.error("--cut makes new photos, of --size, so there is no --full-size")
    parser.check_minimum(args, 1, "size", "workers")
    if args.size[0] < args.size[1]:
        parser.error("--size is WIDTH HEIGHT: a photo of both faces is twice as wide as high")
    return args


def main() -> None:
    """Run the command."""
    args = parse_arguments()
    output = Path(os.path.realpath(args.output))  # which links in a circle do not stop
    with nullcontext() if args.dry_run else exclusive_lock(hidden_sibling(output, "lock"), args.output):
        photos = prepare(args, output)

    print_report(photos, args.ratios)
    if any(map(is_crossing, photos)):
        print_crossing(photos, count_moved_by_reshuffle(photos, args))
    if args.dry_run:
        print("\nA dry run: nothing was written.")
    else:
        data = "" if args.output == DATASET else f" --data {quoted(args.output)}"
        if (output / CUT_PAGE).exists():
            print(f"\nCheck how the coins were cut out: {args.output / CUT_PAGE}, the least sure first.")
        print(f"\nThe dataset is in {args.output}. Next: python coin_classifier_custom.py --preset narrow{data}")
        print("With a GPU, see the presets under Train in README.md.")


def prepare(args: argparse.Namespace, output: Path) -> list[Photo]:
    """Make the dataset, unless it is a dry run, and return a row for each photo."""
    if not args.dry_run:
        restore_previous(output)
    previous = check_output(output, args.source)
    photos = find_source_photos(args)
    respell_sources(previous, photos)
    join_grades(photos, args)
    if previous and not args.reshuffle:
        print(f"Photos that are already in {args.output} keep their split; --reshuffle splits anew.")
    print_changed_classes(photos, previous)
    print_changed_cutting(photos, previous)
    print_changed_size(photos, previous)
    if args.dry_run:
        prepare_photos(photos, previous, output, args)
        select_and_split(photos, previous, args, source_of)
        return photos

    # Prepared photos wait in the staging folder until their split is known. It outlives an interrupted run, so that the
    # next one need not prepare them again.
    staging = hidden_sibling(output, "staging")
    needed = estimate_bytes(photos, previous, staging, args)
    with atomic_folder(output) as new_dataset, require_disk_space(needed, staging.parent):
        try:
            prepare_photos(photos, previous, output, args)
            paths = {old.source: output / old.output for old in previous if old.output}
            find_file = partial(find_prepared, staging=staging, previous=paths)  # opens faster than the source
            select_and_split(photos, previous, args, find_file)
            assign_output_paths(photos)
            fill_dataset(new_dataset, photos, find_file)
            write_cut_page(new_dataset, photos, args.source)
        except OSError as error:
            if error.errno in DISK_FULL:
                shutil.rmtree(staging, ignore_errors=True)  # frees space; after any other error, the next run goes on
            raise
    shutil.rmtree(staging, ignore_errors=True)  # network disks keep files that are open somewhere
    return photos


def check_output(output: Path, source: Path) -> list[Photo]:
    """Return the rows of the dataset in `output`, none if there is none yet.

    Raises:
        UserError: `output` is a file, or holds files that are not part of a dataset and would be lost.
    """
    if os.path.lexists(output) and not output.is_dir():
        raise UserError(f"--output {output} is not a folder: choose another one.")
    source = Path(os.path.realpath(source))
    if output == source or output in source.parents:
        raise UserError(f"--output {output} contains the photos of --source {source}: choose another folder.")
    photos = read_manifest(output)
    files = (MANIFEST, COPY, CUT_PAGE, *(photo.output for photo in photos))
    expected = {composed(str(output / file)) for file in files}
    for folder, subfolders, names in os.walk(output):
        subfolders[:] = [name for name in subfolders if not is_system_file(name)]
        for path in (os.path.join(folder, name) for name in names if not is_system_file(name)):
            if composed(path) not in expected and os.path.isfile(path):
                raise UserError(f"{path} would be lost, but is not from a dataset: move it or choose another --output.")
    return photos


# ---------------------------------------------------------------- finding and reading photos


def find_source_photos(args: argparse.Namespace) -> list[Photo]:
    """Return a row for each coin.

    A coin has a photo of both faces in <source>/<grade>/6000x3000/, or two photos in obverse/ and reverse/. A photo
    without a partner gets a row with the reason.

    Raises:
        UserError: no photo found, or circles.csv has a mistake.
    """
    grade_of = find_graded_files(args.source, args.keep_variants)
    coins, alone = find_coins(grade_of, args.cut)
    jpeg = f"{args.size[0]}x{args.size[1]} JPEG {JPEG_QUALITY}"
    photos = []
    for coin in coins:
        photo = Photo(first_file(coin).as_posix(), grade_of[first_file(coin)], preparation=args.full_size or jpeg)
        if isinstance(coin, Faces):
            photo.reverse = coin.reverse.as_posix() if coin.reverse else ""
            photo.circles = format_circles(coin.circles)
            photo.preparation = f"{jpeg}, cut by finder {FINDER_VERSION} at {photo.circles}"
        with suppress(OSError):  # for example a broken link; reading it will give the reason
            photo.file_bytes, photo.modified_ns = file_state(photo.source)
            if photo.reverse:
                photo.reverse_bytes, photo.reverse_modified_ns = file_state(photo.reverse)
        photos.append(photo)
    photos += [Photo(path.as_posix(), grade_of[path], reason=reason) for path, reason in alone.items()]
    if not photos:
        raise UserError(f"no photos of coins in {args.source}. {EXPECTED_FOLDERS}")
    return photos


def find_graded_files(source: Path, keep_variants: bool) -> dict[Path, str]:
    """Return the photos in the folders of grades, with their grades, and print what else is not used.

    Raises:
        UserError: there is no folder `source`.
    """
    if not source.is_dir():
        raise UserError(f"no folder {source.absolute()}. {EXPECTED_FOLDERS}")
    grade_of, unused = {}, {}  # `unused`: how many photos of each folder are not used
    below = [folder for pattern in ("*/", "*/*/", "*/*/*/") for folder in source.glob(pattern)]
    for folder in sorted([source, *below]):
        names = folder.relative_to(source).parts
        if any(map(is_hidden, names)):
            continue
        paths = find_photos(folder, recursive=len(names) == 3)  # deeper ones are counted with it
        is_used = len(names) == 2 and names[1].lower() in (PHOTO_FOLDER, *FACE_FOLDERS)
        grade = class_name(names[0], keep_variants) if is_used else ""
        if not grade or grade.startswith("."):  # a grade of ".." would be a folder outside the dataset
            if paths:
                unused[folder] = len(paths)
            continue
        print_other_files(folder)
        grade_of |= dict.fromkeys(paths, grade)
    print_unused(unused, source)
    return grade_of


def join_grades(photos: list[Photo], args: argparse.Namespace) -> None:
    """Turn the grade of each photo into its class, and leave out the grades that are not used.

    Raises:
        UserError: --grades or --classes has a mistake.
    """
    class_of = choose_classes({photo.grade for photo in photos}, args.grades, args.classes, args.keep_variants)
    for photo in photos:
        photo.source_grade = photo.grade
        photo.grade = class_of.get(photo.source_grade, photo.source_grade)
        if photo.source_grade not in class_of:
            photo.reason = NOT_CHOSEN


def file_state(path: str) -> tuple[int, int]:
    """Return the size and the modification time of a file, which tell whether it has changed."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def estimate_bytes(photos: list[Photo], previous: list[Photo], staging: Path, args: argparse.Namespace) -> int:
    """Estimate the disk space that is needed, in bytes. Photos that are prepared already need none: they are linked."""
    in_dataset = {old.source: old for old in previous if old.output}
    new = [photo for photo in usable(photos) if not is_unchanged(photo, in_dataset.get(photo.source))]
    new = [photo for photo in new if not (staging / staged_name(photo)).exists()]
    copied = sum(photo.file_bytes for photo in new if photo.preparation == "copy")
    made = sum(photo.preparation not in FULL_SIZE for photo in new)
    jpeg_bytes = int(made * args.size[0] * args.size[1] * JPEG_BYTES_PER_PIXEL)
    return copied + jpeg_bytes + MANIFEST_BYTES_PER_PHOTO * len(photos)


def respell_sources(rows: list[Photo], photos: list[Photo]) -> None:
    """Give the files in rows of an earlier run the names that they have now, if --source was written in another way."""
    found = {photo.source for photo in photos}
    gone = [row for row in rows if row.source not in found]
    if not gone:
        return
    now = {os.path.abspath(path): path for photo in photos for path in (photo.source, photo.reverse) if path}
    for row in gone:
        row.source = now.get(os.path.abspath(row.source), row.source)
        row.reverse = now.get(os.path.abspath(row.reverse), row.reverse) if row.reverse else ""


def is_unchanged(photo: Photo, old: Photo | None) -> bool:
    """Tell whether `old` was read from the same source file and prepared in the same way.

    A photo that could not be read counts as changed: the disk may be back, or the permission given.
    """
    if not old or not old.width:
        return False
    return source_state(photo) == source_state(old)


def source_state(photo: Photo) -> tuple:
    """Return what tells whether a photo has to be read again: its files, and how it is prepared."""
    reverse = photo.reverse and os.path.abspath(photo.reverse)
    files = (photo.file_bytes, photo.modified_ns, reverse, photo.reverse_bytes, photo.reverse_modified_ns)
    return *files, photo.preparation


def prepare_photos(photos: list[Photo], previous: list[Photo], dataset: Path, args: argparse.Namespace) -> None:
    """Read the photos, fill in their rows, and write prepared photos to the staging folder unless --dry-run.

    Photos that the previous dataset or an interrupted run has are not read again, unless they have changed.
    """
    staging = hidden_sibling(dataset, "staging")
    interrupted = read_interrupted(staging)
    respell_sources(interrupted, photos)
    in_dataset, in_staging = ({old.source: old for old in rows} for rows in (previous, interrupted))
    to_read = []
    for index, photo in enumerate(photos):
        old, staged = in_dataset.get(photo.source), in_staging.get(photo.source)
        if photo.reason:
            if is_unchanged(photo, old):
                photos[index] = reuse_row(photo, old)  # to know the coin on other photos
            continue
        if old and old.grade == photo.grade:
            photo.output = old.output  # keeps its name
        if is_unchanged(photo, old) and is_whole(dataset / old.output, old):
            photos[index] = reuse_row(photo, old)
        elif is_unchanged(photo, staged) and is_whole(staging / staged_name(photo), staged):
            photos[index] = reuse_row(photo, staged)
        else:
            to_read.append(index)

    if not args.dry_run:
        staging.mkdir(exist_ok=True)
        write_manifest(staging, interrupted)
    target = None if args.dry_run else staging
    read = partial(prepare_photo, staging=target, size=tuple(args.size))
    done = len(photos) - len(to_read)
    workers = max(1, min(args.workers, len(to_read)))
    with (
        worker_pool(workers) as pool,
        tqdm(total=len(photos), initial=done, desc="Reading", unit="photo", disable=None) as bar,
    ):
        rows = prefetch(pool, read, (photos[index] for index in to_read), ahead=8 * workers)
        for index, photo in zip(to_read, rows, strict=True):
            photos[index] = photo
            if not args.dry_run:
                append_to_manifest(staging, photo)
            bar.update()

    for photo in photos:
        old = in_dataset.get(photo.source)
        if old and photo.reason and not photo.digest:  # mended and renamed later, it is still known as the same coin
            for name in ("digest", "perceptual_hash", "other_hashes"):
                setattr(photo, name, getattr(old, name))


def is_whole(prepared: Path, row: Photo) -> bool:
    """Tell whether a prepared photo is as large as it was when it was written, as far as its row knows.

    A crash of the computer may leave a file of the right size that is full of zeros.
    """
    if not prepared.is_file() or row.output_bytes not in (0, prepared.stat().st_size):
        return False
    with prepared.open("rb") as file:
        return any(file.read(START_BYTES))


def reuse_row(photo: Photo, old: Photo) -> Photo:
    """Return the row of an unchanged photo: what an earlier run has read, but not what it has decided."""
    now = {name: getattr(photo, name) for name in ("grade", "source_grade", "output", "reason")}
    return replace(old, **now, split="", group="", match="")


def staged_name(photo: Photo) -> str:
    """Return the file name of a prepared photo in the staging folder; once the photo changes, it is a new one."""
    return hashlib.sha256(repr((os.path.abspath(photo.source), *source_state(photo))).encode()).hexdigest()


def prepare_photo(photo: Photo, staging: Path | None, size: tuple[int, int]) -> Photo:
    """Decode, check and hash a photo, and write the prepared photo to `staging`, in a worker process."""
    try:
        coin = open_coin(source_of(photo), *size)
        photo.digest = "".join(map(sha256_of, filter(None, (photo.source, photo.reverse))))
    except (PhotoError, OSError) as error:
        photo.reason = str(error)
        return photo
    photo.width, photo.height = coin.original_size
    photo.circles = format_circles(coin.circles)
    photo.perceptual_hash, photo.other_hashes = perceptual_hash(coin.photo), other_hashes(coin.photo)
    photo.note = ", ".join(coin.notes)
    if staging:
        target = staging / staged_name(photo)
        target.unlink(missing_ok=True)  # an interrupted run may have written half of it
        if photo.preparation == "link":
            link_or_copy(Path(photo.source), target)
        elif photo.preparation == "copy":
            shutil.copyfile(photo.source, target)
        else:
            coin.photo.save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        photo.output_bytes = target.stat().st_size
    return photo


def sha256_of(path: str) -> str:
    """Return the SHA-256 digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- which photos are used, and in which split


def select_and_split(
    photos: list[Photo],
    previous: list[Photo],
    args: argparse.Namespace,
    find_file: Callable[[Photo], Path | Faces],
) -> None:
    """Decide which photos are left out, and set the group and split of the others.

    A new reason to leave photos out is a `leave_out_...` function that sets `photo.reason`, and a line here.

    Args:
        photos: all of them.
        previous: rows of the previous dataset.
        args: the options.
        find_file: returns where to open a photo.

    Raises:
        UserError: fewer than 2 grades have usable photos, or photos of the dataset lie outside of --source.
    """
    missing = find_missing(photos, previous)
    check_source(missing, args.source)
    if args.reshuffle:
        previous = missing = []
    photos += [replace(old, output="", reason=MISSING) for old in missing]
    leave_out_copies(photos)
    for doubt in assign_groups(photos, args.group, find_file):
        print(f"Ignored when looking for photos of one coin: {printable(doubt)}.")
    leave_out_small_grades(photos, args.min_per_grade)
    assign_splits(photos, previous, args.ratios, args.seed)
    if len({photo.grade for photo in usable(photos)}) < 2:
        print_left_out(photos)
        left_out = any(photo.reason for photo in photos)
        advice = "The photos left out are listed above." if left_out else EXPECTED_FOLDERS
        raise UserError(f"fewer than 2 grades in {args.source} have usable photos. {advice}")


def count_moved_by_reshuffle(photos: list[Photo], args: argparse.Namespace) -> int:
    """Return how many photos would be in another split after --reshuffle."""
    again = [replace(photo, reason="" if is_crossing(photo) else photo.reason) for photo in photos]
    assign_splits(again, [], args.ratios, args.seed)
    return sum(photo.split != new.split for photo, new in zip(photos, again, strict=True) if not new.reason)


def check_source(missing: list[Photo], source: Path) -> None:
    """Make sure that no photo of the previous dataset is lost only because `source` is another folder.

    Args:
        missing: rows of the previous dataset, as `find_missing` returns them.
        source: folder of the photos.

    Raises:
        UserError: photos of the dataset lie outside of it.
    """
    folder = os.path.abspath(source)
    there = [old.source for old in missing if old.output and os.path.exists(old.source)]
    if outside := [path for path in there if not Path(os.path.abspath(path)).is_relative_to(folder)]:
        raise UserError(
            f"{len(outside)} photos of the dataset are not in {source}, but elsewhere, such as "
            f"{printable(outside[0])}: put all photos into one folder, or name another --output."
        )


def find_missing(photos: list[Photo], previous: list[Photo]) -> list[Photo]:
    """Return the rows of the previous dataset whose photo is no longer there, not even moved or renamed."""
    sources, digests = ({getattr(photo, name) for photo in photos} for name in ("source", "digest"))
    return [
        old
        for old in previous
        if old.split and old.source not in sources and (not old.digest or old.digest not in digests)
    ]


def leave_out_copies(photos: list[Photo]) -> None:
    """Keep one of several identical files; none if they are under two grades, since one of the grades is wrong."""
    by_digest = defaultdict(list)
    for photo in usable(photos):
        by_digest[photo.digest].append(photo)
    for copies in by_digest.values():
        copies.sort(key=lambda photo: not photo.output)  # the one that is in the dataset already comes first
        first_of_grade = {photo.grade: photo for photo in reversed(copies)}
        for photo in copies:
            if len(first_of_grade) > 1:
                other = next(first for grade, first in first_of_grade.items() if grade != photo.grade)
                photo.reason = f"the same picture is in another grade, {other.grade}: {other.source}"
            elif photo is not copies[0]:
                photo.reason = f"the same picture as {copies[0].source}"


def leave_out_small_grades(photos: list[Photo], minimum: int) -> None:
    """Leave out the grades that have fewer than `minimum` usable photos."""
    counts = Counter(photo.grade for photo in usable(photos))
    for photo in usable(photos):
        if counts[photo.grade] < minimum:
            photo.reason = f"its grade has only {counts[photo.grade]} usable photos (--min-per-grade {minimum})"


# ---------------------------------------------------------------- writing the dataset


def assign_output_paths(photos: list[Photo]) -> None:
    """Set the path of each usable photo in the dataset; photos of the previous dataset keep their names."""
    for photo in photos:
        if photo.reason:
            photo.output = ""
    taken = {(photo.grade, Path(photo.output).stem.lower()) for photo in photos if photo.output}
    for photo in usable(photos):
        suffix = Path(photo.source).suffix.lower() if photo.preparation in FULL_SIZE else ".jpg"
        name = Path(photo.output).stem
        if not name:
            # Letters of any script are kept; characters that a file system may refuse become "_".
            wanted = name = re.sub(r"[^\w.+-]+", "_", Path(photo.source).stem)[:80]
            number = 2
            while (photo.grade, name.lower()) in taken:
                name, number = f"{wanted}_{number}", number + 1
            taken.add((photo.grade, name.lower()))
        photo.output = f"{photo.split}/{photo.grade}/{name}{suffix}"


def find_prepared(photo: Photo, staging: Path, previous: dict[str, Path]) -> Path | Faces:
    """Return the prepared copy of a photo, new or of the previous dataset, {source: path}; or else the photo itself."""
    staged = staging / staged_name(photo)
    return staged if staged.exists() else previous.get(photo.source, source_of(photo))


def fill_dataset(new_dataset: Path, photos: list[Photo], find_file: Callable[[Photo], Path]) -> None:
    """Link the prepared photos, new ones and those of the previous dataset, and write the manifest."""
    for photo in usable(photos):
        target = new_dataset / photo.output
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(find_file(photo), target)
    write_manifest(new_dataset, photos)
    shutil.copyfile(new_dataset / MANIFEST, new_dataset / COPY)


if __name__ == "__main__":
    run(main, to_go_on="the same command again")
