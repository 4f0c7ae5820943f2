"""What every registered method promises, whatever it computes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from afterimage import UsageError, draw
from afterimage import registry as registered
from afterimage.models.windows import Extent
from afterimage.registry import Method, methods, uses_network
from tests.networks import mixed, pictures, styled

METHODS = list(methods().values())
each_method = pytest.mark.parametrize("found", METHODS, ids=lambda found: found.verb)
BAD_TARGET = torch.tensor([9, 9])
DIMENSIONS = {"values": 1, "curve": 2, "diverged": 1, "class": 1, "boxes": 2, "class_grid": 3, "images": 4}


def network(found: Method) -> nn.Module:
    """Return a small network of the kind that a method takes."""
    return styled() if found.defaults.family == "style" else mixed()


def sizes(found: Method) -> list[tuple[int, int]]:
    """Return heights and widths of images, the smallest that a method takes among them."""
    if found.defaults.family == "style":
        return [(16, 16), (17, 23)]
    return [(16, 16), (9, 23), *([] if found.makes_images else [(1, 1)])]


def fitted(found: Method, side: int = 16, **given: Any) -> Any:
    """Return the method as it comes, but for extents in pixels, which shrink with the images, and few steps.

    What makes pictures without images makes them as large as those.
    """
    extents = [option for option in found.options if Extent in option.kinds]
    small = {one.name: max(1, _side(one.default) * side // 64) for one in extents if one.default is not None}
    made = {option.name: max(1, side) for option in extents if option.default is None and found.generates}
    few = {option.name: 3 for option in found.options if option.name == "steps"}
    return found.cls(**{**(small if side < 64 else {}), **made, **few, **given})


def _side(extent: Any) -> int:
    return int(extent) if isinstance(extent, int) else Extent.of(extent).height


def arguments(found: Method, images: Tensor, **given: Any) -> dict[str, Any]:
    """Return a call's arguments for the parameters that a method has, a generator's as many as there are images."""
    count, size = len(images), images.shape[2:]
    known: dict[str, Any] = {
        "images": images,
        "content": images,
        "target": torch.arange(count) % 5,
        "seeds": torch.arange(count) + 11,
        "style": [pictures(1, 20, seed=8).to(images.dtype), pictures(1, 12, seed=9).to(images.dtype)],
        "mask": torch.ones(1, 1, *size, dtype=images.dtype),
    }
    wanted = {name: known[name] for name in found.inputs if name in known and _is_wanted(found, name)}
    return wanted | {name: value for name, value in given.items() if name in found.inputs}


def _is_wanted(found: Method, name: str) -> bool:
    return name in found.required or name not in found.named_pictures


def call(found: Method, model: nn.Module, images: Tensor, **given: Any) -> Tensor:
    result: Tensor = fitted(found, min(images.shape[2:]))(model, **arguments(found, images, **given))
    return result


def single(found: Method, model: nn.Module, images: Tensor, place: int) -> Tensor:
    """Return what a method makes of one of the images, with what belongs to it."""
    own = {"target": torch.tensor([place % 5]), "seeds": torch.tensor([place + 11])}
    return call(found, model, images[place : place + 1], **own)


def result_shape(found: Method, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of what comes of one image where it is no picture; `mixed` has six channels in each layer."""
    shapes = {"embedding": (6,), "peaks": (6, 3)}
    return shapes.get(found.result.name, (found.result.channels, *size))


@each_method
def test_shape_range_and_finiteness(found):
    for size in sizes(found):
        result = call(found, network(found), torch.rand(2, 3, *size))
        assert len(result) == 2
        assert result.isfinite().all()
        if found.makes_images:
            assert result.shape[1] == found.result.channels
            assert result.shape[2] * result.shape[3] > 0
            assert 0 <= result.min() <= result.max() <= 1
        else:
            assert result.shape[1:] == result_shape(found, size)


@each_method
def test_an_empty_batch_gives_an_empty_result(found):
    result = call(found, network(found), torch.rand(0, 3, 16, 16))
    assert len(result) == 0
    assert found.makes_images or result.shape[1:] == result_shape(found, (16, 16))


