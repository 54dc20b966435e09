"""Options for signing pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magicapture_core.problems import Problem

if TYPE_CHECKING:
    from magicapture_core.provenance import Signer


@dataclass
class Signing:
    """C2PA content credentials; needs the package c2pa-python."""

    c2pa_key: Path | None = None
    """Also sign the file with C2PA, using this private key (PEM). Needs --c2pa-certificates."""
    c2pa_certificates: Path | None = None
    """The certificate chain of the key (PEM)."""
    c2pa_algorithm: Literal["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "ED25519"] = "ES256"
    """The key's algorithm."""

    def signer(self) -> Signer | None:
        """The signer; None if no signature is wanted. Problem if signing is not possible."""
        from magicapture_core.provenance import Signer

        if self.c2pa_key is None and self.c2pa_certificates is None:
            return None
        if self.c2pa_key is None or self.c2pa_certificates is None:
            raise Problem("Give both --c2pa-key and --c2pa-certificates, or neither.")
        signer = Signer(self.c2pa_key, self.c2pa_certificates, self.c2pa_algorithm)
        signer.check()
        return signer
