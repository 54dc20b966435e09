"""Make the mini model's tokenizer: CLIP's byte-level BPE with a small vocabulary of its own.

python -m tools.mini.tokenizer --out .training/mini/model/tokenizer
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tools.mini.captions import (
    ACCESSORIES,
    BACKGROUNDS,
    CLOTHES,
    EXPRESSIONS,
    FINISHES,
    FRAMINGS,
    LIGHTS,
    OPENINGS,
    STYLE_WORDS,
)

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
OTHER_WORDS = """
the a an of in on at by for from to with without and or not no but as is are was be been being it its this that these
those his her their my your our he she they we you i who what which when where how one two three four five six ten
good best very more most less much many some any every all each other same new few own such only just also than then
man woman person people face head hair eyes eye nose mouth lips skin beard moustache ears neck shoulders hands hand
old young middle aged adult boyish elderly beautiful handsome friendly happy sad angry calm serious proud smiling
smile laughing looking camera viewer left right up down side front back frontal centred straight away profile view
black white grey gray blue green red yellow orange purple pink brown blond blonde beige gold golden silver dark light
bright pale warm cool cold soft hard even sharp blurred blurry plain clean simple rich deep high low
photo photograph picture image portrait selfie headshot drawing painting sketch cartoon film vintage retro analog
studio passport corporate business professional linkedin profile wedding fashion magazine cover editorial noir
outdoor outdoors indoor indoors park forest beach sea mountain city street night evening morning day sunset sunrise
sky lights light lamp window office room wall garden snow rain autumn summer spring winter background foreground
wearing wears dressed suit tie shirt t-shirt jacket coat dress sweater hoodie hat cap scarf glasses sunglasses
earrings necklace jewelry makeup uniform clothes clothing collar leather denim wool
style styles in colour color colours colors tones tone contrast shadow shadows lighting dramatic cinematic natural
quality detailed detail resolution focus depth field bokeh lens grain grainy noise exposure retouched realistic
ugly deformed distorted disfigured bad worst low quality artifacts extra fingers watermark text logo cropped out
""".split()  # noqa: SIM905


def byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + k) for k, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def training_text() -> list[str]:
    """Every phrase of the captions many times, and other words of photographs a few times."""
    phrases = [phrase for table in (BACKGROUNDS, FINISHES, LIGHTS, ACCESSORIES, FRAMINGS, CLOTHES, EXPRESSIONS)
               for choices in table.values() for phrase in choices]  # fmt: skip
    phrases += [*OPENINGS, *STYLE_WORDS.values(), "a person in the style", "black brown blond grey hair"] * 3
    letters = [f"{a}{b}" for a in string.ascii_lowercase for b in "aeiourstln"]
    return phrases * 40 + OTHER_WORDS * 20 + letters + list(string.digits)


def train_merges(size: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def write_tokenizer(out: Path, size: int) -> None:
    """vocab.json, merges.txt and tokenizer_config.json that CLIPTokenizer.from_pretrained(out) reads."""
    merges = train_merges(size)
    bytes_ = byte_characters()
    tokens = [*bytes_, *(character + "</w>" for character in bytes_)]
    tokens += [merged for left, right in merges if (merged := left + right) not in set(tokens)]
    vocabulary = {token: index for index, token in enumerate([*dict.fromkeys(tokens), START, END])}
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "bos_token": START, "eos_token": END,
        "unk_token": END, "pad_token": END, "do_lower_case": True, "errors": "replace", "add_prefix_space": False,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder of the tokenizer")
    parser.add_argument("--size", type=int, default=1600, help="tokens that the merges may make, at most")
    args = parser.parse_args()
    write_tokenizer(Path(args.out), args.size)
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(args.out)
    print(
        f"{len(tokenizer)} tokens; {tokenizer.tokenize('a portrait of a person in the style, wearing sunglasses')}"
    )
    unusual = "Ünïcode 🙂 <tag> naïve café 日本 1234 \u00a0 don't"
    ids = tokenizer(unusual).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1], ids
    print(tokenizer.decode(ids, skip_special_tokens=True), np.max(ids))


if __name__ == "__main__":
    main()
