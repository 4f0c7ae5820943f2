"""Fooling images beside foolbox and torchattacks: one step of ε, or projected ones in whole 255ths from the picture.

`afterimage` leaves an image alone once it is fooled, `every step` takes all of them, as the peers do.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from benchmarks.agreement import Agreement, missed
from benchmarks.judges import attacked
from benchmarks.optimization import run
from benchmarks.optimization.run import Work
from benchmarks.outcome import Outcome
from benchmarks.row import Device, Row, Venv
from benchmarks.subjects import attack_inputs

TORCHATTACKS = Venv("torchattacks", ("torchattacks==3.5.1",))
FOOLED = Agreement(
    missed, 1 / 16, "one image in sixteen: signs of tiny gradients differ in float32, and steps add them up"
)
NETWORKS = ("squeezenet1_0", "resnet18")


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """Away from the class that is seen in one step, toward another one in many."""
    images, size, steps = (4, 64, 3) if quick else (16, 224, 20) if device == "cpu" else (32, 224, 40)
    for network in NETWORKS:
        work = {"network": network, "images": images, "size": size, "eps": 4 / 255, "rate": 1 / 255, "device": device}
        yield _row("fgsm", device, {**work, "steps": 1, "toward": False}, repeat=7)
        yield _row("projected", device, {**work, "steps": steps, "toward": True}, repeat=3)


def _row(attack: str, device: Device, work: Work, repeat: int) -> Row:
    ours, foolbox = "optimization.attacks:fool", "peers.attacks_foolbox:attack"
    every = run.configuration("afterimage, every step", ours, "ours", work=work, every_step=True)
    how = f"{work['steps']} steps of 1/255 toward a class, " if work["toward"] else "one step away, "
    return run.row(
        f"fool.{attack}.{work['network']}",
        f"{attack}: {how}within {255 * work['eps']:.0f}/255, {work['images']} × {work['size']}², {work['network']}",
        device,
        (
            run.configuration("afterimage", ours, "ours", work=work),
            *((every,) if work["toward"] else ()),
            run.configuration("foolbox", foolbox, "reference", work=work),
            run.configuration("foolbox, frozen", foolbox, "peer", work=work, frozen=True),
            run.configuration("torchattacks", "peers.attacks_torchattacks:attack", "peer", TORCHATTACKS, work=work),
        ),
        FOOLED,
        items=work["images"],
        repeat=repeat,
    )


def fool(work: Work, every_step: bool = False) -> Callable[[], Outcome]:
    """The method, shown what an 8-bit file can hold, as the peers are by the length of their steps."""
    network, images, target = attack_inputs(work)
    model = run.network(network, work["device"])
    method = _method(work, every_step)
    given = target if work["toward"] else None
    inputs = run.last(images)

    def call() -> Outcome:
        return attacked(network, images, method(model, inputs, given), target, work["toward"])

    method(model, inputs, given)  # what the first call prepares is no part of the rate
    return call


def _method(work: Work, every_step: bool) -> Callable[..., Tensor]:
    from afterimage.methods.fooling import Fooling

    if work["steps"] == 1:
        return Fooling(attack="fgsm", eps=work["eps"])
    margin = 1e9 if every_step else None  # logits that no image reaches, so that none is left alone
    return Fooling(steps=work["steps"], eps=work["eps"], rate=work["rate"], margin=margin)
