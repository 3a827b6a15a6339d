"""Kinds of values that people pass to functions, and whether they can come back as they were."""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from functools import cached_property
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path, PurePosixPath
from re import Pattern
from threading import Lock
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    TypeVar,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    Json,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    StringConstraints,
    Tag,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

T = TypeVar("T")

BERLIN = ZoneInfo("Europe/Berlin")
ODD = timezone(timedelta(hours=2, seconds=1))


@dataclass(frozen=True)
class Kind:
    """A value under an annotation.

    Attributes:
        name: What tests call it.
        annotation: What the function says.
        value: The value, made anew for each use.
        kept: Whether it comes back; otherwise it is refused.
    """

    name: str
    annotation: Any
    value: Callable[[], Any]
    kept: bool = True

    def __str__(self) -> str:
        return self.name


class Zone(tzinfo):
    """A zone that only this program knows."""

    def utcoffset(self, at: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def tzname(self, at: datetime | None) -> str:
        return "mine"

    def dst(self, at: datetime | None) -> timedelta:
        return timedelta(0)


class Moment(datetime):
    """A class of a user's own."""


# -- aliases and what is written out ---------------------------------------------------------------


class Alias(BaseModel):
    user_id: int = Field(alias="userId")


class Swapped(BaseModel):
    first: int = Field(alias="second")
    second: int = Field(alias="first")


class ForReading(BaseModel):
    user_id: int = Field(validation_alias="userId")
    deep: int = Field(validation_alias=AliasPath("a", 0), default=3)
    either: int = Field(validation_alias=AliasChoices("b", "c"), default=4)


class ForWriting(BaseModel):
    user_id: int = Field(serialization_alias="userId")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)
    user_id: int
    inner: Alias


@pydantic.dataclasses.dataclass
class AliasedDataclass:
    user_id: int = Field(alias="userId")


class Area(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    def square(self) -> int:
        return self.width**2


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class WithJson(BaseModel):
    numbers: Json[list[int]]


class Excluded(BaseModel):
    name: str
    token: str = Field(default="", exclude=True)


class Private(BaseModel):
    name: str
    _token: str = PrivateAttr(default="")


class Guarded(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    name: str
    _lock: Any = PrivateAttr(default_factory=Lock)


def private(token: str) -> Private:
    made = Private(name="a")
    made._token = token
    return made


class Rounded(BaseModel):
    number: float

    @field_serializer("number")
    def rounded(self, number: float) -> float:
        return round(number, 1)


class Packed(BaseModel):
    first: int
    second: int

    @model_serializer
    def packed(self) -> str:
        return f"{self.first}/{self.second}"

    @model_validator(mode="before")
    @classmethod
    def unpacked(cls, value: Any) -> Any:
        if isinstance(value, str):
            first, second = value.split("/")
            return {"first": first, "second": second}
        return value


class Doubling(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def doubled(cls, number: int) -> int:
        return 2 * number


class Stamped(BaseModel):
    number: int
    seen: int = 0

    @model_validator(mode="after")
    def count(self) -> Stamped:
        self.seen += 1
        return self


# -- classes of which there are others -------------------------------------------------------------


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: int


class Puppy(Animal):
    """Has nothing that Animal has not."""


class Owner(BaseModel):
    pets: list[Animal]


@dataclass
class Shape:
    name: str


@dataclass
class Circle(Shape):
    radius: float = 1.0


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Bird(BaseModel):
    kind: Literal["bird"] = "bird"
    lives: int


class AliasedCat(BaseModel):
    kind: Literal["cat"] = Field("cat", alias="type")


class AliasedBird(BaseModel):
    kind: Literal["bird"] = Field("bird", alias="type")


class Metres(BaseModel):
    value: float


class Feet(BaseModel):
    value: float


class Page(BaseModel, Generic[T]):
    items: list[T]


class Number(IntEnum):
    ONE = 1
    TWO = 2


class Word(StrEnum):
    ONE = "1"
    TWO = "2"


class Size(Enum):
    SMALL = (1, 2)
    LARGE = (3, 4)


class Tone(Enum):
    LOW = "1"
    HIGH = "h"


class Right(Flag):
    read = 1
    write = 2


class Point(NamedTuple):
    x: int
    y: float


class Movie(TypedDict, total=False):
    title: str
    year: int


# -- dataclasses -----------------------------------------------------------------------------------


@dataclass
class Scaled:
    number: int
    scale: InitVar[int]

    def __post_init__(self, scale: int) -> None:
        self.number *= scale


@dataclass
class ScaledOnce:
    number: int
    scale: InitVar[int] = 2

    def __post_init__(self, scale: int) -> None:
        self.total = self.number * scale


@dataclass(frozen=True, slots=True)
class Frozen:
    numbers: list[int] = field(default_factory=list[int])
    label: str = "x"


@dataclass
class Late:
    number: int
    later: int = field(init=False, default=0)


@dataclass
class Uncompared:
    number: int
    token: str = field(default="", compare=False)


def late(later: int) -> Late:
    made = Late(1)
    made.later = later
    return made


class Everything(BaseModel):
    """Says of each other that it is the same."""

    number: int
    token: str = Field(default="", exclude=True)

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Nothing(BaseModel):
    """Says of each other that it is another."""

    number: int

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 1


class Cached(BaseModel):
    number: int

    @cached_property
    def square(self) -> int:
        return self.number**2


def cached() -> Cached:
    made = Cached(number=3)
    assert made.square == 9
    return made


class Opaque:
    """A class that pydantic knows nothing about."""


class Money:
    """Knows how it is stored, but not how to compare itself."""

    def __init__(self, amount: int, note: str = "") -> None:
        self.amount = amount
        self.note = note

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(int(value)),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.amount
            ),
        )


Celsius = NewType("Celsius", float)
Doubled = Annotated[int, AfterValidator(lambda number: number * 2)]
Words = Annotated[
    list[str], BeforeValidator(lambda text: text.split() if isinstance(text, str) else text)
]
Shouted = Annotated[str, PlainSerializer(lambda text: text.upper())]
Stripped = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)]
Pets = Annotated[Cat | Bird, Field(discriminator="kind")]
AliasedPets = Annotated[AliasedCat | AliasedBird, Field(discriminator="kind")]
Called = Annotated[
    Annotated[Cat, Tag("cat")] | Annotated[Bird, Tag("bird")],
    Discriminator(lambda value: value["kind"] if isinstance(value, dict) else value.kind),
]


