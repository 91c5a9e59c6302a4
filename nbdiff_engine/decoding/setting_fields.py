"""The fields of a settings model, read once for the command line, the adapters and the page's forms.

A field is declared in one place, the pydantic model: its type, its default, its description, its range by `Field`,
and a `SettingForm` with the texts of a form.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nbdiff_engine.errors import SettingError, brief, brief_text


@dataclass(frozen=True, slots=True)
class SettingForm:
    """What a form shows of a field in addition to its description and range.

    strategies: the strategies that read it; None: all. step: the step of a number's control; None: any value.
    must_be: the range in words, if the bounds alone do not describe it.
    """

    label: str
    group: str
    strategies: tuple[str, ...] | None = None
    step: float | None = None
    must_be: str | None = None


@dataclass(frozen=True, slots=True)
class SettingField:
    """One field of a settings model. least, most: its bounds; None: no bound.

    kind: "texts" and "integers" are lists. "pairs" is a table of numbers by integer keys, given as a dict or as texts
    like "13=-5". A text may hold several integers or pairs with spaces between them.
    """

    name: str
    kind: Literal["choice", "integer", "number", "flag", "texts", "integers", "pairs"]
    optional: bool  # None is allowed, and means the checkpoint's value
    default: Any
    description: str
    form: SettingForm
    choices: tuple[str, ...] = ()
    least: float | None = None
    above_least: bool = False  # `least` itself is out of range
    most: float | None = None
    below_most: bool = False  # `most` itself is out of range

    @property
    def range(self) -> str | None:
        """The range of a number, in words: "above 0 and at most 1"; None if an error names only one bound."""
        if self.form.must_be is not None or self.kind != "number":
            return self.form.must_be
        low = None if self.least is None else f"{'above' if self.above_least else 'at least'} {self.least:g}"
        high = "finite" if self.most is None else f"{'below' if self.below_most else 'at most'} {self.most:g}"
        return high if low is None else f"{low} and {high}"

    def to_json(self) -> dict[str, Any]:
        """The field as a dict for `json.dumps`; the entries of `form` are at the same level as the others."""
        fields = asdict(self)
        return {**fields, **fields.pop("form")}


def read_fields(model: type[BaseModel]) -> dict[str, SettingField]:
    """The fields of a settings model that have a SettingForm, by name, in the order of their declaration."""
    found = ((name, info, _last(info, SettingForm)) for name, info in model.model_fields.items())
    return {name: _read(name, info, form) for name, info, form in found if form is not None}


def _read(name: str, info: FieldInfo, form: SettingForm) -> SettingField:
    is_union = get_origin(info.annotation) in (Union, UnionType)
    members = get_args(info.annotation) if is_union else (info.annotation,)
    (kind,) = (each for each in members if each is not NoneType)
    kinds = {
        bool: "flag",
        int: "integer",
        float: "number",
        tuple[str, ...]: "texts",
        tuple[int, ...]: "integers",
        dict[int, float]: "pairs",
    }
    above, least, below, most = (_last(info, bound) for bound in (Gt, Ge, Lt, Le))
    return SettingField(
        name=name,
        kind="choice" if get_origin(kind) is Literal else kinds[kind],
        optional=NoneType in members,
        default=info.default,
        description=info.description,
        form=form,
        choices=get_args(kind) if get_origin(kind) is Literal else (),
        least=above.gt if above is not None else least.ge if least is not None else None,
        above_least=above is not None,
        most=below.lt if below is not None else most.le if most is not None else None,
        below_most=below is not None,
    )


def is_list(field: SettingField) -> bool:
    """Whether the field takes several values."""
    return field.kind in ("texts", "integers", "pairs")


def words_of(value: Any) -> Any:
    """A value of a field as it is typed: a list of integers, or a table, as one text; other values as they are."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={number:g}" for key, number in value.items())
    if isinstance(value, tuple) and all(isinstance(each, int) for each in value):
        return " ".join(map(str, value))
    return value


def integers_from(name: str, value: Any) -> Any:
    """The integers of a list, or of a text with spaces between them; pydantic checks them. Raises SettingError."""
    if value is None:
        return ()
    parts = [value] if isinstance(value, int) else value
    parts = _words(name, parts) if isinstance(value, str) or _all_texts(parts) else parts
    if isinstance(parts, Iterable) and any(isinstance(each, bool) for each in parts):
        raise SettingError.of(name, brief(value), "it must be a list of token ids")
    return parts


def pairs_from(name: str, value: Any) -> Any:
    """The table of a dict, or of texts like "13=-5"; pydantic checks its numbers. Raises SettingError."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        if any(isinstance(each, bool) for each in (*value, *value.values())):
            raise SettingError.of(name, brief(dict(value)), "it must give a number for each token id")
        return value
    found: dict[str, str] = {}
    for word in _words(name, value):
        key, sign, number = (each.strip() for each in word.partition("="))
        if not sign or not key or not number:
            raise SettingError.of(name, "", f"has {brief(word)}; give token id=number, as in 13=-5")
        if key in found:
            raise SettingError.of(name, "", f"has the token id {brief_text(key)} twice")
        found[key] = number
    return found


def _words(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not _all_texts(texts):
        raise SettingError.of(name, brief(value), "it is a list, or a text with spaces between its parts")
    return [word for text in texts for word in text.split()]


def _all_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple, set)) and all(isinstance(each, str) for each in value)


def _last(info: FieldInfo, kind: type) -> Any:
    """The last entry of this type in a field's metadata, or None."""
    return next((each for each in reversed(info.metadata) if isinstance(each, kind)), None)
