import pytest

from ml.templatetags.ml_format import percentage, probability


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, ""), (0.0, "< 0.1%"), (0.0004, "< 0.1%"), (0.0006, "0.1%"), (0.75, "75.0%"),
        (0.9994, "99.9%"), (0.9995, "> 99.9%"), (1.0, "> 99.9%"),
    ],
)  # fmt: skip
def test_no_probability_reads_as_certain(share: float | None, text: str) -> None:
    assert probability(share) == text


def test_all_right_is_all_right() -> None:
    assert percentage(1.0) == "100.0%"
