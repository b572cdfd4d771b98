"""Pages for people: one HTML file each, with everything in it, that needs no network."""

from __future__ import annotations

import base64
import functools
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

TEMPLATES = "templates"


def render(template: str, **values: Any) -> bytes:
    """Return the page of a template in ``ganaug/templates``; strings are escaped."""
    return str(_environment().get_template(template).render(**values)).encode()


@functools.cache
def _environment() -> Any:
    import jinja2

    loader = jinja2.PackageLoader("ganaug", TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def inline_png(picture: Image | bytes) -> str:
    """Return a picture as a data URI."""
    if not isinstance(picture, bytes):
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        picture = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def inline_svg(figure: Figure, text: str) -> Any:
    """Return a matplotlib figure as an SVG element that screen readers read as `text`, safe to put into a page.

    The identifiers in it begin with a hash of the text, so that several can stand in one page.
    """
    import hashlib

    import markupsafe

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    prefix = "g" + hashlib.sha256(text.encode()).hexdigest()[:8]
    drawn = re.sub(r'(\bid="|url\(#|xlink:href="#)', lambda found: found[0] + prefix, drawn)
    label = f'<svg role="img" aria-label="{markupsafe.escape(text)}"'
    return markupsafe.Markup(drawn.replace("<svg", label, 1))
