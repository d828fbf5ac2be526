"""`dataclass` of the standard library for classes with slots, at a tenth of its import time.

The standard decorator compiles up to six methods of a class, which takes half a millisecond, and a download
of one file imports 130 such classes, most of which get no instance. Here only `__init__` is compiled, when
the first instance is made; the other methods are closures over the names of the fields. The result is a
dataclass in every other way: it has slots and may be frozen, is compared, hashed, shown, copied and pickled
by its fields, and `fields`, `replace` and `asdict` take it. Classes with other options, or with a dataclass
as a base, are made by the standard decorator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

_Method = Callable[..., Any]


class _Factory:
    """The default of a parameter whose value a factory makes."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _dataclass(cls: type | None = None, /, **options: bool) -> Any:
    """Make `cls` a dataclass, or return the decorator that does. Takes what `dataclasses.dataclass` takes."""
    if cls is None:
        return lambda decorated: _dataclass(decorated, **options)
    ours = options.get("slots") and options.keys() <= {"frozen", "slots", "repr", "eq"}
    if not ours or any(map(dataclasses.is_dataclass, cls.__bases__)):
        return dataclasses.dataclass(**options)(cls)
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__dataclass_params__.frozen = frozen = options.get("frozen", False)
    fields = dataclasses.fields(made)
    methods = [("__init__", _Init(made, fields, frozen=frozen)), *_shown(fields, options)]
    for name, method in methods + list(_of_frozen(fields) if frozen else ()):
        if name not in cls.__dict__:
            setattr(made, name, method)
    return made


_Fields = Sequence[dataclasses.Field[Any]]


def _shown(fields: _Fields, options: Mapping[str, bool]) -> Iterator[tuple[str, _Method | None]]:
    """Yield the names and functions that compare and show instances."""
    if options.get("eq", True):
        key = _values([each.name for each in fields if each.compare])
        yield "__eq__", _eq(key)
        yield "__hash__", (lambda self: hash(key(self))) if options.get("frozen") else None
    if options.get("repr", True):
        yield "__repr__", _repr([each.name for each in fields if each.repr])


def _of_frozen(fields: _Fields) -> Iterator[tuple[str, _Method]]:
    """Yield the names and functions that only a frozen class has."""
    yield "__getstate__", _getstate([each.name for each in fields])
    yield "__setstate__", _setstate([each.name for each in fields])
    yield "__setattr__", _setattr
    yield "__delattr__", _delattr


class _Init:
    """`__init__` of a class, compiled when it is first looked up, which the first instance does.

    Args:
        made: The class, which then gets the function in place of this object.
        fields: Its fields.
        frozen: Whether its instances refuse assignments.
    """

    __slots__ = ("_fields", "_frozen", "_made")

    def __init__(self, made: type, fields: _Fields, *, frozen: bool) -> None:
        self._made, self._fields, self._frozen = made, fields, frozen

    def __get__(self, instance: object, owner: type) -> Any:
        init: Any = _init(self._fields, post_init=hasattr(self._made, "__post_init__"), frozen=self._frozen)
        init.__qualname__ = f"{self._made.__qualname__}.__init__"
        self._made.__init__ = init  # type: ignore[misc]
        return init.__get__(instance, owner)


def _init(fields: _Fields, *, post_init: bool, frozen: bool) -> _Method:
    """Compile `__init__`, the one method whose parameters are the fields."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_FACTORY": _FACTORY}
    parameters, lines = ["self"], []
    for each in fields:
        name, parameter, value = each.name, each.name, each.name
        if each.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = each.default
            parameter = f"{name}=_default_{name}"
            value = name if each.init else f"_default_{name}"
        elif each.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = each.default_factory
            parameter, made = f"{name}=_FACTORY", f"_make_{name}()"
            value = f"{made} if {name} is _FACTORY else {name}" if each.init else made
        elif not each.init:
            continue
        parameters += [parameter] if each.init else []
        lines.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    lines.append("self.__post_init__()" if post_init else "pass")
    exec(f"def __init__({', '.join(parameters)}):\n  " + "\n  ".join(lines), known)
    init: _Method = known["__init__"]
    init.__annotations__ = {**{each.name: each.type for each in fields if each.init}, "return": None}
    return init


def _values(names: Sequence[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return the function that takes the tuple of the values of `names` from an instance."""
    if len(names) > 1:
        return attrgetter(*names)  # written in C
    return lambda self: tuple(getattr(self, name) for name in names)


def _eq(key: Callable[[object], tuple[Any, ...]]) -> Callable[[object, object], bool]:
    def equal(self: object, other: object) -> bool:
        return key(self) == key(other) if type(other) is type(self) else NotImplemented

    return equal


def _repr(names: Sequence[str]) -> Callable[[object], str]:
    def shown(self: object) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({values})"

    return shown


def _getstate(names: Sequence[str]) -> Callable[[object], list[Any]]:
    def state(self: object) -> list[Any]:
        return [getattr(self, name) for name in names]

    return state


def _setstate(names: Sequence[str]) -> Callable[[object, Sequence[Any]], None]:
    def restore(self: object, state: Sequence[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    return restore


def _setattr(_: object, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 (a re-export)
else:
    dataclass = _dataclass