def same(value: Any) -> Callable[[], Any]:
    return lambda: value


def alike(before: Any, after: Any) -> bool:
    """Whether two values of the kinds are the same; knows nothing of how taquba tells."""
    if type(before) is not type(after):
        return False
    if isinstance(before, float) and math.isnan(before):
        return math.isnan(after)
    if isinstance(before, BaseModel):
        fields = type(before).model_fields
        return all(alike(getattr(before, name), getattr(after, name)) for name in fields)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(alike, before, after))
    if isinstance(before, dict):
        return alike(list(before), list(after)) and all(
            alike(before[key], after[key]) for key in before
        )
    if isinstance(before, set | frozenset):
        return sorted(map(repr, before)) == sorted(map(repr, after))
    if type(before).__repr__ is not object.__repr__:
        return repr(before) == repr(after)
    return bool(vars(before) == vars(after))


KEPT: list[tuple[str, Any, Callable[[], Any]]] = [
    ("none", None, same(None)),
    ("bool", bool, same(True)),
    ("int", int, same(3)),
    ("large int", int, same(-(2**200))),
    ("float", float, same(0.1)),
    ("not a number", float, same(float("nan"))),
    ("infinite", float, same(float("-inf"))),
    ("negative zero", float, same(-0.0)),
    ("negative zero anywhere", Any, same([-0.0, 1])),
    ("text", str, same("ä\0🙂")),
    ("bytes", bytes, same(bytes(range(256)))),
    ("bytes anywhere", object, same({"a": b"\xff"})),
    ("date", date, same(date(2030, 1, 2))),
    ("time", time, same(time(1, 2, 3, 4, tzinfo=BERLIN, fold=1))),
    ("naive datetime", datetime, same(datetime(2030, 1, 2, 3, 4, 5, 6))),  # noqa: DTZ001
    ("UTC", datetime, same(datetime(2030, 1, 2, tzinfo=UTC))),
    (
        "offset",
        datetime,
        same(datetime(2030, 1, 2, tzinfo=timezone(timedelta(hours=2, seconds=1)))),
    ),
    ("zone", datetime, same(datetime(2030, 7, 2, tzinfo=BERLIN))),
    ("fold", datetime, same(datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN))),
    ("zone anywhere", Any, same([datetime(2030, 7, 2, tzinfo=BERLIN)])),
    ("zone in a union", str | datetime, same(datetime(2030, 7, 2, tzinfo=BERLIN))),
    ("zone itself", ZoneInfo, same(BERLIN)),
    ("timedelta", timedelta, same(timedelta(days=-1, microseconds=1))),
    ("long timedelta", timedelta, same(timedelta.max)),
    ("decimal", Decimal, same(Decimal("1.100E+5"))),
    ("long decimal", Decimal, same(Decimal("0." + "1" * 60))),
    ("UUID", UUID, same(UUID(int=7))),
    ("path", Path, same(Path("/a/b"))),
    ("pure path", PurePosixPath, same(PurePosixPath("a"))),
    ("address", IPv4Address, same(IPv4Address("127.0.0.1"))),
    ("network", IPv6Network, same(IPv6Network("::/64"))),
    ("pattern", Pattern[str], same(re.compile("a+"))),
    ("fraction", Fraction, same(Fraction(1, 3))),
    ("complex", complex, same(1.5 - 2j)),
    ("byte size", ByteSize, lambda: ByteSize(1024)),
    ("URL", HttpUrl, lambda: HttpUrl("https://ä.example/?a=b")),
    ("stripped", Stripped, same("abc")),
    ("new type", Celsius, same(1.5)),
    ("list", list[int], same([1, 2])),
    ("bare containers", tuple[list, dict, set], same(([1, (2,)], {1: "a"}, {b"x"}))),
    ("tuple", tuple[int, str], same((1, "a"))),
    ("tuple anywhere", Any, same([(1, (2,)), {(3,): 4}])),
    ("set", set[str], same({"a", "b", "c"})),
    ("set anywhere", Any, same({1, "a", frozenset({2})})),
    ("frozenset in a union", set[int] | frozenset[int], same(frozenset({1, 2}))),
    ("deque", deque[int], same(deque([1, 2]))),
    ("default dict", defaultdict[str, list[int]], lambda: defaultdict(list, {"a": [1]})),
    ("ordered dict", OrderedDict[int, int], lambda: OrderedDict({2: 1, 1: 2})),
    ("counter", Counter[str], lambda: Counter("aab")),
    ("keys that are no text", dict[int, dict[date, int]], same({1: {date(2030, 1, 1): 2}})),
    ("mapping", Mapping[str, int], same({"a": 1})),
    ("sequence", Sequence[int], same((1, 2))),
    ("named tuple", Point, same(Point(1, 2.5))),
    ("typed dict", Movie, lambda: {"title": "x"}),
    ("int or text", int | str | bool | float, same(True)),
    ("text or int", int | str | bool | float, same("1")),
    ("float or int", int | float, same(1.0)),
    ("optional", int | None, same(None)),
    ("literal", Literal["a", "b"], same("a")),
    ("literal of both", Literal[1, True], same(True)),
    ("enum", Tone, same(Tone.LOW)),
    ("enum of tuples", Size, same(Size.LARGE)),
    ("int enum", Number, same(Number.TWO)),
    ("flags", Right, same(Right.read | Right.write)),
    ("alias", Alias, lambda: Alias(userId=1)),
    ("swapped aliases", Swapped, lambda: Swapped(second=1, first=2)),
    ("alias for reading", ForReading, lambda: ForReading(userId=1, a=[5], c=6)),
    ("alias for writing", ForWriting, lambda: ForWriting(user_id=1)),
    ("alias generator", list[Camel], lambda: [Camel(userId=1, inner=Alias(userId=2))]),
    ("dataclass with alias", AliasedDataclass, lambda: AliasedDataclass(userId=1)),
    ("computed field", Area, lambda: Area(width=2)),
    ("extra fields", Extra, lambda: Extra(number=1, more=(1, 2))),
    ("JSON", WithJson, lambda: WithJson(numbers="[1, 2]")),
    ("excluded and not set", Excluded, lambda: Excluded(name="a")),
    ("private and not set", Private, lambda: Private(name="a")),
    ("lock", Guarded, lambda: Guarded(name="a")),
    ("model serializer", Packed, lambda: Packed(first=1, second=2)),
    ("subclass as such", Dog, lambda: Dog(name="Rex", tricks=4)),
    ("members apart", Cat | Bird, lambda: Bird(lives=1)),
    ("discriminated", Pets, lambda: Bird(lives=1)),
    ("discriminated by alias", AliasedPets, lambda: AliasedBird()),
    ("discriminated by function", Called, lambda: Bird(lives=1)),
    ("generic", Page[Dog], lambda: Page[Dog](items=[Dog(name="Rex", tricks=1)])),
    ("root", RootModel[list[int]], lambda: RootModel[list[int]]([1])),
    ("dataclass", Shape, lambda: Shape("a")),
    ("frozen and slotted", Frozen, lambda: Frozen([1])),
    ("set late", Late, lambda: late(0)),
    ("uncompared", Uncompared, lambda: Uncompared(1, "a")),
    ("never equal", Nothing, lambda: Nothing(number=1)),
    ("cached property", Cached, cached),
    ("without comparison", Money, lambda: Money(3)),
    ("before validator", Words, same(["a", "b"])),
]

