"""The command line: a verb per registered method, made from its declaration, and a few for what runs left behind."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any

import click

from afterimage.errors import RefusedError, UsageError
from afterimage.registry import Method, Option, methods

from .command import COMMANDS
from .settings import named_options, own_options, settings_of

INPUT = "INPUT", "a folder, a glob, a list file or an image"
SUBJECT = "SUBJECT", "a class by name or index, a neuron layer:channel[:y:x], a layer for its channels, or all classes"
SWEEP = (
    "make a picture for each value, as --sweep steps=50,100, and a sheet of them; twice for two options; "
    "; divides values that have commas; target and style can be swept too"
)
WITH = (
    "methods that share the decoding and the forward passes, each a job of its own, as saliency,patches; options "
    "follow a colon, as patches:layer=layer3,top=5"
)
UNEXPECTED, USAGE, FAILED_INPUTS, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130


class _Commands(click.Group):
    """Commands of which those in modules of their own are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        made: click.Command = import_module(f".{COMMANDS[cmd_name]}", __package__).command()
        return made


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="afterimage")
def app() -> None:
    """Show what convolutional networks have learned, for one picture or ten million.

    Exit codes: 0 all ok; 1 unexpected; 2 usage; 3 finished with failed inputs; 4 refused to go on with another run;
    130 interrupted after a clean drain.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    for found in methods().values():
        app.add_command(command_of(found))
    # As `python -m` does: package.module:function is looked for here too, and in the workers, which inherit the path.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        code = app(arguments, standalone_mode=False)
    except (UsageError, RefusedError) as error:
        print(f"afterimage: {error}", file=sys.stderr)
        code = USAGE if isinstance(error, UsageError) else REFUSED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = USAGE
    except click.ClickException as error:
        print(f"afterimage: {_one_line(error)}", file=sys.stderr)
        code = USAGE
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return " ".join(error.format_message().split()) + (f"; see '{context.command_path} --help'" if context else "")


def command_of(found: Method) -> click.Command:
    """Return the command that runs a method, with an option for each of its own and of the run's settings."""

    def command(paths: tuple[str, ...], as_json: bool, **given: Any) -> int:
        if len(paths) < 2:
            raise click.UsageError(f"expected {what}… and then OUT, got {' '.join(paths) or 'nothing'}")
        from .runs import as_json as json_of
        from .runs import run

        facts = json_of(run(found.verb, paths[:-1], paths[-1], progress=True, **given))
        print(json.dumps(facts) if as_json else _told(facts, given["dry_run"]))
        if facts["interrupted"]:
            return INTERRUPTED
        return FAILED_INPUTS if facts["failed"] else 0

    what, kinds = SUBJECT if found.generates else INPUT
    where = f"{what} is {kinds}; OUT a folder for the results."
    flags = {"model": found.defaults.network_flag}
    options = (*own_options(found), *named_options(found), *settings_of(found))
    if twice := [name for name, count in Counter(option.name for option in options).items() if count > 1]:
        raise TypeError(f"{found.verb}: expected options that no setting or picture is called as, got {twice[0]}")
    return click.Command(
        found.verb,
        callback=command,
        params=[
            click.Argument(["paths"], nargs=-1, metavar=f"{what}... OUT"),
            *(click_option(option, flags.get(option.name)) for option in options),
            *([click.Option(["--sweep"], multiple=True, metavar="OPTION=VALUES", help=SWEEP)] * found.makes_images),
            *(
                []
                if found.makes_images
                else [click.Option(["--with", "also"], multiple=True, metavar="VERBS", help=WITH)]
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="print the summary as JSON"),
        ],
        help=f"{found.summary}\n\n{found.reference}\n\n{where}",
        short_help=found.summary,
        no_args_is_help=True,
    )


