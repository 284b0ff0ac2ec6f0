# SPDX-License-Identifier: Apache-2.0
"""What the scripts here share: results kept in a file, and the tables and curves of pages that are written from them."""
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.argv[0]).name
END = "<!-- Up to here. -->"


def line_of(run):
    return json.dumps(run, separators=(",", ":")) + "\n"


class Results:
    """The finished runs, by command. A last line that was cut short is left out, and gone after the next add()."""

    def __init__(self, path):
        self.path = Path(path)
        self.runs = {}
        text = self.path.read_text() if self.path.exists() else ""
        self.cut = not text.endswith("\n") and text != ""
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                run = json.loads(line)
            except json.JSONDecodeError as error:
                if not self.cut or number < len(lines):
                    sys.exit(f"{PROGRAM}: {path}, line {number} is not JSON: {error}")
                print(f"{PROGRAM}: {path}, line {number}, the last, was cut short; its run counts as not made", file=sys.stderr)
            else:
                self.runs[run["command"]] = run

    def write(self):
        whole = self.path.with_name(self.path.name + ".new")
        whole.write_text("".join(map(line_of, self.runs.values())))
        os.replace(whole, self.path)
        self.cut = False

    def add(self, run):
        known = run["command"] in self.runs
        self.runs[run["command"]] = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.cut or known:
            self.write()
            return
        with open(self.path, "a") as file:
            file.write(line_of(run))

    def keep(self, wanted):
        """Forgets the runs for which wanted(run) is false."""
        self.runs = {command: run for command, run in self.runs.items() if wanted(run)}
        self.write()


def bits_per_second(rate):
    """Of a rate such as 100mbit."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([kmg])bit", rate)
    if not match:
        raise ValueError(f"a rate is a whole number and kbit, mbit or gbit, as in 100mbit, not '{rate}'")
    return int(match[1]) * {"k": 10**3, "m": 10**6, "g": 10**9}[match[2]]


def show(number, digits=4):
    return "-" if number is None else f"{number:.{digits}g}" if math.isfinite(number) else "diverged"


def table(head, lines, words=1):
    """The first so many columns are words, the others numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|---" * words + "|--:" * (len(head) - words) + "|"
    for line in lines:
        yield "| " + " | ".join(line) + " |"


def begin_of(what):
    """The line before the part of a page that is written by a command."""
    return f"<!-- What follows is written by {what}. -->"


def part_of(what, lines):
    return "\n".join([begin_of(what), ""] + list(lines) + [END])


def with_part(document, what, part):
    """The document with the part that is written by a command replaced."""
    before, rest = document.split(begin_of(what))
    return before + part + rest.split(END, 1)[1]


def draw_curves(path, curves, xlabel, ylabel, settings=()):
    """An SVG of named curves, lists of (x, y), over two logarithmic axes. Returns whether it could be made: gnuplot draws it."""
    if not curves or not shutil.which("gnuplot"):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    script = ["set terminal svg size 720,420 noenhanced font 'sans,12' background '#ffffff'", f"set output '{path}'",
              "set grid; set key outside right; set logscale xy", "set format xy '%g'", f"set xlabel '{xlabel}'",
              f"set ylabel '{ylabel}'", *settings]
    for number, (_, points) in enumerate(curves):
        script += [f"$data{number} << EOD"] + [f"{x:.6g} {y:.6g}" for x, y in points] + ["EOD"]
    script.append("plot " + ", ".join(f"$data{number} with lines linewidth 2 title '{name}'"
                                      for number, (name, _) in enumerate(curves)))
    subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, check=True)
    return True
