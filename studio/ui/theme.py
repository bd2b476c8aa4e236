"""The look: neutral greys, so that nothing tints how a picture's colours are seen, and one accent."""

from __future__ import annotations

import gradio as gr

_ACCENT = gr.themes.Color(
    name="iris",
    c50="#f3f2ff",
    c100="#e6e4ff",
    c200="#cfcbff",
    c300="#b0a9fb",
    c400="#8f85f2",
    c500="#6f62e3",
    c600="#5a4bcf",
    c700="#493cab",
    c800="#3a3086",
    c900="#2b2464",
    c950="#1a153f",
)
_GREY = gr.themes.Color(
    name="stone",
    c50="#fafaf9",
    c100="#f3f3f1",
    c200="#e6e5e2",
    c300="#d2d1cd",
    c400="#a3a19c",
    c500="#757370",
    c600="#57555a",
    c700="#3b3a3f",
    c800="#29282d",
    c900="#1c1b1f",
    c950="#141316",
)
# Fonts of the machine itself: a page that works with the network unplugged loads none.
_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """The studio's theme, light and dark."""
    return gr.themes.Base(
        primary_hue=_ACCENT,
        secondary_hue=_ACCENT,
        neutral_hue=_GREY,
        radius_size=gr.themes.sizes.radius_lg,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_padding="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_title_text_weight="600",
        block_title_text_size="13px",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_shadow_focus="0 0 0 3px color-mix(in srgb, var(--primary-500) 22%, transparent)",
        input_shadow_focus_dark="0 0 0 3px color-mix(in srgb, var(--primary-400) 28%, transparent)",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover="*neutral_300",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_border_width="0px",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        layout_gap="14px",
        form_gap_width="0px",
    )
