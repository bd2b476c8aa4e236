"""Paint 24 prompts onto one sheet: what the checkpoint can do at a glance.

python -m assets.training.contact_sheet assets/contact_sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from assets.training.painter import CHECKPOINT, Painter, Settings

PROMPTS = (
    "a red boat on the left, sea at night, stars",
    "sunset over mountains with a blue balloon",
    "a yellow house in a snowy landscape at night",
    "three red mushrooms in the forest",
    "a pink cat on the right by a lake at dawn",
    "a city skyline at night, rain",
    "a purple whale at sunrise, rainbow",
    "a green tent in the desert, cactus, full moon",
    "an orange van under cherry trees",
    "a red lighthouse on the left by the sea at sunset",
    "a blue kite on the right over rolling hills",
    "palm trees on a beach, golden hour",
    "a violet house in the woods at midnight",
    "three yellow balloons over the alps",
    "a winter landscape, snow falling, pine trees",
    "an orange cat in a meadow, birds",
    "mountains at night, crescent moon, stars",
    "a blue whale on the ocean at sunset",
    "red tulips in a meadow by day",
    "a city in violet tones at dawn",
    "a pink tent by a lake, pine trees, night",
    "a red house on the left and a blue balloon on the right",
    "a green car in the desert at noon",
    "a yellow boat in the middle of a mountain lake",
)
COLUMNS, CELL, TEXT = 6, 168, 18


def main() -> None:
    """Paint and save the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--guidance", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; each next one is one more")
    options = parser.parse_args()
    painter = Painter(Settings(options.checkpoint, options.device, options.steps))
    seeds = range(options.seed, options.seed + len(PROMPTS))
    sheet = arrange(painter.paint(PROMPTS, seeds, options.guidance), PROMPTS)
    sheet.save(options.file, optimize=True)


def arrange(pictures: list[Image.Image], captions: tuple[str, ...]) -> Image.Image:
    """The pictures in rows, each above its prompt."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8) + 8, rows * (CELL + TEXT + 8) + 8), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=8)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = 8 + index % COLUMNS * (CELL + 8), 8 + index // COLUMNS * (CELL + TEXT + 8)
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
        draw.text((x + CELL / 2, y + CELL + 4), caption, fill="#444", font=font, anchor="ma")
    return sheet


if __name__ == "__main__":
    main()
