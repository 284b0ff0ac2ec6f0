# SPDX-License-Identifier: Apache-2.0

# TACIT_COMPILER
# What every file is compiled with, beside the user's CFLAGS: TACIT_CFLAGS and TACIT_LDFLAGS; for the libraries also
# ASSERT_CPPFLAGS and LIBRARY_LDFLAGS, for fuzz tests FUZZER_LIBS.
# tacit_checks names the options in force.
AC_DEFUN([TACIT_COMPILER], [
AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [make warnings errors])])
AC_ARG_ENABLE([asserts], [AS_HELP_STRING([--enable-asserts], [check the library's own assumptions as it runs])])
AC_ARG_ENABLE([sanitizers],
              [AS_HELP_STRING([--enable-sanitizers], [address and undefined-behaviour sanitizers, and asserts])])
AC_ARG_ENABLE([fuzzing], [AS_HELP_STRING([--enable-fuzzing], [build the fuzz tests with clang's fuzzer, sanitizers on])])
AS_IF([test "$enable_fuzzing" = yes], [enable_sanitizers=yes])
AS_IF([test "$enable_sanitizers" = yes], [enable_asserts=yes])
AM_CONDITIONAL([SANITIZERS], [test "$enable_sanitizers" = yes])
AM_CONDITIONAL([FUZZING], [test "$enable_fuzzing" = yes])

# Never fused: the same bits come out of every compiler and every instruction set.
TACIT_CFLAGS="-std=gnu11 -ffp-contract=off -fvisibility=hidden"
TACIT_CFLAGS="$TACIT_CFLAGS -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla"
TACIT_LDFLAGS="-Wl,--as-needed"
TACIT_TRY_CFLAGS([$TACIT_CFLAGS], [], [AC_MSG_ERROR([$CC does not understand the flags that Tacit needs: use gcc or clang])])

# The plain loops are written to be vectorized; gcc at -O2 would leave most of them alone.
TACIT_TRY_CFLAGS([-ftree-vectorize], [TACIT_CFLAGS="$TACIT_CFLAGS -ftree-vectorize"])
TACIT_TRY_CFLAGS([-fvect-cost-model=dynamic], [TACIT_CFLAGS="$TACIT_CFLAGS -fvect-cost-model=dynamic"])
# Square roots too: nobody here reads errno after one.
TACIT_TRY_CFLAGS([-fno-math-errno], [TACIT_CFLAGS="$TACIT_CFLAGS -fno-math-errno"])

# A library names all that it needs; sanitizers leave their own to the program.
LIBRARY_LDFLAGS=-Wl,-z,defs
tacit_checks=
AS_IF([test "$enable_sanitizers" = yes], [
    sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    AS_IF([test "$enable_fuzzing" = yes], [
        sanitize="$sanitize -fsanitize=fuzzer-no-link"
        FUZZER_LIBS=-fsanitize=fuzzer
    ])
    TACIT_CFLAGS="$TACIT_CFLAGS $sanitize"
    TACIT_LDFLAGS="$TACIT_LDFLAGS $sanitize"
    TACIT_TRY_CFLAGS([$sanitize], [], [AC_MSG_ERROR([$CC cannot build with $sanitize])])
    LIBRARY_LDFLAGS=
    tacit_checks="sanitizers "
])
ASSERT_CPPFLAGS=-DNDEBUG
AS_IF([test "$enable_asserts" = yes], [
    ASSERT_CPPFLAGS=
    tacit_checks="${tacit_checks}asserts "
])
AS_IF([test "$enable_werror" = yes], [
    TACIT_CFLAGS="$TACIT_CFLAGS -Werror"
    tacit_checks="${tacit_checks}warnings-are-errors"
])
AS_IF([test -z "$tacit_checks"], [tacit_checks=none])
AC_SUBST([TACIT_CFLAGS])
AC_SUBST([TACIT_LDFLAGS])
AC_SUBST([LIBRARY_LDFLAGS])
AC_SUBST([ASSERT_CPPFLAGS])
AC_SUBST([FUZZER_LIBS])
])

# TACIT_TRY_CFLAGS(FLAGS, IF-UNDERSTOOD, IF-NOT)
AC_DEFUN([TACIT_TRY_CFLAGS], [
AC_MSG_CHECKING([whether $CC understands $1])
tacit_saved_cflags=$CFLAGS
CFLAGS="$CFLAGS $1 -Werror"
AC_LINK_IFELSE([AC_LANG_SOURCE([[int main(void) { return 0; }]])], [tacit_understood=yes], [tacit_understood=no])
CFLAGS=$tacit_saved_cflags
AC_MSG_RESULT([$tacit_understood])
AS_IF([test "$tacit_understood" = yes], [:
    $2], [:
    $3])
])
