"""Stage configurations: frozen models, each field marked by whether and how it is part of an artifact's key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


def operational(default: Any, **options: Any) -> Any:
    """A field that cannot change the output: it is no part of any key."""
    return Field(default, json_schema_extra={"operational": True}, **options)


def added(default: Any, before: Any = None, **options: Any) -> Any:
    """A field that came when artifacts had been made: at its default it is no part of a key, so that those are found again.

    Args:
        default: what it is unless given.
        before: what it was in effect before it came, where that is another value: then this one is no part of a key.
    """
    return Field(default, json_schema_extra={"added": True} | ({} if before is None else {"before": before}), **options)


def unset(was: Any, default: Any = None, operational: bool = False, added: bool = False, **options: Any) -> Any:
    """A field that may be None: unset.

    Args:
        was: what stood for None before: it is read as None, and is None's value in a key.
        operational: it cannot change the output.
        added: at its default it is no part of a key.
    """
    return Field(default, json_schema_extra={"was": was, "operational": operational, "added": added}, **options)


class StageConfig(BaseModel):
    """The choices of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _unset_as_it_was(cls, values: Any) -> Any:
        """What runs wrote down before a field's None was None."""
        if not isinstance(values, dict):
            return values
        return {
            name: None if name in cls.model_fields and _is_unset(cls, name, value) else value for name, value in values.items()
        }

    @property
    def is_off(self) -> bool:
        """True of a section that does nothing, whatever its further fields say: where it is `added`, it is no part of a key."""
        return False

    def key_fields(self) -> dict[str, Any]:
        """The fields that name an artifact, as JSON values: all but the operational ones, and later ones at their default."""
        fields: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            value, marks = getattr(self, name), _marks(type(self), name)
            is_off = isinstance(value, StageConfig) and value.is_off
            if marks.get("operational") or (marks.get("added") and (is_off or value == marks.get("before", info.default))):
                continue
            if isinstance(value, StageConfig):
                fields[name] = value.key_fields()
            elif value is None and "was" in marks:
                fields[name] = marks["was"]
            else:
                fields[name] = self.model_dump(mode="json", include={name})[name]
        return fields


def _marks(model: type[BaseModel], name: str) -> dict[str, Any]:
    extra = model.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _is_unset(model: type[BaseModel], name: str, value: Any) -> bool:
    marks = _marks(model, name)
    return "was" in marks and not isinstance(value, bool) and value == marks["was"]
