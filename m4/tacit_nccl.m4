# SPDX-License-Identifier: Apache-2.0

# TACIT_NCCL
# Nothing of NCCL is needed to build: it is loaded where a program asks for it. --without-nccl: it is not. Sets nccl_summary.
AC_DEFUN([TACIT_NCCL], [
AC_ARG_WITH([nccl], [AS_HELP_STRING([--without-nccl], [never load NCCL (default: when a program needs it)])], [], [with_nccl=yes])
AS_IF([test "$with_nccl" != no], [
    nccl_summary="loaded when it is needed"
    AC_DEFINE([HAVE_NCCL], [1], [Define to 1 if NCCL may be loaded.])
], [nccl_summary="no (--without-nccl)"])
])
