"""Amounts of a pixel's value, as eps and step lengths are: written as in the papers, `4/255`, or as a decimal."""

from dataclasses import dataclass
from fractions import Fraction

from ..errors import UsageError

_EXPECTED = "expected an amount of 0 or above, as 4/255 or 0.016"


@dataclass(frozen=True)
class Amount:
    """A number of at least 0 in units of the range [0, 1] of a pixel, as it was written."""

    text: str

    def __post_init__(self) -> None:
        """Check that it is written as a number or a fraction. Raises UsageError."""
        try:
            number = float(Fraction(self.text))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UsageError(f"{_EXPECTED}, got {self.text!r}") from None
        if number < 0:
            raise UsageError(f"{_EXPECTED}, got {self.text!r}")

    @classmethod
    def parse(cls, text: str) -> "Amount":
        """Read `4/255` or `0.016`. Raises UsageError."""
        return cls(text.strip())

    @classmethod
    def of(cls, value: "Amount | float") -> "Amount":
        """Return an amount as it is, or that of a number. Raises UsageError."""
        return value if isinstance(value, Amount) else cls(str(value))

    @property
    def value(self) -> float:
        """The number."""
        return float(Fraction(self.text))

    def __str__(self) -> str:
        return self.text
