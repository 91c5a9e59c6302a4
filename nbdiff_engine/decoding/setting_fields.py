"""The fields of a settings model, read once for the command line, the adapters and the page's forms.

A field is declared in one place, the pydantic model: its type, its default, its description, its range by `Field`,
and a `SettingForm` with the texts of a form.
"""

from dataclasses import asdict, dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo


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
    """One field of a settings model. least, most: its bounds; None: no bound."""

    name: str
    kind: Literal["choice", "integer", "number", "flag", "texts"]
    optional: bool  # None is allowed, and means the checkpoint's value
    default: Any
    description: str
    form: SettingForm
    choices: tuple[str, ...] = ()
    least: float | None = None
    above_least: bool = False  # `least` itself is out of range
    most: float | None = None

    @property
    def range(self) -> str | None:
        """The range of a number, in words: "above 0 and at most 1"; None if an error names only one bound."""
        if self.form.must_be is not None or self.kind != "number":
            return self.form.must_be
        low = None if self.least is None else f"{'above' if self.above_least else 'at least'} {self.least:g}"
        high = "finite" if self.most is None else f"at most {self.most:g}"
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
    kinds = {bool: "flag", int: "integer", float: "number", tuple[str, ...]: "texts"}
    above, least, most = (_last(info, bound) for bound in (Gt, Ge, Le))
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
        most=None if most is None else most.le,
    )


def _last(info: FieldInfo, kind: type) -> Any:
    """The last entry of this type in a field's metadata, or None."""
    return next((each for each in reversed(info.metadata) if isinstance(each, kind)), None)
