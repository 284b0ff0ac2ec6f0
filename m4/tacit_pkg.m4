# SPDX-License-Identifier: Apache-2.0

# TACIT_PKG(OPTION, PREFIX, MODULE, PURPOSE)
# A library that pkg-config knows. --with-OPTION: it must be there; --without-OPTION: not looked for; neither: used if found.
# Sets have_OPTION (yes, no), OPTION_summary, PREFIX_CFLAGS and PREFIX_LIBS.
AC_DEFUN([TACIT_PKG], [
AC_ARG_WITH([$1], [AS_HELP_STRING([--with-$1], [$4 (default: if found)])], [], [with_$1=look])
have_$1=no
$1_summary="no (--without-$1)"
AS_IF([test "$with_$1" != no], [
    PKG_CHECK_MODULES([$2], [$3], [
        have_$1=yes
        $1_summary=`$PKG_CONFIG --modversion "$3"`
    ], [
        $1_summary="not found"
        AS_IF([test "$with_$1" != look], [AC_MSG_ERROR([--with-$1: pkg-config does not find $3])])
    ])
])
AS_IF([test "$have_$1" = yes], [AC_DEFINE([HAVE_$2], [1], [Define to 1 if $1 is there.])])
])
