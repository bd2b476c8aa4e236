"""Each sampler's table walks as diffusers' scheduler of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from triton_models.diffusion.manifest import STATE_SLOTS, ModelInfo
from triton_models.diffusion.noise import Generator
from triton_models.diffusion.samplers import NAMES, Table, table

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE Karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
SHAPE = (1, 4, 8, 8)
# Stable Diffusion 1.x and 2.x as published: no spacing stated, so that each sampler has its own.
PUBLISHED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
}


def info(prediction_type: str = "epsilon", **config: Any) -> ModelInfo:
    stated = {"timestep_spacing": "", **PUBLISHED, **config}
    return ModelInfo(
        name="test",
        family="sd1",
        digest="",
        prediction_type=prediction_type,
        beta_start=stated["beta_start"],
        beta_end=stated["beta_end"],
        beta_schedule=stated["beta_schedule"],
        train_timesteps=stated["num_train_timesteps"],
        timestep_spacing=stated["timestep_spacing"],
        steps_offset=stated["steps_offset"],
        max_tokens=77,
        embedding_width=768,
        latent_channels=4,
        vae_scale_factor=8,
        default_width=512,
        default_height=512,
        preview_factors=[],
    )


def scheduler(name: str, prediction_type: str, **config: Any) -> Any:
    """As an artist changes a published checkpoint's scheduler: ``from_config`` of its PNDM."""
    stated = {**PUBLISHED, **config, "prediction_type": prediction_type}
    checkpoint = diffusers.PNDMScheduler.from_config(stated)
    kind, options = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(checkpoint.config, **options)


