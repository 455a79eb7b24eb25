"""The diagrams of the docs, as SVG: in the page its colours are the page's own, in a file those of light and dark."""

from __future__ import annotations

from html import escape

STYLE = """
.diagram { --text: var(--color-foreground-primary, #1f2328); --note: var(--color-foreground-secondary, #59636e);
  --box: var(--color-background-secondary, #f6f8fa); --edge: var(--color-foreground-muted, #59636e);
  --net: var(--color-brand-primary, #0969da); }
@media (prefers-color-scheme: dark) { .diagram:root { --text: #f0f6fc; --note: #9198a1; --box: #151b23; --edge: #9198a1;
  --net: #4493f8; } }
.diagram rect { fill: var(--box); stroke: var(--edge); }
.diagram rect.net { fill: var(--net); fill-opacity: .14; stroke: var(--net); }
.diagram rect.data { stroke-dasharray: 4 3; fill: none; }
.diagram text { fill: var(--text); text-anchor: middle; font: 16.5px var(--font-stack, system-ui, sans-serif); }
.diagram text.small { fill: var(--note); font-size: 14.5px; }
.diagram path { fill: none; stroke: var(--note); stroke-width: 1.4; }
.diagram path.tip { fill: var(--note); stroke: none; }
"""
LINE = 20


def no_reference() -> str:
    """NR: image -> backbone -> average -> two layers -> scores."""
    top = 20
    parts = [
        _box(5, top, 120, 60, "image", "RGB", kind="data"),
        _box(150, top, 130, 60, "resize, crop,", "normalise"),
        _box(310, top, 130, 60, "backbone", "(C, h, w)", kind="net"),
        _box(470, top, 110, 60, "average", "over places: D"),
        _box(610, top, 150, 60, "Linear D, D/2", "ReLU, Linear D/2, n", kind="net"),
        _box(790, top, 100, 60, "n scores", "MOS", kind="data"),
        _across(125, 150, top + 30),
        *(_across(x, x + 30, top + 30) for x in (280, 440, 580, 760)),
    ]
    return _svg(900, 100, "The no-reference model: image, backbone, average, two layers, scores.", parts)


def full_reference() -> str:
    """FR: both images through one backbone, features side by side, two layers."""
    high, low = 20, 140
    parts = [_box(310, high, 130, low - high + 60, "one backbone", "shared weights", kind="net")]
    for top, name, note in ((high, "image", "generated"), (low, "image prompt", "the reference")):
        parts += [
            _box(5, top, 120, 60, name, note, kind="data"),
            _box(150, top, 130, 60, "resize, crop,", "normalise"),
            _box(470, top, 110, 60, "average", "over places: D"),
            _across(125, 150, top + 30),
            *(_across(x, x + 30, top + 30) for x in (280, 440)),
        ]
    middle = (high + low) / 2
    parts += [
        _box(610, middle, 150, 60, "Linear 2D, D", "ReLU, Linear D, n", kind="net"),
        _box(790, middle, 100, 60, "n scores", "MOS", kind="data"),
        _bent(580, high + 30, 685, middle, "generated first"),
        _bent(580, low + 30, 685, middle + 60),
        _across(760, 790, middle + 30),
    ]
    title = "The full-reference model: both images go through one backbone; two layers read both feature vectors."
    return _svg(900, 220, title, parts)


def lite() -> str:
    """The embedded metrics: blocks, statistics, features, heads."""
    high, low = 20, 150
    middle = (high + low) / 2
    parts = [
        _box(5, middle, 120, 60, "image", "short side 512", kind="data"),
        _box(150, middle, 115, 60, "4 x 4 blocks", "96 x 96 pixels"),
        _box(290, middle, 130, 60, "144 statistics", "a block, 3 scales"),
        _box(445, middle, 130, 60, "mean, spread,", "textured mean"),
        _box(620, high, 190, 60, "nr-lite: perceptrons,", "trees, Gaussian", kind="net"),
        _box(620, low, 190, 60, "fr-lite: how far moved", "or nr-lite, corrected", kind="net"),
        _box(840, middle, 100, 60, "score", "0 to 5", kind="data"),
        *(_across(x, x + 25, middle + 30) for x in (125, 265, 420)),
        _forked(575, middle + 30, 620, high + 30),
        _forked(575, middle + 30, 620, low + 30),
        _bent(810, high + 30, 890, middle),
        _bent(810, low + 30, 890, middle + 60),
    ]
    title = "The embedded metrics: blocks of the image, statistics of each, their mean and spread, and the heads."
    return _svg(950, 230, title, parts)


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{name}">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _box(x: float, y: float, width: float, height: float, name: str, note: str, kind: str = "") -> str:
    """A box with a name and, smaller, a note; `net`: has trained weights, `data`: goes in or comes out."""
    across, down = x + width / 2, y + height / 2
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
        f'<text x="{across:g}" y="{down - 4:g}">{escape(name)}</text>'
        f'<text class="small" x="{across:g}" y="{down - 4 + LINE:g}">{escape(note)}</text>'
    )


def _across(start: float, end: float, y: float) -> str:
    return f'<path d="M{start:g} {y:g}H{end - 7:g}"/>{_tip(end, y, "right")}'


def _bent(x: float, y: float, to_x: float, to_y: float, note: str = "") -> str:
    """To the right, then up or down into the top or the bottom of a box."""
    down = to_y > y
    text = f'<text class="small" x="{(x + to_x) / 2 + 10:g}" y="{y - 6:g}">{escape(note)}</text>' if note else ""
    end = to_y - 7 if down else to_y + 7
    return f'<path d="M{x:g} {y:g}H{to_x:g}V{end:g}"/>{_tip(to_x, to_y, "down" if down else "up")}{text}'


def _forked(x: float, y: float, to_x: float, to_y: float) -> str:
    """To the right, up or down, and to the right again into the side of a box."""
    return f'<path d="M{x:g} {y:g}H{(x + to_x) / 2:g}V{to_y:g}H{to_x - 7:g}"/>{_tip(to_x, to_y, "right")}'


def _tip(x: float, y: float, towards: str) -> str:
    corners = {"right": "l-8 -4.5v9z", "down": "l-4.5 -8h9z", "up": "l-4.5 8h9z"}[towards]
    return f'<path class="tip" d="M{x:g} {y:g}{corners}"/>'
