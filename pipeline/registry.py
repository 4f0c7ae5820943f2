"""Methods declare themselves here; verbs, workflows, contract tests, benchmark rows and the README's table follow."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from torch import Tensor

from .errors import UsageError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What a tensor that a method returns is: its name, and the number of channels where it has the images' size.

    Of vectors, the numbers in one and their type, known once the method and the network are.
    """

    name: str
    channels: int = 0
    width: int = 0
    dtype: str = "float32"


# What a call returns: one map or one picture per item.
Heatmap = Annotated[Tensor, Kind("heatmap", 1)]
"""`(N, 1, H, W)`, signed until it is drawn."""
Gradient = Annotated[Tensor, Kind("gradient", 3)]
"""`(N, 3, H, W)`, signed."""
Image = Annotated[Tensor, Kind("image", 3)]
"""`(N, 3, h, w)` in [0, 1]; its size may differ from the input's."""
Vector = Annotated[Tensor, Kind("embedding")]
"""`(N, D)` float32 or float16."""
Peaks = Annotated[Tensor, Kind("peaks")]
"""`(N, C, 3)` float32: each channel's largest value, and the row and the column of the layer where it lies."""

# What `details` returns beside that.
Values = Annotated[Tensor, Kind("values")]
"""`(N,)` floating point."""
Curve = Annotated[Tensor, Kind("curve")]
"""`(N, T)` floating point: a value per step, NaN after the image's last."""
Diverged = Annotated[Tensor, Kind("diverged")]
"""`(N,)` bool: whether the image's loss ceased to be finite, so that its result is the last finite picture."""
Classes = Annotated[Tensor, Kind("class")]
"""`(N,)` int64: a class's index."""
Boxes = Annotated[Tensor, Kind("boxes")]
"""`(N, 4)` int64: y0, x0, y1, x1, half open, in network-input pixels."""
ClassGrid = Annotated[Tensor, Kind("class_grid")]
"""`(N, rows, columns)` int64: class indices by position."""
Images = Annotated[Tensor, Kind("images", 3)]
"""`(N, 3, H, W)` in [0, 1]."""

MAPS = ("heatmap", "gradient")
RESULTS = (*MAPS, "image", "embedding", "peaks")
DETAILS = ("values", "curve", "diverged", "class", "boxes", "class_grid", "images")

Progress = Callable[[int, int], None]
"""What a method that works for long tells while it does: steps done, steps in all."""

# What the parameters of a call are named by: the picture of each item, and pictures that all items share.
PICTURES = ("images", "content")
NAMED_PICTURES = ("style", "style_mask", "guide", "mask", "start", "patch")
Fit = Literal["preset", "squash", "pad", "inside", "none"]
Family = Literal["classifier", "style"]
"""What kind of network a method looks into or paints with."""


@dataclass(frozen=True)
class Detail:
    """A field of what a method's `details` returns beside its result: the field's name and its kind."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Option:
    """One option of a method: a field of its dataclass with the type it takes and its help."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that a `Literal`, alone or in a union, allows; empty for other types."""
        return tuple(value for kind in self.kinds if get_origin(kind) is Literal for value in get_args(kind))

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have: the members of a union, or the annotation alone."""
        return get_args(self.annotation) if _is_union(self.annotation) else (self.annotation,)


@dataclass(frozen=True)
class Defaults:
    """What a method's runs default to: a network's name, a second name for `--model`, and how pictures become input.

    `size` is the side to which `fit` "inside" brings a picture's longer one. `family` is the kind of network that the
    method takes, and `photos` says that its pictures are the inputs' own, of their size: they go out as files like
    those that came in.
    """

    network: str = "resnet50"
    network_flag: str | None = None
    fit: Fit = "preset"
    size: int | None = None
    family: Family = "classifier"
    photos: bool = False


@dataclass(frozen=True)
class Method:
    """A registered method: what it is called, what it takes and what it gives."""

    verb: str
    cls: type[Any]
    inputs: tuple[str, ...]
    result: Kind
    details: tuple[Detail, ...] = ()
    defaults: Defaults = Defaults()

    @property
    def makes_images(self) -> bool:
        """Whether the result is a picture, and no map of one."""
        return self.result.name == "image"

    @property
    def makes_maps(self) -> bool:
        """Whether the result is a map of the picture, one value or one color per pixel."""
        return self.result.name in MAPS

    @property
    def generates(self) -> bool:
        """Whether the call takes no picture per item: its items are classes or neurons."""
        return not set(PICTURES) & set(self.inputs)

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters of the call that have no default."""
        parameters = inspect.signature(self.cls.__call__).parameters
        return tuple(name for name in self.inputs if parameters[name].default is inspect.Parameter.empty)

    @property
    def named_pictures(self) -> tuple[str, ...]:
        """The parameters of the call that take pictures which all items share."""
        return tuple(name for name in NAMED_PICTURES if name in self.inputs)

    @property
    def options(self) -> tuple[Option, ...]:
        """The method's options in the order of their declaration."""
        return options_of(self.cls)

    @property
    def summary(self) -> str:
        """The first line of the class's docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def reference(self) -> str:
        """The paper, as the method's module names it: the docstring's last paragraph."""
        return " ".join((inspect.getdoc(sys.modules[self.cls.__module__]) or "").split("\n\n")[-1].split())


_registered: dict[str, Method] = {}


def option(default: Any, help: str) -> Any:
    """Declare an option of a method: its default and its one-line help."""
    return dataclasses.field(default=default, metadata={"help": help})


def options_of(cls: type[Any]) -> tuple[Option, ...]:
    """Return the options that a method's dataclass declares."""
    hints = get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return tuple(Option(field.name, hints[field.name], field.default, field.metadata["help"]) for field in fields)


