"""How a query is to be searched: what the pages, the REST API and the command line all ask with."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Scope(StrEnum):
    """The paper's two ways to search, and one between them."""

    BLENDED = "blended"  # the whole collection; likely organs count as nearer
    PREDICTED = "predicted"  # within the organ that the network predicts, or the two likely ones
    ALL = "all"  # the whole collection, by distance alone


class Collapse(StrEnum):
    """What stands for its like in the results: the nearest of them."""

    SERIES = "series"
    PATIENT = "patient"
    NONE = "none"


AGE_BANDS = {"0-17": (0, 17), "18-39": (18, 39), "40-59": (40, 59), "60-79": (60, 79), "80+": (80, 200)}
SEXES = {"F": "female", "M": "male", "O": "other"}


@dataclass(frozen=True)
class SearchOptions:
    """What to search. A chosen organ takes the place of the predicted one. Empty: any."""

    scope: Scope = Scope.BLENDED
    organ: str = ""
    modality: str = ""
    dataset: str = ""
    view: str = ""  # ViewPosition
    sex: str = ""  # PatientSex
    age: str = ""  # one of AGE_BANDS
    words: str = ""  # in what the files say of themselves
    imported_from: date | None = None
    imported_to: date | None = None
    series_of: int | None = None  # only images of this image's series
    own: bool = False  # also the query's own patient and exact duplicates
    collapse: Collapse = Collapse.SERIES
