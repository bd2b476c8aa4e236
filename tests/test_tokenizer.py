"""Token ids are those of transformers' CLIPTokenizer, for both ways of padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from triton_models.diffusion.tokenizer import PromptTokenizer

BUNDLED = Path(__file__).parents[1] / "assets" / "postcards" / "tokenizer"
PROMPTS = [
    "",
    "a red house on a hill, two green trees",
    "A  Red\tHOUSE\n on a hill",
    "(detailed:1.2), 35mm f/1.8 [night|day] don't we'll",
    "naïve café, e\u0301clair",
    "🦊 fox & בית 家",
    "null\0byte",
    "<|endoftext|> and <|startoftext|>",
    "tree " * 300,
    "!" * 200,
]


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"], ids=["SD 1", "SD 2"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[PromptTokenizer, Any]:
    """Ours and transformers', padding with the same token."""
    theirs = CLIPTokenizer.from_pretrained(BUNDLED, pad_token=request.param)
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs.save_pretrained(folder)
    return PromptTokenizer(folder, 77), theirs


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: ascii(prompt[:20]))
def test_ids_are_transformers(pair: tuple[PromptTokenizer, Any], prompt: str) -> None:
    ours, theirs = pair

    expected = theirs(prompt, padding="max_length", max_length=77, truncation=True).input_ids

    assert ours.encode(prompt).ids.tolist() == expected


def test_what_does_not_fit_is_told(pair: tuple[PromptTokenizer, Any]) -> None:
    tokenizer, _ = pair

    assert tokenizer.encode("a red house").left_out == ""
    assert tokenizer.encode("! " * 75).left_out == ""
    assert tokenizer.encode("! " * 75 + "Fox & hound").left_out == "Fox & hound"
