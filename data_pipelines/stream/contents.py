"""What the records of a split are, from the checksum that TFRecord stores with each record.

No record is read: two splits with equal checksums in equal order hold the same bytes (but for 1 in 2**32 per record).
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SHARD_DIGITS = 8  # hexadecimal, per shard
_SHOWN_SHARDS = 3
_SOURCE = ("source", "source_path_sha256")  # settings that say where the files were, not what they are


@dataclasses.dataclass(frozen=True)
class Content:
    """The records of a split, before any is excluded.

    Attributes:
        split: its name or TFDS expression.
        records: their number.
        in_order: hash of their checksums in order; "" if the checksums are not known.
        as_set: the same for any order of the records.
        shards: 8 hexadecimal digits per shard, over the checksums of its records.
        settings: how the dataset was prepared, as JSON text per setting.
    """

    split: str
    records: int
    in_order: str
    as_set: str
    shards: str
    settings: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As `difference` reads it from a checkpoint."""
        return {**dataclasses.asdict(self), "settings": dict(self.settings)}


UNKNOWN = Content("", 0, "", "", "", {})


def of_records(
    split: str, checksums: Sequence[np.ndarray | None], num_records: int, settings: Mapping[str, Any]
) -> Content:
    """The content of a split.

    Args:
        split: its name or TFDS expression.
        checksums: per shard, uint32 [n], the stored checksum of each of its records; None: not known.
        num_records: of all shards.
        settings: how the dataset was prepared (`origin` in its metadata).
    """
    described = {key: json.dumps(value) for key, value in sorted(settings.items()) if key not in _SOURCE}
    known = [shard.astype("<u4") for shard in checksums if shard is not None]
    if len(known) < len(checksums):
        return Content(split, num_records, "", "", "", described)
    every = np.concatenate(known)
    return Content(
        split=split,
        records=num_records,
        in_order=hashlib.sha256(every.tobytes()).hexdigest(),
        as_set=hashlib.sha256(np.sort(every).tobytes()).hexdigest(),
        shards="".join(f"{zlib.crc32(shard.tobytes()):0{_SHARD_DIGITS}x}" for shard in known),
        settings=described,
    )


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the records of two contents, in words; "" if nothing does, or if one is not known.

    Args:
        before: a content as JSON, see `Content.to_json`.
        now: another one, of a split of the same name.
    """
    if not before["in_order"] or not now["in_order"] or before["in_order"] == now["in_order"]:
        return ""
    parts = [
        f"{key} {before['settings'].get(key)} before, {now['settings'].get(key)} now"
        for key in sorted(before["settings"].keys() | now["settings"].keys())
        if before["settings"].get(key) != now["settings"].get(key)
    ]
    if before["records"] != now["records"]:
        return "; ".join([f"{before['records']} records before, {now['records']} now", *parts])
    if before["as_set"] == now["as_set"]:
        return "; ".join(["the same records in another order", *parts])
    where = _other_shards(before["shards"], now["shards"])
    return "; ".join([f"records with other content{where} (labels corrected, or clips encoded again)", *parts])


def _other_shards(before: str, now: str) -> str:
    """The numbers of the shards that differ; "" if there are more or fewer shards than before."""
    if len(before) != len(now):
        return ""
    starts = range(0, len(now), _SHARD_DIGITS)
    other = [at // _SHARD_DIGITS for at in starts if before[at : at + _SHARD_DIGITS] != now[at : at + _SHARD_DIGITS]]
    more = f" and {len(other) - _SHOWN_SHARDS} more" if len(other) > _SHOWN_SHARDS else ""
    return f" in shard {', '.join(map(str, other[:_SHOWN_SHARDS]))}{more}"
