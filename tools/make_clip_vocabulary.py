"""Write CLIP's vocab.json and merges.txt from the BPE file that the PyPI package open_clip_torch carries.

pip install open_clip_torch
python tools/make_clip_vocabulary.py --out assets/stable_diffusion/tokenizer
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
from pathlib import Path

MERGES = 49152 - 256 - 2
"""CLIP uses the first merges of the file only: 49408 tokens less 2 × 256 letters and 2 special tokens."""


def byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + n) for n, _ in enumerate(others)]


def write_vocabulary(bpe: Path, out: Path) -> None:
    """bpe: bpe_simple_vocab_16e6.txt.gz. Writes out/vocab.json and out/merges.txt."""
    lines = gzip.decompress(bpe.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : MERGES + 1]
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps(
        {token: n for n, token in enumerate(tokens)}, ensure_ascii=False, separators=(",", ":")
    )
    (out / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bpe", type=Path, help="the BPE file; default: the installed open_clip_torch's")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bpe = options.bpe
    if bpe is None:
        spec = importlib.util.find_spec("open_clip")
        if spec is None or spec.origin is None:
            raise SystemExit("open_clip_torch is not installed: pip install open_clip_torch, or give --bpe.")
        bpe = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    write_vocabulary(bpe, options.out)


if __name__ == "__main__":
    main()
