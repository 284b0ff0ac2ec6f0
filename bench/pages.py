# SPDX-License-Identifier: Apache-2.0
"""What the scripts here share: runs of tacit-bench, results kept in a file, and the tables and curves of pages that are written from
them."""
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
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
FASTEST = 4e9  # bits a second that ranks on one machine reach
NOT_SLOWER = 0.97  # of what native against native reaches: what counts as no loss


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


def bytes_in(text):
    return int(text.rstrip("KMG")) * UNITS[text.lstrip("0123456789")]


def bytes_as(count, space=""):
    unit = next(unit for unit in ("G", "M", "K", "") if count % UNITS[unit] == 0 and count >= UNITS[unit])
    return f"{count // UNITS[unit]}{space}{unit}"


def size_cell(count):
    return bytes_as(count, " ") + ("iB" if count >= 1024 else "B")


def sizes_within(sizes, link, seconds):
    """The sizes that a native call over a link reduces within so many seconds: it takes about twice as long as the wire."""
    return [size for size in sizes if link == "shm" or size <= seconds * min(bits_per_second(link), FASTEST) / 8 / 2]


def bench_allreduce(build, link, ranks, *words):
    """The lines of tacit-bench allreduce by ranks in shared memory ("shm"), or on hosts of their own, on links of a rate. Nothing that
    was measured before is believed. No lines, and a word about it, where that fails: a machine may be too slow or too busy for a link."""
    if link == "shm":
        command = ["mpirun", "-n", ranks, "--oversubscribe", "--bind-to", "none"]
    else:
        command = [ROOT / "bench" / "netlab", "-n", ranks, "-r", link, "--"]
    command += [build / "tools" / "tacit-bench", "allreduce", *words, "--json"]
    environment = dict(os.environ, TACIT_CACHE="off", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    if link == "shm" and ranks > len(os.sched_getaffinity(0)):
        environment.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    run = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        print(f"{PROGRAM}: {link}, {ranks} ranks: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return [dict(line, link=link) for line in lines if line["mode"] == "allreduce"]


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
