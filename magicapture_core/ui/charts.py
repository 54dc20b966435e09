"""Loss curves and attention, drawn as SVG: sharp at every size, in both themes, and with nothing to load."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from magicapture_core.languages import N_, _

TERM_TITLES = {
    "source": (N_("Your photos"), N_("How far redrawn photos of the person are from them")),
    "reference": (N_("The look"), N_("How far redrawn photos of the look are from them")),
    "composed": (N_("Both together"), N_("The same for the person in the look")),
    "prior": (N_("Other people"), N_("How far other people change; they should not")),
    "identity": (N_("Face difference"), N_("Between drawn and real face; 0 is the same")),
    "attention": (N_("Attention"), N_("How much goes where it does not belong")),
    "colour": (N_("Colour of the face"), N_("How far it is from the look's")),
    "lightness": (N_("Lightness of the skin"), N_("How far it is from what it should be")),
}
"""Title and explanation of each term of the objective."""
LEGEND = N_("Faint: every step. Bold: the trend.")
WITH_BORDER = N_("Faint: every step. Bold: the trend. Dashed: where the second part begins.")
WIDTH, HEIGHT, POINTS = 300, 90, 160


def right_end(latest: int, total: int) -> int:
    """Where the steps' axis ends: a little past what there is, so that a long training's beginning can be read."""
    return min(total, max(20, round(latest * 1.2)))


def smoothed(values: Sequence[float], share: float = 0.06) -> np.ndarray:
    """Running mean over the last `share` of the values (at least 5), corrected at the beginning."""
    window = max(5, int(len(values) * share))
    decay = 1 - 1 / window
    result, mean, weight = np.empty(len(values)), 0.0, 0.0
    for index, value in enumerate(values):
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        result[index] = mean / weight
    return result


def thinned(
    steps: Sequence[float], values: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` of them: means of neighbours."""
    if len(values) <= points:
        return np.asarray(steps, float), np.asarray(values, float)
    parts = np.array_split(np.arange(len(values)), points)
    x, y = np.asarray(steps, float), np.asarray(values, float)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def curve(
    title: str, hint: str, steps: Sequence[int], values: Sequence[float], *, last_step: int, border: int | None,
    percent: bool = False,
) -> str:  # fmt: skip
    """One quantity over the steps: what was measured, faint, and its running mean, bold.

    last_step: the right end; border: step where phase 2 begins, for a dashed line.
    """
    if not values:
        return ""
    even = smoothed(values)
    low, high = _limits(values, even)
    written = (lambda value: f"{value:.0%}") if percent else _written

    def path(numbers: Sequence[float] | np.ndarray) -> str:
        x, y = thinned(steps, list(numbers))
        return _path(x, y, last_step, low, high)

    dashed = ""
    if border and 1 < border < last_step:
        x = border / last_step * WIDTH
        dashed = f'<line class="mc-border" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'
    label = _(
        "{title}: now {now}, at the beginning {first}",
        title=title, now=written(float(even[-1])), first=written(float(even[0])),
    )  # fmt: skip
    return (
        f'<figure class="mc-chart"><figcaption><strong>{escape(title)}</strong>'
        f'<span class="mc-now">{written(float(even[-1]))}</span><small>{escape(hint)}</small></figcaption>'
        f'<div class="mc-plot"><span class="mc-top">{written(high)}</span><span class="mc-low">{written(low)}</span>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'{dashed}<path class="mc-raw" d="{path(values)}"/><path class="mc-even" d="{path(even)}"/></svg></div>'
        f'<div class="mc-axis"><span>{_("step {number}", number=1)}</span><span>{last_step}</span></div></figure>'
    )


def charts(title: str, figures: Sequence[str]) -> str:
    """Several curves beside each other."""
    drawn = "".join(figures)
    legend = _(WITH_BORDER) if 'class="mc-border"' in drawn else _(LEGEND)
    return (
        f'<h3 class="mc-sub">{escape(title)}</h3><p class="mc-quiet">{legend}</p><div class="mc-charts">{drawn}</div>'
        if drawn
        else ""
    )


def _limits(values: Sequence[float], even: np.ndarray) -> tuple[float, float]:
    """From 0 or just below the lowest; single spikes do not flatten the rest."""
    high = max(float(np.percentile(values, 98)), float(even.max())) * 1.05
    low = min(float(np.percentile(values, 2)), float(even.min()))
    low = 0.0 if low < 0.5 * high else low * 0.95
    return low, high if high > low else low + 1e-6


def _path(x: np.ndarray, y: np.ndarray, last_step: int, low: float, high: float) -> str:
    def scale(value: float) -> float:
        return HEIGHT * (1 - min(max((value - low) / (high - low), 0), 1))

    points = [f"{a / max(last_step, 1) * WIDTH:.1f},{scale(b):.1f}" for a, b in zip(x, y, strict=True)]
    dot = "h4" if len(points) == 1 else ""  # a line of no length is not drawn
    return "M" + "L".join(points) + dot


def _written(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
