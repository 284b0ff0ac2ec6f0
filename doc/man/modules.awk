# SPDX-License-Identifier: Apache-2.0
# What tacit-info prints, as sections of a manual page: awk -f modules.awk. A line in column one begins a section, an indent of
# two a module, an indent of four a parameter: "key=default  help (range)".

function escaped(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    return text
}

function end_parameters() {
    if (indented) {
        print ".RE"
    }
    indented = 0
}

# What stands before the sections is not for the manual.
/^[a-z]+$/ {
    end_parameters()
    section = $0
    if (section != "environment") {
        print ".SH " toupper(section)
    } else {
        print ".SH ENVIRONMENT\nRead when a communicator or a codec is made; TACIT_ISA and TACIT_LOG once in a process."
    }
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
        print ".RS"
    }
    print ".TP\n.B " escaped(part[1]) "\n" escaped(text)
    if (initial != "") {
        print (range ~ / to / ? "Range: " : "One of: ") escaped(range) "; default: " escaped(initial) "."
    }
    next
}

section != "environment" {
    end_parameters()
    name = $1
    sub(/^ +[^ ]+ +/, "")
    print ".TP\n.B " escaped(name) "\n" escaped($0)
}
