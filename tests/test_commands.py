"""`aigciqa`: the command that holds the others, and which errors a command reports in a line."""

from __future__ import annotations

import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from aigciqa import errors
from aigciqa.cli import common
from aigciqa.cli.main import COMMANDS, main
from tests.test_package import HELP, modules_after


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aigciqa")


def test_help_lists_the_commands_without_importing_them() -> None:
    loaded = modules_after(HELP.format(command="--help"))
    ours = {name for name in loaded if name.startswith("aigciqa.cli.")}
    assert ours == {"aigciqa.cli.main", "aigciqa.cli.common", "aigciqa.cli.words"}
    assert not {"torch", "numpy", "PIL", "tqdm"} & loaded
    for name, text in COMMANDS.items():
        assert f"  {name} " in run("--help").stdout
        assert text.split()[0] in run("--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_the_list_is_the_commands_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").startswith(COMMANDS[name])


def test_an_unknown_command_is_answered_with_near_ones() -> None:
    done = run("trian")
    assert (done.exit_code, "unknown command 'trian'; did you mean train?" in done.stderr) == (2, True)
    assert "expected one of score, compare" in run("nothing").stderr
    assert "\x1b" not in run("sco\x1bre").stderr


def test_no_command_prints_the_help() -> None:
    done = run()
    assert (done.exit_code, "Commands:" in done.output) == (2, True)


@pytest.mark.parametrize("arguments", [["--version"], ["score", "--version"]])
def test_version(arguments: list[str]) -> None:
    assert run(*arguments).stdout.startswith("aigciqa, version 0.")


def test_a_usage_error_names_the_command() -> None:
    done = run("train")
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: aigciqa train [OPTIONS]")


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["-m", "select", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("aigciqa.cli", run_name="__main__")
    assert stopped.value.code == 0


def test_a_shell_completes_commands_and_options() -> None:
    completion = ShellComplete(main, {}, "aigciqa", "_AIGCIQA_COMPLETE")
    assert [each.value for each in completion.get_completions([], "se")] == ["select"]
    assert "--dtype" in [each.value for each in completion.get_completions(["score"], "--d")]


@pytest.mark.parametrize(
    "error",
    [
        errors.InputError, errors.ImageError, errors.DatabaseError, errors.CheckpointError, errors.HubError,
        errors.MissingExtraError, errors.OutputExistsError, errors.LockedError,
    ],
)  # fmt: skip
def test_what_the_library_refuses_is_a_usage_error(error: type[Exception]) -> None:
    @common.command("try")
    def attempt() -> None:
        """Try."""
        raise error("this is wrong")

    done = CliRunner().invoke(attempt, [], prog_name="aigciqa try")
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: aigciqa try [OPTIONS]")
    assert done.stderr.endswith("\nError: this is wrong\n")


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, ImportError, RuntimeError, OSError])
def test_any_other_exception_keeps_its_traceback(error: type[Exception]) -> None:
    @common.command("try")
    def attempt() -> None:
        """Try."""
        raise error("a mistake of ours")

    with pytest.raises(error, match="a mistake of ours"):
        CliRunner().invoke(attempt, [], catch_exceptions=False)
