"""Numbers of a training and of what a network sees, for people."""

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


@register.filter
def probability(share: float | None) -> str:
    """As a percentage, but never as certain: > 99.9% for 100.0%, < 0.1% for 0.0%."""
    if share is None:
        return ""
    return "> 99.9%" if share >= 0.9995 else "< 0.1%" if share < 0.0005 else percentage(share)
