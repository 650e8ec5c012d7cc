#!/usr/bin/python3
"""Completion in a real bash: the function that `foretaste completion bash` defines, called as readline calls it, and once
through a terminal. Argument: FORETASTE."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile

FORETASTE = os.path.abspath(sys.argv[1])
PATIENCE = 60  # seconds until a terminal that says nothing is given up; never a measure of speed

# As bash fills them in: "=" is a word of its own.
DRIVE = r'''
. "$1"
shift
spec=$(complete -p foretaste) || exit 9
function=${spec#*-F }; function=${function%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function" foretaste "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}"
'''

directory = tempfile.mkdtemp(prefix="foretaste-completion-")
script = os.path.join(directory, "foretaste.bash")
failures = 0


def require(condition, text):
    global failures
    if not condition:
        failures += 1
        print("FAIL " + text, flush=True)


def complete(*words):
    done = subprocess.run(["bash", "--norc", "-c", DRIVE, "bash", script, "foretaste", *words], cwd=directory, text=True,
                          capture_output=True, check=False)
    require(done.returncode == 0 and not done.stderr, "%s: exit code %d: %s" % (words, done.returncode, done.stderr))
    return sorted(done.stdout.splitlines())


def expect(words, wanted):
    found = complete(*words)
    require(found == sorted(wanted), "foretaste %s: completed to %s, expected %s" % (" ".join(words), found, sorted(wanted)))


def through_a_terminal(typed, wanted):
    """Types into an interactive bash and waits until the line on the terminal reads as wanted."""
    environment = {"PATH": os.path.dirname(FORETASTE) + ":/usr/bin:/bin", "TERM": "dumb", "PS1": "> ", "HOME": directory,
                   "INPUTRC": "/dev/null"}
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(directory)
        os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    seen = ""

    def until(text):
        nonlocal seen
        while text not in seen:
            if not select.select([terminal], [], [], PATIENCE)[0]:
                return False
            try:
                seen += os.read(terminal, 4096).decode(errors="replace")
            except OSError:
                return False
        seen = seen[seen.index(text) + len(text):]
        return True

    os.write(terminal, b". " + script.encode() + b"; bind 'set enable-bracketed-paste off'; echo so''urced\n")
    good = until("sourced")
    os.write(terminal, typed.encode())
    good = good and until(wanted)
    require(good, "a terminal shows no %r after %r: %r" % (wanted, typed, seen[-200:]))
    os.close(terminal)  # hangs up
    os.waitpid(pid, 0)


try:
    with open(script, "w") as f:
        subprocess.run([FORETASTE, "completion", "bash"], stdout=f, check=True)
    for name in ("one.yaml", "two words.yaml"):
        open(os.path.join(directory, name), "w").close()
    os.mkdir(os.path.join(directory, "rules"))

    help_text = subprocess.run([FORETASTE, "--help"], capture_output=True, text=True, check=True).stdout
    table = help_text.split("\n\n")[1]
    commands = [line.split()[0] for line in table.splitlines()]
    options = sorted(set(re.findall(r"--[a-z]+", help_text.split("\n\n", 2)[2].split("Exit codes")[0])))
    require(len(commands) >= 9 and "--config" in options, "what --help says is not understood: %s %s" % (commands, options))

    expect([""], commands)
    expect(["verd"], ["verdicts"])
    expect(["--"], options)
    expect(["status", "--j"], ["--json"])
    expect(["--json", "stat"], ["status"])
    expect(["nonsense", ""], [])
    expect(["show", ""], [])
    expect(["completion", ""], ["bash"])
    files = ["foretaste.bash", "one.yaml", "two words.yaml", "rules"]
    expect(["check", ""], files)
    expect(["check", "--json", "tw"], ["two words.yaml"])
    expect(["-c", "one"], ["one.yaml"])
    expect(["feed", "--file", "one"], ["one.yaml"])
    expect(["--config", "=", "one"], ["one.yaml"])
    expect(["--config", "="], files)
    expect(["--config", "=", "one.yaml", "sta"], ["status"])
    expect(["--config", "one.yaml", "sta"], ["status"])
    expect(["-n", "5", "fee"], ["feed"])
    expect(["--last", ""], [])
    expect(["check", "one.yaml", ""], [])

    through_a_terminal("foretaste comp\tb\t", "foretaste completion bash")
    through_a_terminal("foretaste check tw\t", "two\\ words.yaml")

    wrong = subprocess.run([FORETASTE, "completion", "fish"], capture_output=True, text=True, check=False)
    require(wrong.returncode == 64 and "only for bash" in wrong.stderr and not wrong.stdout,
            "completion fish: %d %s" % (wrong.returncode, wrong.stderr))
finally:
    shutil.rmtree(directory)
sys.exit(1 if failures else 0)
