"""Train the postcards checkpoint: tokenizer, autoencoder, its decoder some more, then text encoder and UNet.

    python -m assets.training.train --out runs/postcards            everything, on one CUDA GPU
    python -m assets.training.train --out runs/postcards --stages pack --checkpoint assets/postcards
    python -m assets.training.train --out runs/more --stages unpack diffusion pack --resume      train on

Each stage writes its result into --out and reads the stages before it from there, so a stage can be
repeated alone. Training lasts the minutes given and the learning rate follows the clock: on a GPU
slower than an H200, give more minutes.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

from assets.training.captions import caption
from assets.training.diffusion_training import train_diffusion
from assets.training.models import Networks, make_text_encoder, make_unet, make_vae, save_checkpoint
from assets.training.scene import random_scene
from assets.training.tokenizer import MAX_TOKENS, save_tokenizer, train_tokenizer
from assets.training.vae_training import train_vae

STAGES = ("unpack", "tokenizer", "vae", "decoder", "diffusion", "pack")
SEED = 20
BUNDLED = Path(__file__).parents[1] / "postcards"


def main() -> None:
    """Run the stages asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of each stage")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES[1:], help="default: all but unpack"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="the diffusers folder that `pack` writes (default: OUT/postcards)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="drawing processes"
    )
    parser.add_argument("--vae-images", type=int, default=80_000)
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--vae-minutes", type=float, default=6)
    parser.add_argument("--images", type=int, default=400_000, help="pictures for the diffusion stage")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--resume", action="store_true", help="go on from the diffusion weights in --out")
    parser.add_argument(
        "--no-compile", action="store_true", help="train the autoencoder without torch.compile"
    )
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for stage in STAGES:
        if stage in options.stages:
            RUN[stage](options)


def _unpack(options: argparse.Namespace) -> None:
    """The opposite of pack, from the bundled checkpoint: what training needs to go on from it."""
    pipeline = StableDiffusionPipeline.from_pretrained(BUNDLED, local_files_only=True)
    save_tokenizer(pipeline.tokenizer, options.out / "tokenizer")
    for name in ("text_encoder", "unet", "vae"):
        _save(getattr(pipeline, name), options.out / f"{name}.safetensors")
    _save(pipeline.vae, options.out / "vae_refined.safetensors")


def _tokenizer(options: argparse.Namespace) -> None:
    rng = random.Random(SEED)
    tokenizer = train_tokenizer(
        [caption(random_scene(rng), rng) for _ in range(40_000)], options.out / "tokenizer"
    )
    print(f"tokenizer: {len(tokenizer)} tokens")


def _vae(options: argparse.Namespace) -> None:
    _save(_train_vae(make_vae(), options, refine=False), options.out / "vae.safetensors")


def _decoder(options: argparse.Namespace) -> None:
    """May run beside `diffusion`, which reads the autoencoder once and needs only its encoder."""
    vae = make_vae()
    vae.load_state_dict(load_file(options.out / "vae.safetensors"))
    _save(_train_vae(vae, options, refine=True), options.out / "vae_refined.safetensors")


def _train_vae(vae: AutoencoderKL, options: argparse.Namespace, *, refine: bool) -> AutoencoderKL:
    return train_vae(
        vae,
        options.out / "tokenizer",
        refine=refine,
        images=options.vae_images,
        batch=options.vae_batch,
        minutes=options.vae_minutes,
        workers=options.workers,
        device=options.device,
        compiled=not options.no_compile,
    )


def _diffusion(options: argparse.Namespace) -> None:
    vae = make_vae()
    vae.load_state_dict(load_file(options.out / "vae.safetensors"))
    text_encoder, unet = make_text_encoder(_load_tokenizer(options)), make_unet()
    if options.resume:
        text_encoder.load_state_dict(load_file(options.out / "text_encoder.safetensors"))
        unet.load_state_dict(load_file(options.out / "unet.safetensors"))

    def save(text_encoder: nn.Module, unet: nn.Module) -> None:
        _save(text_encoder, options.out / "text_encoder.safetensors")
        _save(unet, options.out / "unet.safetensors")

    train_diffusion(
        options.out / "tokenizer",
        vae.to(options.device, memory_format=torch.channels_last),
        text_encoder,
        unet,
        save,
        images=options.images,
        batch=options.batch,
        minutes=options.minutes,
        workers=options.workers,
        device=options.device,
    )


def _load_tokenizer(options: argparse.Namespace) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(options.out / "tokenizer", model_max_length=MAX_TOKENS)


def _pack(options: argparse.Namespace) -> None:
    tokenizer = _load_tokenizer(options)
    networks = Networks(make_text_encoder(tokenizer), make_unet(), make_vae())
    networks.text_encoder.load_state_dict(load_file(options.out / "text_encoder.safetensors"))
    networks.unet.load_state_dict(load_file(options.out / "unet.safetensors"))
    networks.vae.load_state_dict(load_file(options.out / "vae_refined.safetensors"))
    save_checkpoint(options.checkpoint or options.out / "postcards", networks, tokenizer)


def _save(model: nn.Module, file: Path) -> None:
    """Write weights as float16, replacing the old file only once the new one is whole."""
    fresh = file.with_suffix(".part")
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, fresh)
    fresh.replace(file)


RUN = {
    "unpack": _unpack,
    "tokenizer": _tokenizer,
    "vae": _vae,
    "decoder": _decoder,
    "diffusion": _diffusion,
    "pack": _pack,
}


if __name__ == "__main__":
    main()