def click_option(option: Option, other: str | None = None) -> click.Option:
    """Return an option for click, with another name if it has one; what its type reads from text stays text here."""
    kinds = [kind for kind in option.kinds if kind is not NoneType]
    if kinds == [bool]:
        return click.Option([_flag(option)], is_flag=True, default=option.default, help=option.help)
    kind: Any = str
    if option.choices:
        kind = click.Choice([str(choice) for choice in option.choices])
    elif not any(kind is str or hasattr(kind, "parse") for kind in kinds) and (int in kinds or float in kinds):
        kind = int if int in kinds else float
    shown = option.default is not None
    metavar = None if option.choices else option.name.rpartition("_")[2].upper()
    flag = [_flag(option), *([f"--{other}"] if other else []), option.name]
    return click.Option(flag, type=kind, default=option.default, show_default=shown, help=option.help, metavar=metavar)


def _flag(option: Option) -> str:
    return "--" + option.name.replace("_", "-")


def _told(facts: dict[str, Any], dry_run: bool) -> str:
    """Return a summary for a person."""
    if dry_run:
        size = facts["predicted_bytes"] / 1e6
        return f"{facts['total']:,} images; {facts['shards']:,} shards to compute, {size:,.1f} MB, in {facts['folder']}"
    from .comparison import FOLDER, Found, told
    from .progress import speed

    found = [Found(**one) for one in facts["sweep"]]
    compared = f"\n{told(found)}\n\nsheets: {Path(facts['folder']) / FOLDER}\n" if found else ""
    counts = ", ".join(f"{count:,} {status}" for status, count in facts["statuses"].items())
    rate = speed(facts["computed"] / max(facts["seconds"], 1e-9))
    return (
        f"{counts or 'none'} of {facts['total']:,} images; "
        f"{facts['computed']:,} computed in {facts['seconds']:.1f} s ({rate})\n{compared}page: {facts['page']}"
    )


@app.command("methods")
def list_methods() -> None:
    """List the methods, what each answers and where it was published."""
    for found in methods().values():
        print(f"{found.verb:<18} {found.summary}\n{'':<18} {found.reference}")


@app.command("layers")
@click.argument("model")
@click.option("--weights", default="none", help="DEFAULT, a file, or none: the table does not need them")
@click.option("--crop", help="network's input: a side, or HEIGHTxWIDTH")
def list_layers(model: str, weights: str, crop: str | None) -> None:
    """List a model's layers: names, shapes, receptive fields, parameters."""
    from afterimage.models.layers import layers
    from afterimage.models.style.source import style_file
    from afterimage.models.zoo import load_model

    from .settings import sides
    from .tables import layer_table

    given = "DEFAULT" if model == "demo" or model.endswith(".pt2") or style_file(model) else weights
    network = load_model(model, weights=given, crop=sides(crop))
    print(layer_table(layers(network, network.preset.size)))


@app.command("status")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print as JSON, one job a line")
def show_status(out: Path, as_json: bool) -> int:
    """Say how far the jobs of OUT are, from the markers on the disk. Exits with 3 where rows failed."""
    from .audit import status
    from .tables import status_table

    jobs = status(out)
    print("\n".join(json.dumps(job) for job in jobs) if as_json else status_table(jobs))
    return FAILED_INPUTS if any(set(job["statuses"]) - {"ok"} for job in jobs) else 0


@app.command("verify")
@click.argument("out", type=click.Path(path_type=Path))
def run_verify(out: Path) -> int:
    """Check OUT's files against their markers and its keys against the manifest. Exits with 1 where one differs."""
    from .audit import verify

    faults = verify(out)
    print("\n".join(faults) if faults else f"{out}: every file as committed, every input has its row")
    return UNEXPECTED if faults else 0


@app.command("page")
@click.argument("out", type=click.Path(path_type=Path))
def write_page(out: Path) -> None:
    """Write OUT's page again from its tables."""
    from .audit import jobs_of
    from .pages.write import write_pages

    jobs_of(out)
    print(write_pages(out))


@app.command("demo")
@click.argument("out", type=click.Path(path_type=Path), default=Path("out/demo"))
def run_demo(out: Path) -> None:
    """Draw the embedded data set and explain the embedded network on it.

    Makes a page of saliency and guided backprop, and one of occlusion for a few of the images.
    """
    from .demo.show import show

    print(show(out))