@dataclass_transform(frozen_default=True, field_specifiers=(option,))
def register(
    cls: type[Any] | None = None,
    *,
    verb: str | None = None,
    network: str = "resnet50",
    network_flag: str | None = None,
    fit: Fit = "preset",
    size: int | None = None,
    family: Family = "classifier",
    photos: bool = False,
) -> Any:
    """Make a class a method: a frozen dataclass whose options are checked, under `verb` or its module's name.

    The call's parameters say what it needs: `images` or `content` (the items' pictures), `target` (classes, or None),
    `seeds` (`(N,)` int64 on the CPU), `progress` (a `Progress` or None), and pictures that all items share: `style`
    (a sequence of `(1, 3, h, w)`, with `weights`, a number for each), `style_mask` (a `(1, 1, h, w)` for each of them),
    `guide`, `patch`, `start` `(1, 3, h, w)`, `mask` `(1, 1, h, w)`. The remaining arguments are the `Defaults` of
    its runs.

    A `__post_init__` of the class runs after the check of the options. A method may have

    - `details`, which takes what the call takes and returns a NamedTuple: first the call's own result, then what else
      it knows of each image (`Values`, `Curve`, … as above; a field annotated `… | None` may be None);
    - `check`, which takes what the call takes, and refuses what does not fit without doing the work;
    - `reads`, which takes the model and the images, and returns the name of the one layer that it needs of them, by
      which several methods share one forward pass;
    - `select`, of one that returns `Peaks`, which tells which of them are among the largest;
    - a property `uses_network`: False where its options leave the network unused, so that none is loaded.

    Raises ValueError for a verb that is taken and TypeError for a class that does not say what its call or its details
    return or what an option is for.
    """

    def declare(cls: type[T]) -> type[T]:
        own: Callable[[Any], None] | None = getattr(cls, "__post_init__", None)

        def __post_init__(self: Any) -> None:
            check_options(self)
            if own is not None:
                own(self)

        cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
        method: type[Any] = dataclass(frozen=True)(cls)
        name = verb or cls.__module__.rpartition(".")[2].replace("_", "-")
        if name in _registered:
            raise ValueError(f"two methods named {name!r}: {_registered[name].cls.__qualname__} and {cls.__qualname__}")
        undocumented = [field.name for field in dataclasses.fields(method) if "help" not in field.metadata]
        if undocumented:
            raise TypeError(f"{cls.__qualname__}: expected option(default, help) for {', '.join(undocumented)}")
        inputs = tuple(inspect.signature(method.__call__).parameters)[2:]
        _same_parameters(method, "check")
        defaults = Defaults(network, network_flag, fit, size, family, photos)
        _registered[name] = Method(name, method, inputs, _result(method), _details(method), defaults)
        return method

    return declare if cls is None else declare(cls)


def _result(cls: type[Any]) -> Kind:
    """Return the kind that a method's call is annotated to return."""
    hint = get_type_hints(cls.__call__, include_extras=True).get("return")
    kind = _kind(hint)
    if kind is None or kind.name not in RESULTS:
        came = "nothing" if hint is None else getattr(hint, "__name__", hint)
        expected = "expected it annotated to return Heatmap, Gradient, Image, Vector or Peaks"
        raise TypeError(f"{cls.__qualname__}.__call__: {expected}, got {came}")
    return kind


