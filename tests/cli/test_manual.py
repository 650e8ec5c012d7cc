#!/usr/bin/python3
"""The manual pages say what the programs do: every command and option of foretaste and no other, every key of the
configuration with its default, and roff that a formatter has no complaint about. Arguments: FORETASTE FORETASTED PAGE..."""

import os
import re
import subprocess
import sys

FORETASTE, FORETASTED = map(os.path.abspath, sys.argv[1:3])
PAGES = {os.path.basename(path): path for path in sys.argv[3:]}
failures = 0


def require(condition, text):
    global failures
    if not condition:
        failures += 1
        print("FAIL " + text, flush=True)


def page(name):
    with open(PAGES[name], encoding="utf-8") as f:
        return f.read()


def section(name, title):
    return re.split(r"^\.SH ", page(name).split("\n.SH " + title + "\n", 1)[1], maxsplit=1, flags=re.M)[0]


def plain(roff):
    """A line of roff as it reads: no requests, no fonts, no escapes."""
    text = re.sub(r"^\.[A-Z]+ ", "", roff)
    text = re.sub(r"\\f[A-Z]", "", text).replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")
    return re.sub(r"\s+", " ", text.replace('"', "")).strip()


def headings(roff):
    """The line behind each .TP."""
    lines = roff.splitlines()
    return [plain(lines[i + 1]) for i, line in enumerate(lines) if line == ".TP"]


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


help_text = said(FORETASTE, "--help")
# NAME REST  DOES, in columns: the last gap of two spaces or more is before DOES.
shown = [" ".join(re.split(r"\s{2,}", line.strip())[:-1]) for line in help_text.split("\n\n")[1].splitlines()]
documented = headings(section("foretaste.1", "COMMANDS"))
require(len(shown) >= 9 and documented == shown,
        "COMMANDS in deploy/man/foretaste.1.in has not the commands of foretaste, or in another order: missing %s, too many %s" %
        ([x for x in shown if x not in documented], [x for x in documented if x not in shown]))


def options_of(text):
    return sorted(set(re.findall(r"--[a-z]+", text)))


wanted = options_of(help_text.split("\n\n", 2)[2].split("Exit codes")[0])
require(len(wanted) >= 9, "what --help says is not understood")
found = options_of(" ".join(headings(section("foretaste.1", "OPTIONS"))))
require(found == wanted, "options of foretaste: %s, in its manual page: %s" % (wanted, found))
wanted = sorted(set(options_of(said(FORETASTED, "--help"))) | {"--help", "--version"})
found = options_of(" ".join(headings(section("foretasted.8", "OPTIONS"))))
require(found == wanted, "options of foretasted: %s, in its manual page: %s" % (wanted, found))

# The template and the page are made from the same table by different code; they have to agree on each key.
keys, path = {}, []
for line in said(FORETASTE, "check", "--template").splitlines():
    match = re.match(r"( *)([a-z_0-9]+):(?: (.*))?$", line)
    if not match:
        continue
    path[len(match[1]) // 2:] = [match[2]]
    name = [("NAME" if i == 1 and path[0] in ("guests", "services", "uplinks") else part) for i, part in enumerate(path)]
    keys[".".join(name)] = match[3]
require(len(keys) > 50, "what check --template says is not understood: %d keys" % len(keys))
text = page("foretaste.yaml.5").split("\n.SH KEYS\n")[1].split("\n.SH ")[0]
entries = {plain(block.splitlines()[0]): block for block in text.split(".TP\n")[1:]}
require(sorted(entries) == sorted(keys), "keys in one place only: %s" % sorted(set(entries) ^ set(keys)))
for key, value in keys.items():
    if value is None or key not in entries:
        continue
    example = "# no default" in value
    value = value.split("  # no default")[0].strip().strip('"')
    end = ("; no default, for example: " if example else "; default: ") + value + ")"
    require(plain(entries[key].rstrip().splitlines()[-1]).endswith(end), "%s: %r does not end with %r" % (key, entries[key], end))

for name, path in PAGES.items():
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", path], capture_output=True, text=True, check=False)
    require(done.returncode == 0 and not done.stderr, "%s: %s" % (name, done.stderr))
    require("@" not in re.sub(r"@cee", "", page(name)), name + " has a @ that nothing was put for")
sys.exit(1 if failures else 0)
