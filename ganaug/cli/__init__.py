"""The command line: a module for each command. Rooms are imported inside the commands, so that --help is quick."""

from __future__ import annotations

from typing import Any

import click

from ganaug import __version__
from ganaug.cli.demo import demo
from ganaug.cli.evaluate import evaluate
from ganaug.cli.fit import fit
from ganaug.cli.inspect import inspect
from ganaug.cli.preview import preview
from ganaug.cli.purge import purge
from ganaug.cli.sample import sample
from ganaug.cli.study import study
from ganaug.cli.trace import trace
from ganaug.cli.translate import translate
from ganaug.cli.twins import twins
from ganaug.distributed import ElsewhereError, is_main, world_size
from ganaug.errors import GanaugError, Interrupted

SHARED = ("fit", "sample", "translate")
"""Commands whose work several processes share."""


class Commands(click.Group):
    """A group whose errors are sentences: exit code 1 failure, 2 usage, 3 bad data, 4 diverged; no tracebacks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of this file, which is the order in which they are used."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; one that several processes cannot share is refused under torchrun."""
        name, command, rest = super().resolve_command(ctx, args)
        if world_size() > 1 and name not in SHARED:
            raise click.UsageError(
                f"'ganaug {name}' was started {world_size()} times by torchrun; it runs in one process. Start it "
                f"without torchrun: ganaug {name} … (torchrun is for {', '.join(SHARED)})."
            )
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn errors into messages and exit codes."""
        try:
            return super().invoke(ctx)
        except ElsewhereError as problem:
            ctx.exit(problem.exit_code)  # the process that failed has said why
        except GanaugError as problem:
            from ganaug.data.names import printable

            if isinstance(problem, Interrupted) and not is_main():
                ctx.exit(problem.exit_code)  # all were stopped, and one says so
            said = str(problem) if isinstance(problem, Interrupted) else f"Error: {problem}"
            # A name out of a stranger's file may hold what a terminal obeys.
            click.echo("\n".join(map(printable, said.splitlines())), err=True)
            ctx.exit(problem.exit_code)
        except KeyboardInterrupt:
            click.echo(
                "Stopped. Nothing that was complete is lost. Run the same command again; add --resume if it was a "
                "'fit' whose folder exists already.",
                err=True,
            )
            ctx.exit(1)
        except click.ClickException as problem:
            if not is_main():
                ctx.exit(problem.exit_code)  # all have the same command line, and one says what is wrong with it
            raise
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except MemoryError:
            click.echo("Error: not enough memory. Use a smaller --size or --set batch=…, or fewer images.", err=True)
            ctx.exit(1)
        except Exception as problem:
            _report_bug(problem)
            ctx.exit(1)


def _report_bug(problem: Exception) -> None:
    import tempfile
    import traceback

    first = (str(problem).splitlines() or ["no message"])[0]
    if "out of memory" in first.lower() or "can't allocate memory" in first.lower():
        click.echo("Error: not enough memory. Use a smaller --size or --set batch=….", err=True)
        return
    with tempfile.NamedTemporaryFile("w", prefix="ganaug-error-", suffix=".txt", delete=False) as stream:
        stream.write(traceback.format_exc())
    click.echo(
        f"Error: {type(problem).__name__}: {first}\nThis is a fault in ganaug, not in your data. The details are in "
        f"{stream.name}; please report them.",
        err=True,
    )


@click.group(cls=Commands, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ganaug")
def main() -> None:
    """Synthetic images for your rare classes: fit a GAN to a labelled folder, sample, mix, and see if it helps.

    DATA is a folder with one sub-folder of images or volumes for each class, or with a metadata.csv
    (file_name,label[,group,split,domain]), or a MedMNIST-style .npz. Start with 'ganaug demo'.
    """


# In the order in which they are used.
for command in (inspect, fit, sample, translate, twins, preview, trace, purge, evaluate, study, demo):
    main.add_command(command)