def _same_parameters(cls: type[Any], name: str) -> None:
    """Raise TypeError where a method's function of that name does not take what its call takes."""
    if not hasattr(cls, name):
        return
    takes, expected = (tuple(inspect.signature(call).parameters) for call in (getattr(cls, name), cls.__call__))
    if takes != expected:
        where = f"{cls.__qualname__}.{name}"
        raise TypeError(f"{where}: expected the call's parameters {', '.join(expected)}, got {', '.join(takes)}")


def _details(cls: type[Any]) -> tuple[Detail, ...]:
    """Return what a method's `details` is annotated to return beside its result; nothing where it has none."""
    if not hasattr(cls, "details"):
        return ()
    _same_parameters(cls, "details")
    where = f"{cls.__qualname__}.details"
    returned = get_type_hints(cls.details, include_extras=True).get("return")
    fields = tuple(getattr(returned, "_fields", ()))
    hints = get_type_hints(returned, include_extras=True) if fields else {}
    if not fields or _kind(hints[fields[0]]) != _result(cls):
        raise TypeError(f"{where}: expected it annotated to return a NamedTuple that begins with the call's result")
    return tuple(_detail(where, name, hints[name]) for name in fields[1:])


def _detail(where: str, name: str, hint: Any) -> Detail:
    kind = _kind(hint)
    if kind is None or kind.name not in DETAILS:
        came = getattr(hint, "__name__", hint)
        kinds = "Values, Curve, Diverged, Classes, Boxes, ClassGrid or Images"
        raise TypeError(f"{where}: expected {name!r} to be {kinds}, got {came}")
    return Detail(name, kind)


def _kind(hint: Any) -> Kind | None:
    """Return the kind in an annotation, `… | None` included."""
    members = [member for member in get_args(hint) if member is not NoneType] if _is_union(hint) else [hint]
    kinds = [extra for member in members for extra in get_args(member) if isinstance(extra, Kind)]
    return kinds[0] if len(kinds) == 1 == len(members) else None


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def check_options(self: Any) -> None:
    """Check a frozen dataclass's options against their annotations; types with `parse` read text, with `of` values."""
    for option in options_of(type(self)):
        object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))


def _checked(option: Option, value: Any) -> Any:
    if option.choices:
        if value not in option.choices and not (value is None and NoneType in option.kinds):
            allowed = ", ".join(map(str, option.choices))
            near = nearest(str(value), map(str, option.choices), 1)
            raise UsageError(f"option {option.name!r} takes one of {allowed}, not {value!r}{near}")
        return value
    kinds = option.kinds
    reader = next((kind for kind in kinds if hasattr(kind, "parse")), None)
    if reader is not None and not isinstance(value, reader | None):
        read = reader.parse if isinstance(value, str) else getattr(reader, "of", None)
        if read is not None:
            return _read(option, read, value)
    if float in kinds and type(value) is int:
        return float(value)
    fits = any(isinstance(value, get_origin(kind) or kind) for kind in kinds)
    if not fits or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not NoneType)
        raise UsageError(f"option {option.name!r} takes a value of type {expected}, not {value!r}")
    return value


def _read(option: Option, read: Callable[[Any], Any], value: Any) -> Any:
    """Return what a type reads from a value; an error names the option."""
    try:
        return read(value)
    except UsageError as error:
        raise UsageError(f"option {option.name!r}: {error}") from error


def uses_network(method: Any) -> bool:
    """Return whether a method, with the options that it has, uses the network at all."""
    return bool(getattr(method, "uses_network", True))


def methods() -> dict[str, Method]:
    """Return every method by its verb: the package's own and those of the entry-point group `afterimage.methods`."""
    _load()
    return dict(sorted(_registered.items()))


def method(verb: str) -> Method:
    """Return the method with this verb; raise `UsageError` with the nearest verbs if there is none."""
    known = methods()
    name = re.sub("[ _]", "-", verb)
    if name not in known:
        raise UsageError(f"no method {verb!r}; expected one of {', '.join(known)}{nearest(name, known)}")
    return known[name]


@cache
def _load() -> None:
    package = importlib.import_module("afterimage.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"afterimage.methods.{module.name}")
    for point in entry_points(group="afterimage.methods"):
        _load_plugin(point)


_plugins: dict[str, Exception | None] = {}


def _load_plugin(point: EntryPoint) -> None:
    """Load a plugin once; where that fails, say so each time, and keep nothing of what it registered."""
    name = f"{point.name} ({point.value})"
    if name not in _plugins:
        before = dict(_registered)
        try:
            point.load()
            _plugins[name] = None
        except Exception as cause:  # a plugin's import may fail in any way
            _registered.clear()
            _registered.update(before)
            _plugins[name] = cause
    failure = _plugins[name]
    if failure:
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        raise UsageError(f"the plugin {name} does not load: {reason}; repair or uninstall it") from failure
