# SPDX-License-Identifier: Apache-2.0
# Puts what tacit-info prints into a manual page, each section where a line of it says @SECTION@: tacit-info | awk -v page=FILE -f
# modules.awk. A line in column one begins a section, an indent of two a module, an indent of four a parameter: "key=default  help
# (range)".

function escaped(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    return text
}

function put(text) {
    entries[section] = entries[section] text "\n"
}

function end_parameters() {
    if (indented) {
        put(".RE")
    }
    indented = 0
}

# What stands before the sections is not for the manual.
/^[a-z]+$/ {
    end_parameters()
    section = $0
    next
}

section == "" || /^$/ { next }

/^    / {
    setting = $1
    text = $0
    sub(/^ +[^ ]+ +/, "", text)
    range = text
    sub(/.*\(/, "", range)
    sub(/\)$/, "", range)
    sub(/ *\([^(]*\)$/, "", text)
    split(setting, part, "=")
    initial = substr(setting, length(part[1]) + 2)
    if (section != "environment" && !indented++) {
        put(".RS")
    }
    put(".TP\n.B " escaped(part[1]) "\n" escaped(text))
    if (range !~ / to /) {
        gsub(/ /, ", ", range)
    }
    if (initial != "") {
        put((range ~ / to / ? "Range: " : "One of: ") escaped(range) "; default: " escaped(initial) ".")
    }
    next
}

section != "environment" {
    end_parameters()
    name = $1
    sub(/^ +[^ ]+ +/, "")
    put(".TP\n.B " escaped(name) "\n" escaped($0))
}

END {
    end_parameters()
    while ((getline line < page) > 0) {
        if (line ~ /^@[a-z]+@$/) {
            printf "%s", entries[substr(line, 2, length(line) - 2)]
        } else {
            print line
        }
    }
}
