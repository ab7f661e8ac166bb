"""The group of commands, and what becomes of errors: one message on standard error and an exit code.

0 done; 2 the user's input is wrong, or the user interrupted; 1 a fault of ours. Tracebacks only with `--debug`.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import rich_click as click
from click.exceptions import Exit, NoArgsIsHelpError

from assay import __version__
from assay.cli.attribute import attribute
from assay.cli.clean import clean
from assay.cli.demo import demo
from assay.cli.evaluate import evaluate
from assay.cli.guard import guard
from assay.cli.index import index
from assay.cli.methods import methods
from assay.cli.options import DEBUG
from assay.cli.plan import plan
from assay.cli.price import price
from assay.cli.query import query
from assay.cli.reasoning import reasoning
from assay.cli.recommend import recommend
from assay.cli.render import tell
from assay.cli.report import report
from assay.cli.reweight import reweight
from assay.cli.select import select
from assay.cli.value import value
from assay.errors import AssayError
from assay.progress import shown

COMMANDS: tuple[click.Command, ...] = (
    attribute, index, query, value, reasoning, clean, select, reweight, price, guard, evaluate, recommend, plan, methods,
    report, demo,
)  # fmt: skip


class Assay(click.RichGroup):
    """A group whose every way out is an exit code and at most one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(self.commands)

    def add_command(self, cmd: click.Command, *args: Any, **options: Any) -> None:
        """Every command takes `--debug` as well."""
        cmd.params.append(DEBUG)
        super().add_command(cmd, *args, **options)

    def main(  # pyright: ignore[reportIncompatibleMethodOverride] - click overloads it by standalone_mode
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit."""
        words, name = list(sys.argv[1:] if args is None else args), prog_name or "assay"
        if not standalone_mode:
            return super().main(words, name, complete_var, standalone_mode=False, **extra)
        self._main_shell_completion(extra, name, complete_var)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # an ASCII terminal, say
        sys.exit(self._exit_code(words, name, extra))

    def _exit_code(self, args: list[str], name: str, extra: dict[str, Any]) -> int:
        debug = "--debug" in args or os.environ.get("ASSAY_DEBUG", "0") not in ("", "0")
        try:
            with shown(), self.make_context(name, args, **extra) as context:
                self.invoke(context)
            sys.stdout.flush()
            return 0
        except Exit as error:
            return error.exit_code
        except BrokenPipeError:
            _drop_output()
            return 0
        except BaseException as error:
            if debug:
                traceback.print_exc()
            return _explain(error)


def _explain(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    match error:
        case SystemExit():
            raise error
        case NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return 2
        case click.ClickException():
            where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "assay"
            tell("Error", f"{error.format_message()} See '{where} --help'.")
            return 2
        case KeyboardInterrupt() | click.Abort():
            tell("Interrupted", str(error) or "Results are saved whole or not at all; run the same command again.")
            return 2
        case AssayError():
            tell("Error", str(error))
            return error.exit_code
        case _:
            tell(
                "Internal error",
                f"{type(error).__name__}: {error}\nThis is a fault of Assay, not of your input. Please report it, with "
                "the command and the traceback that the same command prints with --debug.",
            )
            return 1


def _drop_output() -> None:
    """Whoever read our output has gone: nothing more is written, not at exit either."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


@click.group(cls=Assay, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="assay", message="%(prog)s %(version)s")
def main() -> None:
    """Which training data made a model behave as it does, what each example is worth, and how far to trust the answer.

    Start with `assay attribute MODEL --train train.jsonl --queries queries.jsonl`. `assay COMMAND --help` lists every
    option.
    """


main.params.append(DEBUG)
for _command in COMMANDS:
    main.add_command(_command)
