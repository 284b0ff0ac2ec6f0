# SPDX-License-Identifier: Apache-2.0
# Functions of NAME lines and the page that each is on, but for those that have a page's own name: awk -f functions.awk PAGE...

FNR == 1 {
    page = FILENAME
    gsub(/.*\/|\.in$/, "", page)
}

/^\.SH/ {
    named = $2 == "NAME"
    next
}

named {
    sub(/ *\\-.*/, "")
    count = split($0, names, /[ ,]+/)
    for (i = 1; i <= count; i++) {
        if (names[i] != "" && names[i] ".3" != page) {
            print names[i], page
        }
    }
}
