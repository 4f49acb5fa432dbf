"""`kip completion`: what a shell needs to complete commands, their options and the names of configurations."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any, Literal

import tyro

from kip.cli.options import Json, call

TAKE_CONFIGS = ("distill", "label-solve", "compare", "dcs", "configs")
"""The commands whose first argument may be the name of a configuration."""

BASH = """_kip() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))
}}
complete -o filenames -F _kip kip
"""
ZSH = """#compdef kip
_kip() {{
    local words_of=""
    if (( CURRENT == 2 )); then
        compadd {commands}
        return
    fi
    case "${{words[2]}}" in
{cases}
    esac
    compadd -- ${{=words_of}}
    _files
}}
compdef _kip kip
"""


def completion(shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]], *, json: Json = False) -> dict[str, Any]:
    """Print what completes commands, options and configurations in a shell.

        kip completion bash > ~/.local/share/bash-completion/completions/kip
        kip completion zsh > ~/.zfunc/_kip
        kip completion fish > ~/.config/fish/completions/kip.fish

    zsh finds the file if its folder is in fpath before compinit is run. Make the file again after an update of kip.

    Args:
        shell: The shell that the text is for.
        json: Print one JSON object with the results as the last line of stdout.
    """
    text = script(shell)
    print(text, end="")
    return {"shell": shell, "lines": len(text.splitlines())}


def script(shell: str) -> str:
    """Return the text for a shell."""
    from kip import experiment
    from kip.cli import COMMANDS

    configs = sorted({name.partition(":")[0] for name in experiment.names()})
    summaries: dict[str, str] = {}
    words: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        first, _, part = name.partition(" ")  # the options of a command's parts are offered together, behind the parts
        summaries.setdefault(first, command.summary)
        offered = [*([part] if part else []), *_options(name), *(configs if name in TAKE_CONFIGS else [])]
        words[first] = list(dict.fromkeys([*words.get(first, []), *offered]))
    if shell == "fish":
        lines = ["complete -c kip -f -n __fish_use_subcommand"]
        for name, summary in summaries.items():
            quoted = summary.replace("'", "\\'")
            lines.append(f"complete -c kip -n __fish_use_subcommand -a {name} -d '{quoted}'")
            condition = f"'__fish_seen_subcommand_from {name}'"
            lines.append(f"complete -c kip -F -n {condition} -a '{' '.join(words[name])}'")
        return "\n".join(lines) + "\n"
    variable, form = ("words", BASH) if shell == "bash" else ("words_of", ZSH)
    cases = "\n".join(f'        {name}) {variable}="{" ".join(listed)}" ;;' for name, listed in words.items())
    return form.format(commands=" ".join(words), cases=cases)


def _options(name: str) -> list[str]:
    """Return a command's options, from its help."""
    from kip.cli import COMMANDS

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        call(COMMANDS[name].function(), ["--help"], prog=f"kip {name}")
    found = re.findall(r"^[^\w\n]*((?:-\w, )?--[\w.-]+)", text.getvalue(), re.MULTILINE)
    return list(dict.fromkeys(option.split(", ")[-1] for option in found))
