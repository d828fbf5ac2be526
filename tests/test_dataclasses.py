"""Tests that the `dataclass` of the package makes the same classes as that of the standard library."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

import pytest

import osp_fetch
from osp_fetch.model.dataclasses import dataclass as ours

Decorator = Callable[..., Any]
standard: Decorator = dataclasses.dataclass


def made(decorator: Decorator, name: str = "Made", **options: bool) -> Any:
    @decorator(frozen=True, slots=True, **options)
    class Made:
        """A class."""

        path: str
        size: int | None = None
        names: list[str] = field(default_factory=list)
        note: str = field(default="-", compare=False, repr=False)

        def __post_init__(self) -> None:
            if not self.path:
                raise ValueError("no path")

        @property
        def long(self) -> bool:
            return len(self.path) > 3

    Made.__qualname__ = Made.__name__ = name
    globals()[name] = Made  # so that it can be pickled
    return Made


BOTH = pytest.mark.parametrize("decorator", [standard, ours])


@BOTH
def test_a_class_takes_its_fields_and_their_defaults(decorator: Decorator) -> None:
    kind = made(decorator)
    one, two = kind("a", 1, note="x"), kind(path="a")
    assert (one.path, one.size, one.names, one.note, one.long) == ("a", 1, [], "x", False)
    assert (two.size, two.note) == (None, "-")
    assert one.names is not two.names
    assert kind.__match_args__ == ("path", "size", "names", "note")
    assert list(inspect.signature(kind).parameters) == ["path", "size", "names", "note"]
    assert inspect.signature(kind).parameters["size"].default is None
    assert str(inspect.signature(kind).parameters["names"]).endswith("= <factory>")
    assert kind.__init__.__annotations__["size"] == "int | None"
    wrong: list[tuple[Any, ...]] = [(), ("a", 1, [], "", 5)]
    for words in wrong:
        with pytest.raises(TypeError, match="argument"):
            kind(*words)
    with pytest.raises(TypeError, match="other"):
        kind("a", other=1)
    with pytest.raises(ValueError, match="no path"):
        kind("")


@BOTH
def test_a_class_is_frozen_and_has_slots(decorator: Decorator) -> None:
    one = made(decorator)("a")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'size'"):
        one.size = 3
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'size'"):
        del one.size
    assert not hasattr(one, "__dict__")


@BOTH
def test_a_class_is_compared_and_hashed_by_its_fields(decorator: Decorator) -> None:
    kind, other = made(decorator), made(decorator, "Other")
    names: Any = ("n",)
    assert kind("a", 1, names) == kind("a", 1, names, note="differs")
    assert kind("a", 1, names) != kind("a", 2, names)
    assert kind("a", 1, names) != other("a", 1, names)
    assert (kind("a") == 5) is False
    assert len({kind("a", 1, names), kind("a", 1, names, note="x"), kind("b", 1, names)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(kind("a"))


@BOTH
def test_a_class_is_shown_copied_and_pickled_by_its_fields(decorator: Decorator) -> None:
    one = made(decorator)("a", 1, ["n"], note="x")
    assert repr(one) == "Made(path='a', size=1, names=['n'])"
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert (again, again.note, type(again)) == (one, "x", type(one))
    assert repr(made(decorator, repr=False)("a")).startswith("<")


@BOTH
def test_the_functions_of_the_standard_library_take_such_a_class(decorator: Decorator) -> None:
    one = made(decorator)("a", 1, ["n"])
    assert dataclasses.is_dataclass(type(one))
    assert [each.name for each in dataclasses.fields(one)] == ["path", "size", "names", "note"]
    assert dataclasses.asdict(one) == {"path": "a", "size": 1, "names": ["n"], "note": "-"}
    assert dataclasses.replace(one, size=2) == type(one)("a", 2, ["n"])


@BOTH
def test_methods_of_the_class_itself_stay(decorator: Decorator) -> None:
    @decorator(frozen=True, slots=True)
    class Named:
        """A class."""

        name: str

        def __repr__(self) -> str:
            return "mine"

    named: Any = Named
    assert repr(named("a")) == "mine"
    assert (named("a"), hash(named("a"))) == (named("a"), hash(("a",)))


@BOTH
def test_a_class_without_fields_and_a_class_that_inherits(decorator: Decorator) -> None:
    @decorator(frozen=True, slots=True)
    class Empty:
        """A class."""

    @decorator(frozen=True, slots=True)
    class Further(Empty):
        """A class that inherits."""

        size: int

    further: Any = Further
    assert (Empty(), hash(Empty()), repr(Empty()).endswith("Empty()")) == (Empty(), hash(()), True)
    assert (further(1), further(1) == further(2)) == (further(1), False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        further(1).size = 2
    with pytest.raises(TypeError, match="frozen"):

        @standard
        class Thawed(Empty):
            """A class that is not frozen."""


@BOTH
def test_other_options_are_those_of_the_standard_library(decorator: Decorator) -> None:
    @decorator(frozen=True, slots=True, order=True)
    class Ordered:
        """A class."""

        size: int

    @decorator
    class Plain:
        """A class that can change."""

        size: int

    ordered: Any = Ordered
    plain: Any = Plain
    assert ordered(1) < ordered(2)
    changed = plain(1)
    changed.size = 2
    assert changed == plain(2)


@BOTH
def test_a_class_that_can_change_has_slots_and_no_hash(decorator: Decorator) -> None:
    @decorator(slots=True)
    class Counter:
        """A class that can change."""

        name: str
        seen: dict[str, int] = field(default_factory=dict)
        rest: list[int] = field(init=False, default_factory=list)
        total: int = field(init=False, default=3)
        late: int = field(init=False)

        def __post_init__(self) -> None:
            self.late = len(self.name)

    kind: Any = Counter
    one, two = kind("a"), kind("a", {"x": 1})
    assert list(inspect.signature(kind).parameters) == ["name", "seen"]
    assert (one.seen, one.rest, one.total, one.late) == ({}, [], 3, 1)
    assert one.rest is not two.rest
    assert one != two
    one.seen["x"] = 1
    assert one == two
    one.total = 4
    assert one != two
    assert repr(two).endswith("Counter(name='a', seen={'x': 1}, rest=[], total=3, late=1)")
    assert copy.deepcopy(two) == two
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    with pytest.raises(AttributeError):
        one.other = 1
    with pytest.raises(TypeError, match="rest"):
        kind("a", rest=[])


@BOTH
def test_a_class_may_be_compared_by_identity(decorator: Decorator) -> None:
    @decorator(slots=True, eq=False)
    class Place:
        """A class of which two instances are never equal."""

        name: str

    place: Any = Place
    one = place("a")
    assert one != place("a")
    assert {one: 1}[one] == 1


@BOTH
def test_the_first_instance_may_be_that_of_a_class_that_inherits(decorator: Decorator) -> None:
    @decorator(slots=True)
    class Base:
        """A class."""

        name: str

    base: Any = Base
    named: Any = type("Named", (base,), {"__init__": lambda self, name: base.__init__(self, name * 2)})
    assert (named("a").name, base("a").name) == ("aa", "a")


def test_each_class_with_slots_of_the_package_is_made_so() -> None:
    wrong = []
    for place in Path(osp_fetch.__file__).parent.rglob("*.py"):
        text = place.read_text()
        if re.search(r"@dataclass\(.*slots=True", text):
            named = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
            standards = [each for each in named if each.module == "dataclasses" and each.level == 0]
            if any(name.name == "dataclass" for each in standards for name in each.names):
                wrong.append(place.name)
    assert wrong == []