def model(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """A stand-in for a UNet: nonlinear, of unit scale, mixing neighbours, different at every timestep."""
    mixed = torch.roll(x, 1, -1) - 0.5 * torch.roll(x, 1, -2)
    return torch.tanh(x) + 0.3 * torch.sin(mixed + timestep / 150.0)


def diffusers_walk(
    scheduler: Any, steps: int, seed: int, image: torch.Tensor | None, strength: float, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Stable Diffusion's pipelines around the stand-in: the latents after every call."""
    generator = torch.Generator("cpu").manual_seed(seed)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if image is None:
        latents = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    else:
        start = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
        timesteps = timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        latents = scheduler.add_noise(image, torch.randn(SHAPE, generator=generator), timesteps[:1])
    latents = latents.to(dtype)
    seen = []
    accepts = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    for t in timesteps:
        output = model(scheduler.scale_model_input(latents, t), float(t))
        latents = scheduler.step(output, t, latents, **accepts).prev_sample
        seen.append(latents)
    return seen


def table_walk(
    walk: Table, seed: int, image: torch.Tensor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Latents and predicted x0 after each row, in float32 as the denoiser has it."""
    generator = Generator(seed)
    noise = generator.randn(SHAPE)
    start = torch.zeros(SHAPE) if image is None else image
    state = torch.zeros(STATE_SLOTS, *SHAPE)
    state[0] = walk.initial[0] * start + walk.initial[1] * torch.from_numpy(noise)
    for row in walk.rows:
        output = model(state[0] * row.input_scale, row.timestep)
        fresh = torch.from_numpy(generator.randn(SHAPE)) if row.draws_noise else torch.zeros(SHAPE)
        denoised = row.denoised_scale[0] * state[0] + row.denoised_scale[1] * output
        update = torch.from_numpy(row.update.astype(np.float32))
        state = torch.einsum("ij,jnchw->inchw", update, torch.cat([state, output[None], fresh[None]]))
        yield state[0], denoised


def assert_same_walk(
    name: str, steps: int, prediction_type: str, strength: float | None, **config: Any
) -> None:
    image = None if strength is None else torch.randn(SHAPE, generator=torch.Generator().manual_seed(99))
    walk = table(name, info(prediction_type, **config), steps, strength)
    # Heun in float32, as diffusers writes it, is itself 2e-4 off where x − x0 is over a sigma of 0.03.
    dtype = torch.float64 if name == "Heun" else torch.float32
    reference = scheduler(name, prediction_type, **config)
    theirs = diffusers_walk(reference, steps, 5, image, 1.0 if strength is None else strength, dtype)
    ours = [latents for latents, _ in table_walk(walk, 5, image)]
    assert len(ours) == len(theirs)
    for call, (mine, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.isfinite(expected).all()
        assert (mine - expected).abs().max() <= 1e-4, f"call {call} of {len(theirs)}"


def test_every_name_has_a_scheduler_to_be_held_against() -> None:
    assert set(NAMES) == set(SCHEDULERS)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", NAMES)
def test_text_to_image(name: str, prediction_type: str, steps: int) -> None:
    assert_same_walk(name, steps, prediction_type, None)


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", NAMES)
def test_image_to_image(name: str, prediction_type: str, strength: float) -> None:
    for steps in (2, 5, 20, 50):
        if int(steps * strength) > 0:
            assert_same_walk(name, steps, prediction_type, strength)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoints_own_spacing(name: str, spacing: str) -> None:
    assert_same_walk(name, 7, "v_prediction", None, timestep_spacing=spacing)
    assert_same_walk(name, 7, "v_prediction", 0.6, timestep_spacing=spacing)


@pytest.mark.parametrize("name", NAMES)
def test_linear_betas(name: str) -> None:
    assert_same_walk(name, 10, "v_prediction", None, beta_schedule="linear")


# The others' latents would begin at a standard deviation of 20 000, beyond float32's care for 1e-4.
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"Euler", "Euler a", "Heun", "LMS"}))
def test_cosine_betas(name: str) -> None:
    assert_same_walk(name, 10, "v_prediction", None, beta_schedule="squaredcos_cap_v2")


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_for_every_number_of_steps(name: str) -> None:
    reference = scheduler(name, "epsilon")
    for steps in range(1, 151):
        if name == "LCM" and steps > 50:  # diffusers refuses; the table goes on
            break
        reference.set_timesteps(steps)
        ours = [row.timestep for row in table(name, info(), steps).rows]
        assert np.allclose(ours, reference.timesteps.numpy(), atol=1e-3), steps


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", NAMES)
def test_predicted_x0(name: str, prediction_type: str) -> None:
    """A model that knows the picture predicts it at every call, on the samplers' own latents."""
    picture = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    config = info(prediction_type)
    walk = table(name, config, 12)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signals = np.cumprod(1 - betas) ** 0.5
    state = torch.zeros(STATE_SLOTS, *SHAPE, dtype=torch.float64)
    generator = Generator(1)
    state[0] = walk.initial[1] * torch.from_numpy(generator.randn(SHAPE))
    for row in walk.rows:
        sigma = np.interp(row.timestep, np.arange(1000), np.sqrt(1 - signals**2) / signals)
        if "Karras" in name:  # its timesteps are rounded, its noise levels are not
            sigma = _sigma_of(row.input_scale, row.denoised_scale, prediction_type)
        signal = 1 / np.sqrt(1 + sigma**2)
        seen = state[0] * row.input_scale
        noise = (seen - signal * picture) / (sigma * signal)
        output = noise if prediction_type == "epsilon" else signal * noise - sigma * signal * picture
        denoised = row.denoised_scale[0] * state[0] + row.denoised_scale[1] * output
        assert (denoised - picture).abs().max() < 1e-4
        fresh = torch.from_numpy(generator.randn(SHAPE)) if row.draws_noise else torch.zeros(SHAPE)
        update = torch.from_numpy(row.update)
        state = torch.einsum("ij,jnchw->inchw", update, torch.cat([state, output[None], fresh[None]]))
    # DDIM and PNDM end at the first training timestep's noise, not at none: diffusers' set_alpha_to_one.
    assert (state[0] - picture).abs().max() < (0.2 if name in ("DDIM", "PNDM") else 1e-3)


def _sigma_of(scale: float, denoised: tuple[float, float], prediction_type: str) -> float:
    """Noise over signal from the coefficients of a row with unit-variance latents."""
    assert scale == 1.0
    if prediction_type == "epsilon":
        return float(np.sqrt(denoised[0] ** 2 - 1))
    return float(-denoised[1] / denoised[0])


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_counted_as_asked(name: str) -> None:
    for steps in (1, 2, 20):
        counted = [row.step for row in table(name, info(), steps).rows]
        assert counted == sorted(counted)
        assert set(counted) == set(range(steps))
        assert table(name, info(), steps).steps == steps
    assert table(name, info(), 20, 0.55).steps == 11


@pytest.mark.parametrize("name", NAMES)
def test_too_little_strength_keeps_the_image(name: str) -> None:
    for strength in (0.0, 0.04):
        assert table(name, info(), 20, strength) == Table((), (1.0, 0.0))


@pytest.mark.parametrize("name", NAMES)
def test_trailing_never_goes_past_the_first_timestep(name: str) -> None:
    for steps in (61, 103, 121, 122):
        walk = table(name, info(timestep_spacing="trailing"), steps)
        assert walk.steps == steps
        assert min(row.timestep for row in walk.rows) >= 0


def test_lcm_takes_more_steps_than_it_was_distilled_on() -> None:
    timesteps = [row.timestep for row in table("LCM", info(), 150).rows]
    assert len(set(timesteps)) == 150
    assert timesteps == sorted(timesteps, reverse=True)
    assert min(timesteps) >= 0


def test_an_unknown_beta_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="beta schedule 'sigmoid'"):
        table("Euler", info(beta_schedule="sigmoid"), 5)
