"""Which photos go to train, which to val and which to test."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from coinkit.manifest import Photo, usable, usable_now_or_later
from coinkit.photos import SPLITS

COIN_IN_TWO_SPLITS = "in another split than a photo of the same coin:"  # the reason of a photo that was left out


def assign_splits(photos: list[Photo], previous: list[Photo], ratios: list[float], seed: int) -> None:
    """Set the split of each usable photo, by the first of these rules that applies to it.

    A new rule is a function that sets `photo.split` of photos that have none yet, and a line here. If that line comes
    before `keep_coins_together`, the other photos of a coin follow those that the rule has placed.

    Args:
        photos: all photos, with their groups.
        previous: the rows of the dataset made before; none to split all photos anew.
        ratios: shares of train, val and test, in any unit.
        seed: the same seed, ratios and photos give the same splits.
    """
    keep_previous_splits(photos, previous)
    keep_coins_together(photos)
    leave_out_crossing(photos)
    split_by_ratios(photos, ratios, seed)


def keep_previous_splits(photos: list[Photo], previous: list[Photo]) -> None:
    """Give a photo the split that it had before, also if its file was moved or renamed, or if it is now left out."""
    split_of_source = {old.source: old.split for old in previous}
    used_last = sorted(previous, key=lambda old: not old.reason)  # of rows with the same picture, that one counts
    split_of_digest = {old.digest: old.split for old in used_last if old.split}
    for photo in photos:
        photo.split = split_of_source.get(photo.source, "")
        if not photo.reason:
            photo.split = split_of_digest.get(photo.digest, photo.split)


def keep_coins_together(photos: list[Photo]) -> None:
    """Give a new photo the split of the other photos of its coin; leave it out if they are in more than one split."""
    for coin in photos_by_group(usable_now_or_later(photos)).values():
        splits = sorted({photo.split for photo in coin if photo.split})
        for photo in coin:
            if photo.split or not splits:
                continue
            if len(splits) == 1:
                photo.split = splits[0]
            elif not photo.reason:
                photo.reason = (
                    f"shows the coin of photos in {' and '.join(splits)} (--reshuffle puts them in one split)"
                )


def leave_out_crossing(photos: list[Photo]) -> None:
    """Leave out the photos whose coin has photos in another split that comes first: train, val, test.

    That can happen to photos that have a split, if a file was renamed or replaced since. They keep it in the manifest,
    but an honest score has no coin that the model has seen.
    """
    for coin in photos_by_group(usable(photos)).values():
        first = min((photo for photo in coin if photo.split), key=lambda photo: SPLITS.index(photo.split), default=None)
        for photo in coin:
            if first and photo.split not in ("", first.split):
                photo.reason = f"{COIN_IN_TWO_SPLITS} {first.source}, which is in {first.split}"


def is_crossing(photo: Photo) -> bool:
    """Tell whether `leave_out_crossing` has left out a photo."""
    return photo.reason.startswith(COIN_IN_TWO_SPLITS)


def split_by_ratios(photos: list[Photo], ratios: list[float], seed: int) -> None:
    """Split the remaining coins by the ratios within each grade, in random order, coins with many photos first."""
    lacking = count_lacking(usable(photos), ratios)
    groups = photos_by_group(photo for photo in usable(photos) if not photo.split)
    coins = [groups[group] for group in sorted(groups)]
    random.Random(seed).shuffle(coins)
    for coin in sorted(coins, key=len, reverse=True):
        split = max(SPLITS, key=lambda split: sum(lacking[photo.grade][split] for photo in coin))
        for photo in coin:
            photo.split = split
            lacking[photo.grade][split] -= 1


def count_lacking(photos: list[Photo], ratios: list[float]) -> dict[str, dict[str, int]]:
    """Return for each grade how many photos each split still lacks."""
    totals = Counter(photo.grade for photo in photos)
    lacking = {grade: split_sizes(total, ratios) for grade, total in totals.items()}
    for photo in photos:
        if photo.split:
            lacking[photo.grade][photo.split] -= 1
    return lacking


def split_sizes(count: int, ratios: list[float]) -> dict[str, int]:
    """Return how many of `count` photos go to each split.

    Shares are rounded by the largest remainder. Then val and test take a photo from train if they would have none.
    """
    exact = {split: count * ratio / sum(ratios) for split, ratio in zip(SPLITS, ratios, strict=True)}
    sizes = {split: int(share) for split, share in exact.items()}
    for split in sorted(SPLITS, key=lambda split: sizes[split] - exact[split])[: count - sum(sizes.values())]:
        sizes[split] += 1
    for split in SPLITS:
        if exact[split] and not sizes[split] and sizes["train"] > 1:
            sizes[split] += 1
            sizes["train"] -= 1
    return sizes


def photos_by_group(photos: Iterable[Photo]) -> dict[str, list[Photo]]:
    """Return the photos of each coin."""
    groups = defaultdict(list)
    for photo in photos:
        groups[photo.group].append(photo)
    return groups
