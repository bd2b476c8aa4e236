"""Prompts to token ids, exactly as transformers' CLIPTokenizer makes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

PAD_TOKEN = "<|endoftext|>"  # where the tokenizer's own configuration names none


@dataclass(frozen=True)
class Tokens:
    """``ids`` is int32 [max_tokens]; ``left_out`` is the end of the prompt that did not fit."""

    ids: npt.NDArray[np.int32]
    left_out: str


class PromptTokenizer:
    """The tokenizer of an exported checkpoint, from its ``tokenizer/`` folder."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._pad = self._tokenizer.token_to_id(_pad_token(folder))
        self._max_tokens = max_tokens

    def encode(self, prompt: str) -> Tokens:
        """Begin and end tokens around as much of ``prompt`` as fits, then padding."""
        encoding = self._tokenizer.encode(prompt)
        ids = encoding.ids
        left_out = ""
        if len(ids) > self._max_tokens:
            left_out = prompt[encoding.offsets[self._max_tokens - 1][0] :].strip()
            ids = [*ids[: self._max_tokens - 1], ids[-1]]
        padding = [self._pad] * (self._max_tokens - len(ids))
        return Tokens(np.array([*ids, *padding], np.int32), left_out)


def _pad_token(folder: Path) -> str:
    """SD 1 pads with the end token, SD 2 with an exclamation mark."""
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("pad_token")
    token = named["content"] if isinstance(named, dict) else named
    return token or PAD_TOKEN