@each_method
def test_a_batch_equals_its_singles(found):
    model, images = network(found).double(), pictures(4, 16).double()
    together = call(found, model, images)
    for place in range(4):
        # float64: sums in another order, far below what a flipped ReLU would change
        alone = single(found, model, images, place)
        torch.testing.assert_close(together[place : place + 1], alone, rtol=1e-9, atol=1e-15, check_dtype=False)


@each_method
def test_twice_is_bit_equal(found):
    model, images = network(found), pictures(3, 16)
    assert torch.equal(call(found, model, images), call(found, model, images))


@each_method
def test_chance_comes_from_the_seeds_alone(found):
    if "seeds" not in found.inputs:
        pytest.skip("it takes no seeds")
    model, images = network(found), pictures(3, 16)
    first = call(found, model, images)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert torch.equal(call(found, model, images), first)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
    other = call(found, model, images, seeds=torch.arange(3) + 50)
    if found.generates:
        assert not torch.equal(other, first)


@each_method
def test_images_and_graph_are_left_alone(found):
    images = pictures(2, 16).requires_grad_()
    given = arguments(found, images)
    tensors = [one for value in given.values() for one in (value if isinstance(value, list) else [value])]
    before = [one.detach().clone() for one in tensors]
    result = fitted(found)(network(found), **given)
    assert all(torch.equal(one, was) for one, was in zip(tensors, before, strict=True))
    assert images.grad is None
    assert not result.requires_grad


@each_method
def test_works_where_gradients_are_off(found):
    model, images = network(found), pictures(2, 16)
    with torch.no_grad():
        off = call(found, model, images)
    assert torch.equal(off, call(found, model, images))


def snapshot(model: nn.Module) -> list[object]:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    weights = [(p.requires_grad, p.grad is None, p.sum().item()) for p in model.parameters()]
    return [hooks, weights, [module.training for module in model.modules()]]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def unlike_default(model: nn.Module) -> nn.Module:
    model.train()
    convolutions(model)[2].eval()
    convolutions(model)[3].weight.requires_grad_(False)
    return model


@each_method
def test_the_model_comes_back_as_it_was(found):
    model = unlike_default(network(found))
    before = snapshot(model)
    call(found, model, pictures(2, 16))
    assert snapshot(model) == before


class Calls:
    """A hook that counts a layer's calls, and fails at one of them."""

    def __init__(self, fails_at: int = 0) -> None:
        self.count, self._fails_at = 0, fails_at

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self._fails_at:
            raise ArithmeticError("in the middle of the work")


def counted(found: Method, model: nn.Module, calls: Calls, run: Callable[[], object]) -> int:
    """Run something while the first layer's calls are counted."""
    hook = convolutions(model)[0].register_forward_hook(calls)
    try:
        run()
    finally:
        hook.remove()
    return calls.count


@each_method
def test_the_model_comes_back_as_it_was_after_an_exception(found):
    if not uses_network(fitted(found)):
        pytest.skip("it uses no network")
    model, images = unlike_default(network(found)), pictures(2, 16)
    before = snapshot(model)
    call(found, model, images)  # what a method keeps for later calls is there from now on
    count = counted(found, model, Calls(), lambda: call(found, model, images))
    for fails_at in {1, (count + 1) // 2, count}:
        with pytest.raises(ArithmeticError):
            counted(found, model, Calls(fails_at), lambda: call(found, model, images))
        assert snapshot(model) == before


@each_method
def test_a_class_that_the_model_does_not_have_is_refused(found):
    if "target" not in found.inputs:
        pytest.skip("it takes no class")
    model = unlike_default(network(found))
    before = snapshot(model)
    with pytest.raises(UsageError):
        call(found, model, pictures(2, 16), target=BAD_TARGET)
    assert snapshot(model) == before


@each_method
def test_the_model_comes_back_as_it_was_after_several_threads(found):
    model = unlike_default(network(found))
    before = snapshot(model)
    images = pictures(2, 16)
    expected = call(found, network(found).train(False), images)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: call(found, model, images), range(12 if found.makes_images else 40)))
    assert all(torch.equal(result, expected) for result in results)
    assert snapshot(model) == before


