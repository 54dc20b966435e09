"""What the face networks found in each photo, kept in memory. So each photo is looked at once; after a change only
the comparison of photos is done again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magicapture_core.concepts import Look

# Some kilobytes each; whoever comes back after so many others waits for their photos to be looked at once more.
MOST = 2000


def digest_of(path: Path) -> str:
    """Tells files apart by their content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Looks:
    """What was found, by owner, content of the photo and way of looking. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Look] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, owner: str, digest: str, how: str, look: Callable[[], Look]) -> Look:
        """The look at a photo: the kept one, or else what `look` sees."""
        key = owner, digest, how
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = look()
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return found

    def forget(self, owner: str, digest: str | None = None) -> None:
        """Forget one of the owner's photos, or all: embeddings of faces are not kept longer than the photos."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner and digest in (None, key[1])]:
                del self._kept[key]
