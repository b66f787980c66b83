"""Numbers of a training in words."""

from django import template

register = template.Library()


@register.filter
def duration(seconds: float) -> str:
    """40 seconds, 12 minutes, 3 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@register.filter
def percentage(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
