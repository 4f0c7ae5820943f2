"""Pages from templates: everything is escaped, nothing is loaded, and a page appears whole or not at all."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import write_whole

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_page(path: Path, template: str, values: dict[str, Any]) -> None:
    """Render one page and put it into place."""
    text = environment().get_template(template).render(values)
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


@cache
def environment() -> Environment:
    """Return the templates: everything is escaped unless it is marked as safe, nothing may be undefined."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"count": "{:,}".format, "percent": percent, "plain": plain}
    templates.filters |= {"moment": "{:%-d %B %Y, %H:%M} UTC".format}
    return templates


def percent(share: float) -> str:
    """Return a share in [0, 1] as per cent with one digit; only all and nothing are shown as 100 and 0."""
    sign = ">" if 0.9995 <= share < 1 else "<" if 0 < share < 0.0005 else ""
    shown = {">": 0.999, "<": 0.001}.get(sign, share)
    return f"{sign}{100 * shown:.1f}\u202f%"


def plain(value: float) -> str:
    """Return a number with three digits, or as many as are whole up to a million, and a real minus sign."""
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    mantissa, _, exponent = f"{value:#.3g}".rstrip(".").partition("e")
    power = f" × 10{str(int(exponent)).translate(RAISED)}" if exponent else ""
    return mantissa.replace("-", "−") + power
