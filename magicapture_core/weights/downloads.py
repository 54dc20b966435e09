"""Safe downloads: continued where they broke off, and compared with what is published before they count."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from magicapture_core.languages import _
from magicapture_core.problems import MissingFiles
from magicapture_core.progress import Progress
from magicapture_core.weights.published import Weight

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte; also slow connections deliver something in this time
_ATTEMPTS = 3  # a broken download is continued; after three breaks the user is told


def download(entry: Weight, folder: Path, progress: Progress | None) -> Path:
    """Bring the file into `folder`; see `fetch_weight`."""
    if entry.url.endswith(".zip"):
        archive = entry.url.rpartition("/")[2]
        raise MissingFiles(
            _not_here(
                entry, folder, _("it is inside {archive}, which must be unpacked by hand", archive=archive)
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{entry.filename}.part"
    have = part.stat().st_size if part.exists() else 0
    if entry.size is not None and shutil.disk_usage(folder).free < entry.size - have:
        raise MissingFiles(_(
            "{file} needs {size}, but the disk of {folder} has less room. Make room, or set MAGICAPTURE_WEIGHTS "
            "to a folder on another disk.",
            file=entry.filename, size=entry.readable_size, folder=folder,
        ))  # fmt: skip
    for attempt in range(_ATTEMPTS):
        try:
            _stream(entry, part, progress)
            break
        except urllib.error.HTTPError as error:
            raise MissingFiles(
                _not_here(
                    entry,
                    folder,
                    _("the server answered {code} {reason}", code=error.code, reason=error.reason),
                )
            ) from error
        except (OSError, HTTPException) as error:
            if attempt == _ATTEMPTS - 1:
                raise MissingFiles(_not_here(entry, folder, _reason(error))) from error
    _check(entry, part)
    target = folder / entry.filename
    part.replace(target)
    return target


def _stream(entry: Weight, part: Path, progress: Progress | None) -> None:
    """Append the missing bytes of `entry` to `part`. Raises OSError when the connection breaks before the end."""
    have = part.stat().st_size if part.exists() else 0
    if entry.size is not None and have >= entry.size:
        if have > entry.size:
            part.unlink()
            have = 0
        else:
            return
    request = urllib.request.Request(entry.url, headers={"User-Agent": "magicapture"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the partial file is not the beginning of the file on the server
            part.unlink()
            raise ConnectionError(_("the server did not accept the partial file; starting again")) from error
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else entry.size
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(_("Downloading {file}", file=entry.filename), have, total)
    if total is not None and have < total:
        raise ConnectionError(
            _("the download broke off after {have} of {total} bytes", have=f"{have:,}", total=f"{total:,}")
        )


def _check(entry: Weight, part: Path) -> None:
    """Delete `part` and raise MissingFiles unless it is the published file."""
    size, digest = part.stat().st_size, sha256_of(part) if entry.sha256 else None
    if (entry.size is None or size == entry.size) and digest == entry.sha256:
        return
    part.unlink()
    sizes = entry.size is not None and size != entry.size
    expected = _("{size} bytes", size=f"{entry.size:,}") if sizes else entry.sha256
    got = _("{size} bytes", size=f"{size:,}") if sizes else digest
    raise MissingFiles(_(
        "What came from {url} is not {file}: expected {expected}, got {got}. It was deleted. Try again later; "
        "if it happens again, something on the way (a proxy?) replaces the file.",
        url=entry.url, file=entry.filename, expected=expected, got=got,
    ))  # fmt: skip


def _not_here(entry: Weight, folder: Path, why: str) -> str:
    return _(
        "{file} ({size}; {purpose}) is not here and cannot be downloaded: {why}. Get it from {url} on a machine "
        "with a connection and put it into {folder}, or set MAGICAPTURE_WEIGHTS to a folder that has it. What has "
        "arrived so far is kept and continued next time.",
        file=entry.filename,
        size=entry.readable_size,
        purpose=_(entry.purpose),
        why=why,
        url=entry.url,
        folder=folder,
    )


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__


def sha256_of(path: Path) -> str:
    """In hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