REFUSED: list[tuple[str, Any, Callable[[], Any]]] = [
    ("secret", SecretStr, lambda: SecretStr("hunter2")),
    ("secret bytes", list[SecretBytes], lambda: [SecretBytes(b"hunter2")]),
    ("secret anywhere", Any, lambda: {"a": SecretStr("hunter2")}),
    ("excluded", Excluded, lambda: Excluded(name="a", token="hunter2")),
    ("private", Private, lambda: private("hunter2")),
    ("what an equal may lack", Everything, lambda: Everything(number=1, token="hunter2")),
    ("subclass", Animal, lambda: Dog(name="Rex", tricks=4)),
    ("subclass with nothing more", Animal, lambda: Puppy(name="Rex")),
    ("subclass inside", Owner, lambda: Owner(pets=[Dog(name="Rex", tricks=4)])),
    ("subclass in containers", dict[str, list[Animal]], lambda: {"a": [Dog(name="R", tricks=4)]}),
    ("subclass written out", SerializeAsAny[Animal], lambda: Dog(name="Rex", tricks=4)),
    ("subclass of a dataclass", Shape, lambda: Circle("a", 2.0)),
    ("members alike", Metres | Feet, lambda: Feet(value=1)),
    ("literal member", Literal[Tone.LOW], same(Tone.LOW)),
    ("enums alike", Tone | Word, same(Word.ONE)),
    ("init variable", Scaled, lambda: Scaled(1, 2)),
    ("init variable with a default", ScaledOnce, lambda: ScaledOnce(1, 3)),
    ("set late to another", Late, lambda: late(5)),
    ("rounded", Rounded, lambda: Rounded(number=1.26)),
    ("doubled", Doubled, same(3)),
    ("doubled in a model", Doubling, lambda: Doubling(number=1)),
    ("shouted", Shouted, same("a")),
    ("without comparison, and lost", Money, lambda: Money(3, "lost")),
    ("pattern with flags", Pattern[str], same(re.compile("a", re.IGNORECASE))),
    ("bounded deque", deque[int], lambda: deque([1], maxlen=3)),
    ("model anywhere", Any, lambda: Shape("a")),
    ("enum anywhere", object, same(Number.ONE)),
    ("ordered dict anywhere", Any, lambda: OrderedDict({1: 2})),
    ("subclass of datetime", datetime, lambda: Moment(2030, 1, 2)),
    ("unknown zone", datetime, lambda: datetime(2030, 1, 2, tzinfo=Zone())),
    ("bytearray anywhere", Any, lambda: bytearray(b"a")),
    ("iterator anywhere", Any, lambda: iter([1])),
    ("lone surrogate anywhere", Any, same(["\ud800"])),
    ("not validated", Alias, lambda: Alias.model_construct(user_id="5")),
    ("function anywhere", Any, same(same)),
]

KINDS = [Kind(*kind) for kind in KEPT] + [Kind(*kind, kept=False) for kind in REFUSED]
