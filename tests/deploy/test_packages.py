#!/usr/bin/python3
"""deploy/packages.txt names all that building and testing use: every header that was compiled against, every library that was
linked, every Python module that is imported and every program that scripts and tests call by its name comes from a package
listed there, from one that such a package depends on, or from Debian's own base (packages that are essential or required,
and apt). What merely happens to be installed on this machine is found here, and not on a user's fresh one.

Arguments: SOURCE-DIRECTORY BUILD-DIRECTORY [PACKAGES.TXT]. What a program is given to start (nice, unshare, ip netns exec) is not
seen. Guest images are made of what deploy/guest/build says; files in deploy/guest that run inside of them are not looked at."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys

SOURCE, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
LIST = sys.argv[3] if len(sys.argv) > 3 else os.path.join(SOURCE, "deploy", "packages.txt")
IN_GUEST = ("deploy/guest/root/", "deploy/guest/initramfs/", "deploy/guest/suite/", "deploy/guest/flaws/")
# Asked for before they are called, and done without where they are not.
IF_THERE = {"systemctl", "git"}


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


# ---- packages ----

def names(text):
    """The package names of a Depends or Provides field, alternatives included."""
    return {re.match(r"[a-z0-9+.-]+", word.strip())[0] for word in re.split(r"[,|]", text) if word.strip()}


def allowed():
    installed, provided, base = {}, {}, {"apt"}
    fields = "\t".join("${%s}" % f for f in ("Package", "db:Status-Status", "Essential", "Priority", "Provides", "Depends", "Pre-Depends"))
    for line in output("dpkg-query", "-W", "-f", fields + "\n").splitlines():
        name, status, essential, priority, provides, depends, before = line.split("\t")
        if status != "installed":
            continue
        installed[name] = names(depends) | names(before)
        for virtual in names(provides):
            provided.setdefault(virtual, set()).add(name)
        if essential == "yes" or priority == "required":
            base.add(name)
    with open(LIST) as f:
        listed = {line.split()[0] for line in f if line.strip() and not line.startswith("#")}
    found, todo = set(), listed | base
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        todo |= installed.get(name, set()) | provided.get(name, set())
    return found


def owners(paths):
    """path -> packages that it belongs to. Of a path below a directory that is now a link (/bin), under either name."""
    asked = {}
    for path in paths:
        for name in {path, os.path.realpath(path)}:
            asked.setdefault(name, set()).add(path)
            if name.startswith("/usr/"):
                asked.setdefault(name[4:], set()).add(path)
    found, asked_list = {}, sorted(asked)
    for at in range(0, len(asked_list), 500):
        for line in output("dpkg-query", "-S", *asked_list[at:at + 500]).splitlines():
            if line.startswith("diversion "):
                continue
            packages, name = line.rsplit(": ", 1)
            for path in asked.get(name, ()):
                found.setdefault(path, set()).update(p.split(":")[0].strip() for p in packages.split(","))
    return found


# ---- what is used ----

def used_headers():
    found = {}
    for line in output("ninja", "-C", BUILD, "-t", "deps").splitlines():
        if line.startswith("    /"):
            path = os.path.normpath(line.strip())
            if not path.startswith(SOURCE):
                found[path] = "a header"
    return found


def used_libraries():
    """Of the libraries that programs were linked against, the files that the linker reads: they are in the -dev packages."""
    found = {}
    for line in output("ninja", "-C", BUILD, "-t", "targets", "all").splitlines():
        program = os.path.join(BUILD, line.split(":")[0])
        if os.path.isfile(program) and os.access(program, os.X_OK) and not program.endswith((".so", ".p", ".py")):
            for name in re.findall(r"=> (/\S+)", output("ldd", program)):
                found[os.path.realpath(name)] = "a library of " + line.split(":")[0]
    return found


def scripts():
    """(name, text, kind) of each script in the tree."""
    for folder, below, files in os.walk(SOURCE):
        below[:] = [d for d in below if d != ".git" and not (folder == SOURCE and d.startswith("build"))]
        for path in (os.path.join(folder, file) for file in files):
            name = os.path.relpath(path, SOURCE)
            if name.startswith(IN_GUEST) or not os.path.isfile(path):
                continue
            with open(path, errors="replace") as f:
                text = f.read(1 << 20)
            first = text.split("\n", 1)[0]
            if name.endswith(".py") or re.match(r"#!.*python", first):
                yield name, text, "python"
            elif re.match(r"#!.*\b(ba)?sh\b", first):
                yield name, text, "shell"


def python_words(text):
    """Modules imported, and the first words of lists and calls that start programs."""
    modules, words = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("run", "Popen", "check_output", "check_call", "call", "output", "sh", "ip") and node.args:
                first = node.args[0]
                if isinstance(first, (ast.List, ast.Tuple)) and first.elts:
                    first = first.elts[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    words.add(first.value)
    return modules, words


def shell_words(text):
    text = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?.*?\n\s*\1\n", "\n", text, flags=re.S)
    text = re.sub(r"(?m)(^|\s)#.*$", "", text.replace("\\\n", " "))
    text = re.sub(r"'[^']*'", "''", text)
    begin = r"(?:^|[;&|({`]|\$\(|\b(?:then|do|else|if|elif|while|until|exec|nice|command -v|env|time|step|run)\b|!)"
    return set(re.findall(begin + r"\s*(?:\w+=\S*\s+)*([A-Za-z][\w.+-]+)(?=[\s;)|&]|$)", text, flags=re.M))


def used_by_scripts():
    found = {}
    for name, text, kind in scripts():
        if kind == "python":
            modules, words = python_words(text)
        else:  # Python in a here-document as well
            modules, words = set(re.findall(r"(?m)^(?:from|import) (\w+)", text)), shell_words(text)
        for module in modules - set(sys.builtin_module_names):
            spec = importlib.util.find_spec(module) if not os.path.exists(os.path.join(SOURCE, os.path.dirname(name), module + ".py")) else None
            if spec and spec.origin and os.path.isabs(spec.origin):
                found.setdefault(spec.origin, "imported by " + name)
        for word in words - IF_THERE:
            path = shutil.which(word, path="/usr/sbin:/usr/bin:/sbin:/bin")
            if path:
                found.setdefault(path, "called by " + name)
    return found


def main():
    if not shutil.which("dpkg-query"):
        print("SKIP: no Debian")
        sys.exit(77)
    used = {"header": used_headers(), "library": used_libraries(), "script": used_by_scripts()}
    for kind, least in (("header", 100), ("library", 10), ("script", 20)):
        if len(used[kind]) < least:
            print("only %d files of kind %s were found: this test sees nothing" % (len(used[kind]), kind))
            sys.exit(1)
    every = {path: why for kind in used.values() for path, why in kind.items()}
    of, good, bad = owners(every), allowed(), []
    for path, why in sorted(every.items()):
        packages = of.get(path, set())
        if not packages:
            bad.append("%s (%s) belongs to no package" % (path, why))
        elif not packages & good:
            bad.append("%s (%s) is of %s, which deploy/packages.txt does not bring" % (path, why, " or ".join(sorted(packages))))
    print("\n".join(bad) or "%d headers, %d libraries, %d programs and modules: all of packages that are listed"
          % tuple(len(used[kind]) for kind in ("header", "library", "script")))
    sys.exit(1 if bad else 0)


main()
