"""What every registered method promises, whatever it computes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from afterimage import UsageError, draw
from afterimage import registry as registered
from afterimage.models.windows import Extent
from afterimage.registry import Method, methods
from tests.networks import mixed, pictures

METHODS = list(methods().values())
each_method = pytest.mark.parametrize("found", METHODS, ids=lambda found: found.verb)


def fitted(found: Method, images: Tensor) -> Any:
    """Return the method as it comes, but for extents in pixels, which shrink with images smaller than 64."""
    side = min(images.shape[2:])
    extents = [option for option in found.options if Extent in option.kinds and side < 64]
    return found.cls(**{option.name: max(1, option.default * side // 64) for option in extents})


def call(found: Method, model: nn.Module, images: Tensor) -> Tensor:
    target = torch.arange(len(images)) % 5
    result: Tensor = fitted(found, images)(model, images, target)
    return result


@each_method
def test_shape_and_finiteness(found):
    for size in [(16, 16), (9, 23), (1, 1)]:
        images = torch.rand(2, 3, *size)
        result = call(found, mixed(), images)
        assert result.shape == (2, found.result.channels, *size)
        assert result.isfinite().all()


@each_method
def test_an_empty_batch_gives_an_empty_result(found):
    assert call(found, mixed(), torch.rand(0, 3, 8, 8)).shape == (0, found.result.channels, 8, 8)


@each_method
def test_a_batch_equals_its_singles(found):
    model, images = mixed().double(), pictures(4, 16).double()
    together = call(found, model, images)
    for place in range(4):
        target = torch.tensor([place % 5])
        alone = fitted(found, images)(model, images[place : place + 1], target)
        # float64: sums in another order, far below what a flipped ReLU would change
        torch.testing.assert_close(together[place : place + 1], alone, rtol=1e-9, atol=1e-15)


@each_method
def test_twice_is_bit_equal(found):
    model, images = mixed(), pictures(3, 16)
    assert torch.equal(call(found, model, images), call(found, model, images))


@each_method
def test_images_and_graph_are_left_alone(found):
    images = pictures(2, 16).requires_grad_()
    before = images.detach().clone()
    result = call(found, mixed(), images)
    assert torch.equal(images, before)
    assert images.grad is None
    assert not result.requires_grad


@each_method
def test_works_where_gradients_are_off(found):
    model, images = mixed(), pictures(2, 16)
    with torch.no_grad():
        off = call(found, model, images)
    assert torch.equal(off, call(found, model, images))


def snapshot(model: nn.Module) -> list[object]:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    weights = [(p.requires_grad, p.grad is None, p.sum().item()) for p in model.parameters()]
    return [hooks, weights, [module.training for module in model.modules()]]


def unlike_default(model: nn.Module) -> nn.Module:
    model.train()
    model.convolutions[2].eval()
    model.convolutions[3].weight.requires_grad_(False)
    return model


@each_method
def test_the_model_comes_back_as_it_was(found):
    model = unlike_default(mixed())
    before = snapshot(model)
    call(found, model, pictures(2, 16))
    assert snapshot(model) == before


@each_method
def test_the_model_comes_back_as_it_was_after_an_exception(found):
    model, images = unlike_default(mixed()), pictures(2, 16)
    before = snapshot(model)

    def fail(*_: object) -> None:
        raise ArithmeticError("in the middle of the forward pass")

    hook = model.convolutions[5].register_forward_hook(fail)
    with pytest.raises(ArithmeticError):
        call(found, model, images)
    hook.remove()
    with pytest.raises(UsageError):
        fitted(found, images)(model, images, torch.tensor([9, 9]))
    assert snapshot(model) == before


@each_method
def test_the_model_comes_back_as_it_was_after_several_threads(found):
    model = unlike_default(mixed())
    before = snapshot(model)
    images = pictures(2, 16)
    expected = call(found, mixed().train(False), images)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: call(found, model, images), range(40)))
    assert all(torch.equal(result, expected) for result in results)
    assert snapshot(model) == before


@each_method
def test_details_begin_with_what_the_call_returns(found):
    if not found.details:
        pytest.skip("it tells of no details")
    for count in (0, 1, 3):
        model, images = mixed(), pictures(3, 16)[:count]
        details = fitted(found, images).details(model, images, torch.arange(count) % 5)
        assert torch.equal(details[0], call(found, model, images))
        assert details._fields[1:] == tuple(detail.name for detail in found.details)
        for detail, value in zip(found.details, details[1:], strict=True):
            dimensions = {"values": 1, "boxes": 2, "class_grid": 3, "images": 4}[detail.kind.name]
            assert value is None or (len(value), value.ndim, value.requires_grad) == (count, dimensions, False)


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
    images = pictures(2, 24)
    result = call(found, mixed(), images)
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
        with pytest.raises(TypeError, match=f"expected it annotated to return Heatmap, Gradient or Image, got {came}"):
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
