"""How people want the results of a query: the query string of its page."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.http import QueryDict

from ingest.models import Dataset, Modality, OrganClass
from ingest.naming import current_organs
from search.options import AGE_BANDS, SEXES, Collapse, Scope, SearchOptions

VIEWS = ["AP", "PA", "LL", "RL", "CC", "MLO"]  # View Position (0018,5101), those that are offered
ANY = ("", "any")


class OrganField(forms.ModelChoiceField):
    """Also finds an organ by a name that it had: the addresses of results are kept and sent around."""

    def to_python(self, value: Any) -> Any:
        return super().to_python(current_organs([value.replace("\0", "")])[0] if value else value)


class SearchForm(forms.Form):
    """The query string of a result page. A value that is not known is ignored."""

    scope = forms.ChoiceField(choices=[(scope.value, scope.value) for scope in Scope], required=False)
    organ = OrganField(OrganClass.objects.all(), to_field_name="name", required=False)
    modality = forms.ModelChoiceField(Modality.objects.all(), required=False)
    dataset = forms.ModelChoiceField(Dataset.objects.present(), to_field_name="name", required=False)
    collapse = forms.ChoiceField(choices=[(kind.value, kind.value) for kind in Collapse], required=False)
    own = forms.BooleanField(required=False)
    series = forms.IntegerField(min_value=1, max_value=2**63 - 1, required=False)
    page = forms.IntegerField(min_value=1, max_value=1_000_000, required=False)
    explain = forms.BooleanField(required=False)

    words = forms.CharField(
        max_length=200,
        required=False,
        label="Words",
        widget=forms.TextInput({"type": "search", "placeholder": "in what the files say, e.g. knee stir"}),
    )
    view = forms.CharField(
        max_length=16,
        required=False,
        label="View position",
        widget=forms.TextInput({"list": "views", "placeholder": "e.g. PA", "autocapitalize": "characters"}),
    )
    sex = forms.ChoiceField(choices=[ANY, *SEXES.items()], required=False, label="Patient's sex")
    age = forms.ChoiceField(
        choices=[ANY, *[(band, f"{band.replace('-', ' to ')} years") for band in AGE_BANDS]],
        required=False,
        label="Patient's age",
    )
    imported_from = forms.DateField(
        required=False, label="Imported from", widget=forms.DateInput({"type": "date"}, format="%Y-%m-%d")
    )
    imported_to = forms.DateField(
        required=False, label="Imported to", widget=forms.DateInput({"type": "date"}, format="%Y-%m-%d")
    )

    MORE = ("words", "view", "sex", "age", "imported_from", "imported_to")

    def known(self) -> dict[str, Any]:
        """The values that are valid and not empty."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value}

    def options(self) -> SearchOptions:
        known = self.known()
        return SearchOptions(
            scope=Scope(known.get("scope", Scope.BLENDED)),
            organ=str(known.get("organ", "")),
            modality=known["modality"].pk if "modality" in known else "",
            dataset=str(known.get("dataset", "")),
            view=known.get("view", "").upper(),
            sex=known.get("sex", ""),
            age=known.get("age", ""),
            words=known.get("words", ""),
            imported_from=known.get("imported_from"),
            imported_to=known.get("imported_to"),
            series_of=known.get("series"),
            own=known.get("own", False),
            collapse=Collapse(known.get("collapse", Collapse.SERIES)),
        )

    def page_number(self) -> int:
        return int(self.known().get("page", 1))

    def more_fields(self) -> Iterator[forms.BoundField]:
        return (self[name] for name in self.MORE)

    def kept(self) -> list[tuple[str, str]]:
        """What the form of the other filters has to carry along."""
        names = ("scope", "organ", "modality", "dataset", "collapse", "own")
        return [(name, self.data[name]) for name in names if self.data.get(name)]

    def chosen(self) -> list[tuple[str, str]]:
        """Of each further filter in use, its words and the query string without it."""
        known = self.known()
        return [
            (self.words_for(name, known[name]), self.without(name)) for name in self.MORE if name in known
        ]

    def words_for(self, name: str, value: Any) -> str:
        field = self.fields[name]
        shown = value
        if isinstance(field, forms.ChoiceField):
            shown = next(text for choice, text in field.choices if choice == value)  # type: ignore[misc,union-attr]
        return f"{field.label}: {shown.upper() if name == 'view' else shown}"

    def without_series(self) -> str:
        return self.without("series", "collapse")

    def without(self, *names: str) -> str:
        """The query string with nothing of these, on its first page."""
        left = self.data.copy() if isinstance(self.data, QueryDict) else QueryDict(mutable=True)
        for name in (*names, "page"):
            left.pop(name, None)
        return f"?{left.urlencode()}"
