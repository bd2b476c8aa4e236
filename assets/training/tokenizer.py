"""The tokenizer: CLIP's byte-level BPE, with merges learnt from our own captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_TOKENS = 77
VOCABULARY_SIZE = 1024
START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's word pattern (openai/CLIP, simple_tokenizer.py).
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learn the merges, write vocab.json and merges.txt into `folder`, and load them as CLIP's tokenizer.

    Any text encodes: every byte has a token, alone and at a word's end. A word that the captions
    use often is one token.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = alphabet + [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair)
        for pair in json.loads(bpe.to_str())["model"]["merges"]
    ][: VOCABULARY_SIZE - 2 - len(base)]
    vocabulary = base + [merge.replace(" ", "") for merge in merges]
    tokens = {token: index for index, token in enumerate([*dict.fromkeys(vocabulary), START, END])}
    write_vocabulary(tokens, merges, folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)


def write_vocabulary(tokens: dict[str, int], merges: list[str], folder: Path) -> None:
    """Write vocab.json and merges.txt, the two files every CLIP tokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    by_id = dict(sorted(tokens.items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(by_id, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save as transformers does (tokenizer.json), plus vocab.json and merges.txt for older readers."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_vocabulary(tokenizer.get_vocab(), merges, folder)
    config = folder / "tokenizer_config.json"
    kept = {
        k: v for k, v in json.loads(config.read_text()).items() if k not in ("is_local", "local_files_only")
    }
    config.write_text(json.dumps(kept, indent=2) + "\n")
