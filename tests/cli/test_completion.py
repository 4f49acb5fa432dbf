"""`kip completion`: the texts that shells read."""

import shutil
import subprocess

import pytest

from kip.cli import COMMANDS, completion


@pytest.fixture(scope="module")
def scripts():
    return {shell: completion.script(shell) for shell in ("bash", "zsh", "fish")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_option_and_configuration_is_there(shell, scripts):
    text = scripts[shell]
    for command in COMMANDS:
        assert all(word in text for word in command.split())
    for word in ("--protocols", "--data-dir", "--executor", "digits_convnet", "main_table"):
        assert word in text


def test_bash_completes_commands_options_and_configurations(scripts):
    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        program = f"{scripts['bash']}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _kip; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("kip", "dist") == ["distill"]
    assert "digits_convnet" in completed("kip", "distill", "digits_c")
    assert "--protocols" in completed("kip", "compare", "--prot")
    assert "kernel" in completed("kip", "bench", "ker")
    assert "--minutes" in completed("kip", "bench", "gpu", "--min")
    assert completed("kip", "status", "--wat") == ["--watch"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_read_its_text(shell, scripts, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "kip"
    path.write_text(scripts[shell])
    assert subprocess.run([shell, "-n", str(path)], capture_output=True, text=True).stderr == ""