@each_method
def test_details_begin_with_what_the_call_returns(found):
    if not found.details:
        pytest.skip("it tells of no details")
    for count in (0, 1, 3):
        model, images = network(found), pictures(3, 16)[:count]
        details = fitted(found).details(model, **arguments(found, images))
        assert torch.equal(details[0], call(found, model, images))
        assert details._fields[1:] == tuple(detail.name for detail in found.details)
        for detail, value in zip(found.details, details[1:], strict=True):
            dimensions = DIMENSIONS[detail.kind.name]
            assert value is None or (len(value), value.ndim, value.requires_grad) == (count, dimensions, False)


@each_method
def test_what_makes_pictures_refuses_what_does_not_fit_without_working(found):
    if not found.makes_images:
        pytest.skip("it makes maps")
    model, images = network(found), pictures(2, 16)
    method, given = fitted(found, steps=1000) if _has(found, "steps") else fitted(found), arguments(found, images)
    before = snapshot(model)
    # a pass to learn the layers' shapes, another for the classes, one that is never computed for the memory
    assert counted(found, model, Calls(), lambda: method.check(model, **given)) < 10
    assert snapshot(model) == before
    for name in ("layer", "layers"):
        if _has(found, name):
            with pytest.raises(UsageError, match=r"no layer 'convolutions\.77'"):
                fitted(found, **{name: "convolutions.77"}).check(model, **given)
    if "target" in found.inputs:
        with pytest.raises(UsageError):
            method.check(model, **arguments(found, images, target=BAD_TARGET))


def _has(found: Method, name: str) -> bool:
    return any(option.name == name for option in found.options)


@each_method
def test_progress_rises_to_its_end(found):
    if "progress" not in found.inputs:
        pytest.skip("it tells of no progress")
    told: list[tuple[int, int]] = []
    call(found, network(found), pictures(2, 16), progress=lambda done, total: told.append((done, total)))
    assert told
    assert all(one[0] <= other[0] for one, other in pairwise(told))
    assert told[-1][0] == told[-1][1] > 0


@each_method
def test_options_are_checked_and_shown(found):
    with pytest.raises(TypeError):
        found.cls(no_such_option=1)
    for option in found.options:
        assert option.help
        assert f"{option.name}=" in repr(found.cls())
        if option.choices:
            with pytest.raises(UsageError, match=f"option '{option.name}' takes one of"):
                found.cls(**{option.name: "no such choice"})


@each_method
def test_says_what_it_is_and_where_it_was_published(found):
    assert found.summary.endswith((".", "?"))
    assert "arXiv" in found.reference or "doi" in found.reference


@each_method
def test_draws(found):
    if not found.makes_maps:
        pytest.skip("it makes no maps")
    images = pictures(2, 24)
    result = call(found, network(found), images)
    for drawn in (draw(result), draw(result, images)):
        assert drawn.shape == (2, 3, 24, 24)
        assert drawn.dtype == torch.uint8


@pytest.fixture
def registry(monkeypatch):
    from afterimage import registry

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_plugins", {})
    registry._load.cache_clear()
    yield registry
    registry._load.cache_clear()


def test_a_methods_own_checks_run_after_those_of_its_options(registry):
    @registry.register(verb="own")
    class Own:
        """A method."""

        width: float = registry.option(1.0, "a width")
        mode: Literal["a", "b"] | None = registry.option(None, "a choice")

        def __post_init__(self) -> None:
            if self.width <= 0:
                raise UsageError(f"width: expected above 0, got {self.width!r}")

        def __call__(self, model: nn.Module, images: Tensor) -> registry.Heatmap: ...

    with pytest.raises(UsageError, match=r"width: expected above 0, got -3\.0"):
        Own(-3)
    assert (Own(mode="a").mode, Own().mode) == ("a", None)
    assert registry.method("own").options[1].choices == ("a", "b")
    with pytest.raises(UsageError, match="option 'mode' takes one of a, b, not 'c'"):
        Own(mode="c")


