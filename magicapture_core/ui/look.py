"""Theme and style sheet. System fonts only: the page asks nothing of any other server."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


CANCEL = {
    "button_cancel_background_fill": "#b3261e",
    "button_cancel_background_fill_dark": "#b3261e",
    "button_cancel_background_fill_hover": "#951d17",
    "button_cancel_background_fill_hover_dark": "#951d17",
    "button_cancel_border_color": "#b3261e",
    "button_cancel_border_color_dark": "#b3261e",
    "button_cancel_text_color": "white",
    "button_cancel_text_color_dark": "white",
}
"""What deletes is red."""


def theme() -> gr.themes.Base:
    """Calm greys, one green. Text has a contrast of 4.5:1, what shows a control 3:1 (WCAG 2.2 AA)."""
    return gr.themes.Default(
        primary_hue="emerald",
        secondary_hue="emerald",
        neutral_hue="stone",
        radius_size="lg",
        text_size="md",
        font=list(FONTS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#171614",
        background_fill_primary_dark="#201f1c",
        background_fill_secondary_dark="#1b1a18",
        block_background_fill_dark="#201f1c",
        block_border_width="1px",
        block_shadow="none",
        button_primary_background_fill="#0b6e4f",
        button_primary_background_fill_hover="#095c42",
        button_primary_background_fill_dark="#12805d",
        button_primary_background_fill_hover_dark="#0f7152",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="#f1efea",
        button_secondary_background_fill_dark="#2a2925",
        button_secondary_background_fill_hover_dark="#35332e",
        button_secondary_border_color="#d9d5cd",
        button_secondary_border_color_dark="#45423b",
        button_border_width="1px",
        button_large_padding="10px 22px",
        button_large_text_weight="600",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_weight="500",
        block_info_text_color="#66615a",
        block_info_text_color_dark="#b3ada4",
        block_title_text_color="#262420",
        block_title_text_color_dark="#f2f0ec",
        body_text_color_subdued="#66615a",
        body_text_color_subdued_dark="#b3ada4",
        **CANCEL,
        input_border_color="#8b857b",
        input_border_color_dark="#827c72",
        input_placeholder_color="#736d65",
        input_placeholder_color_dark="#a39d94",
        checkbox_border_color="#8b857b",
        checkbox_border_color_dark="#827c72",
        checkbox_background_color_selected="#0b6e4f",
        checkbox_background_color_selected_dark="#12805d",
        checkbox_border_color_selected="#0b6e4f",
        slider_color="#0b6e4f",
        slider_color_dark="#12805d",
    )


CSS = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")

SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
"""For the page's first part: its language, what is under way, the keyboard's place, names."""

TO_TOP = """() => {
  window.scrollTo({top: 0});
  const touched = magicapture.touched;
  setTimeout(() => {
    const active = document.activeElement;
    const typing = active !== magicapture.placed && active?.matches('input, textarea, select');
    if (typing || magicapture.touched !== touched) return; // somebody is at work there already
    const title = [...document.querySelectorAll('.mc-heading h2')].find(title => title.offsetParent);
    if (title) { title.tabIndex = -1; title.focus({preventScroll: true}); }
  }, 150);
}"""
"""After a step: its beginning, also for those who listen or use the keyboard; gradio shows it a moment later."""