def test_a_method_has_to_say_what_it_returns_and_takes(registry):
    def silent(self, model, images): ...

    def unkind(self, model, images) -> Tensor: ...

    for call, came in [(silent, "nothing"), (unkind, "Tensor")]:
        with pytest.raises(TypeError, match=f"expected it annotated to return Heatmap, .* or Peaks, got {came}"):
            registry.register(type("Odd", (), {"__call__": call}), verb="odd")
    undocumented = {"__call__": METHODS[-1].cls.__call__, "__annotations__": {"a": int}, "a": 3}
    with pytest.raises(TypeError, match=r"Odd: expected option\(default, help\) for a"):
        registry.register(type("Odd", (), undocumented), verb="odd")
    assert "odd" not in registry.methods()


class Both(NamedTuple):
    heatmap: registered.Heatmap
    fall: registered.Values | None
    box: registered.Boxes
    around: registered.ClassGrid
    covered: registered.Images | None


def declared(registry, returned, parameters="self, model, images, target=None"):
    """Register a class whose details are annotated to return `returned`, and return what was made of it."""
    space: dict[str, object] = {}
    exec(f"def call(self, model, images, target=None): ...\ndef details({parameters}): ...", space)
    space["call"].__annotations__["return"] = registry.Heatmap
    space["details"].__annotations__["return"] = returned
    registry.register(type("Odd", (), {"__call__": space["call"], "details": space["details"]}), verb="odd")
    return registry.method("odd")


def test_what_details_give_is_known_without_running_them(registry):
    found = declared(registry, Both)
    kinds = [("fall", "values"), ("box", "boxes"), ("around", "class_grid"), ("covered", "images")]
    assert [(detail.name, detail.kind.name) for detail in found.details] == kinds
    assert registry.method("saliency").details == ()


@pytest.mark.parametrize(
    ("returned", "parameters", "message"),
    [
        (registered.Heatmap, "self, model, images, target=None", "a NamedTuple that begins with the call's result"),
        (NamedTuple("Late", [("fall", registered.Values)]), "self, model, images, target=None", "begins with"),
        (Both, "self, model, images", "expected the call's parameters self, model, images, target, got self, model"),
        (
            NamedTuple("Bare", [("heatmap", registered.Heatmap), ("fall", Tensor)]),
            "self, model, images, target=None",
            "expected 'fall' to be Values, Curve, Diverged, Classes, Boxes, ClassGrid or Images, got Tensor",
        ),
        (
            NamedTuple("Twice", [("heatmap", registered.Heatmap), ("more", registered.Gradient)]),
            "self, model, images, target=None",
            "expected 'more' to be Values",
        ),
    ],
)
def test_details_have_to_say_what_they_return(registry, returned, parameters, message):
    with pytest.raises(TypeError, match=message):
        declared(registry, returned, parameters)
    assert "odd" not in registry.methods()


def test_a_plugin_that_does_not_load_says_so_each_time(registry, monkeypatch):
    class Plugin:
        name, value, loads = "broken", "broken_package", 0

        def load(self) -> None:
            Plugin.loads += 1
            registry.register(type("Third", (), {"__call__": METHODS[-1].cls.__call__}), verb="third")
            raise ImportError("no module named scipy_x")

    monkeypatch.setattr(registry, "entry_points", lambda group: [Plugin()])
    for _ in range(2):
        with pytest.raises(UsageError, match=r"broken \(broken_package\) does not load: ImportError: no module named"):
            registry.methods()
    assert Plugin.loads == 1
    assert "third" not in registry._registered


def test_a_verb_names_one_method(monkeypatch):
    from afterimage import registry

    def declare(call: Callable[..., object]) -> type:
        return type("Saliency", (), {"__module__": "afterimage.methods.saliency", "__call__": call})

    with pytest.raises(ValueError, match="two methods named 'saliency'"):
        registry.register(declare(METHODS[-1].cls.__call__))
    with pytest.raises(UsageError, match=r"no method 'salience'.*nearest: saliency"):
        registry.method("salience")
