# SPDX-License-Identifier: Apache-2.0

# TACIT_MPI
# Finds an MPI: what $MPICC (mpicc) says of itself, or pkg-config's ompi-c or mpich. --with-mpi: it must be there; --without-mpi:
# not looked for; neither: used if found. Sets have_mpi, mpi_name, mpi_summary, MPI_CFLAGS, MPI_LIBS, MPIRUN, and MPIFORT, with
# which tests are compiled.
AC_DEFUN([TACIT_MPI], [
AC_ARG_WITH([mpi], [AS_HELP_STRING([--with-mpi], [build libtacit_mpi (default: if an MPI is found)])], [], [with_mpi=look])
AC_ARG_VAR([MPICC], [the MPI's compiler wrapper, asked for its flags])
AC_ARG_VAR([MPIRUN], [the MPI's launcher, for the tests])
AC_ARG_VAR([MPIFORT], [the MPI's compiler wrapper for Fortran, for the tests])
have_mpi=no
mpi_name=
mpi_summary="no (--without-mpi)"
AS_IF([test "$with_mpi" != no], [
    AC_CHECK_PROGS([MPICC], [mpicc mpicc.openmpi mpicc.mpich])
    AC_CHECK_PROGS([MPIRUN], [TACIT_MPI_BESIDE([$MPICC], [mpirun]) mpirun mpiexec mpirun.openmpi mpirun.mpich])
    AC_CHECK_PROGS([MPIFORT], [TACIT_MPI_BESIDE([$MPICC], [mpifort]) mpifort mpifort.openmpi mpifort.mpich])
    TACIT_MPI_FLAGS([MPI], [ompi-c mpich])
    TACIT_MPI_LINKS([MPI], [MPI_VERSION >= 3], [have_mpi=yes mpi_name=MPICH])
    TACIT_MPI_LINKS([MPI], [defined OPEN_MPI], [mpi_name="Open MPI"])
    AS_IF([test "$have_mpi" = yes], [mpi_summary=$mpi_source], [test "$with_mpi" != look],
          [AC_MSG_ERROR([--with-mpi: no working MPI (tried mpicc, ompi-c.pc, mpich.pc)])],
          [mpi_summary="not found" MPI_CFLAGS= MPI_LIBS=])
])
AC_SUBST([MPI_CFLAGS])
AC_SUBST([MPI_LIBS])
])

# TACIT_MPICH
# Finds a second MPI, whose programs tacit-run serves as well: MPICH, or one with its ABI. --with-mpich=COMPILER is its compiler
# wrapper (mpicc.mpich). Sets have_mpich, mpich_summary, MPICH_CFLAGS; MPICH_LIBS, MPICHRUN, MPICHFORT for the tests; and
# TACIT_RUN_MPIS, the names of all that are served.
AC_DEFUN([TACIT_MPICH], [
AC_ARG_WITH([mpich],
            [AS_HELP_STRING([--with-mpich@<:@=COMPILER@:>@],
                            [let tacit-run serve programs of MPICH beside the MPI's (default: if mpicc.mpich is found)])],
            [], [with_mpich=look])
have_mpich=no
AS_CASE([$with_mpich], [yes|look], [MPICHCC=mpicc.mpich], [MPICHCC=$with_mpich])
AS_IF([test "$with_mpich" = no], [mpich_summary="no (--without-mpich)"],
      [test "$have_mpi" = no && test "$with_mpich" != look], [AC_MSG_ERROR([--with-mpich: it needs another MPI beside it])],
      [test "$have_mpi" = no], [mpich_summary="no (without another MPI)"],
      [test "$mpi_name" = MPICH], [mpich_summary="it is the MPI"], [
    TACIT_MPI_FLAGS([MPICH])
    TACIT_MPI_LINKS([MPICH], [MPI_VERSION >= 3 && !defined OPEN_MPI], [have_mpich=yes])
    AS_IF([test "$have_mpich" = yes], [
        mpich_summary=$mpi_source
        MPICHRUN=TACIT_MPI_BESIDE([$MPICHCC], [mpirun])
        MPICHFORT=TACIT_MPI_BESIDE([$MPICHCC], [mpifort])
    ], [test "$with_mpich" != look],
          [AC_MSG_ERROR([--with-mpich: $MPICHCC is not the compiler of a working MPICH, or of one with its ABI])],
          [mpich_summary="not found"])
])
AS_IF([test "$enable_shared" != yes], [TACIT_RUN_MPIS=], [test "$have_mpich" = yes], [TACIT_RUN_MPIS="$mpi_name and MPICH"],
      [TACIT_RUN_MPIS=$mpi_name])
AC_SUBST([TACIT_RUN_MPIS])
AC_SUBST([MPICH_CFLAGS])
AC_SUBST([MPICH_LIBS])
AC_SUBST([MPICHRUN])
AC_SUBST([MPICHFORT])
])

# TACIT_MPI_BESIDE(COMPILER, NAME): what is called as the compiler, with NAME for mpicc.
AC_DEFUN([TACIT_MPI_BESIDE], [`AS_ECHO(["$1"]) | $SED 's|mpi[[^/]]*cc\([[^/]]*\)$|$2\1|'`])

# TACIT_MPI_FLAGS(PREFIX, PKG-CONFIG-MODULES)
# Sets PREFIX_CFLAGS, PREFIX_LIBS and mpi_source. Open MPI's wrapper, $PREFIXCC, answers --showme:compile and --showme:link;
# MPICH's -compile_info and -link_info, with compiler and optimisation flags that are not ours to take.
AC_DEFUN([TACIT_MPI_FLAGS], [
AC_MSG_CHECKING([for flags of $1])
mpi_source=
AS_IF([test -n "$[]$1CC"], [
    AS_IF([mpi_compile=`$[]$1CC --showme:compile 2>/dev/null` && mpi_link=`$[]$1CC --showme:link 2>/dev/null`],
          [mpi_source="$[]$1CC --showme"],
          [mpi_compile=`$[]$1CC -compile_info 2>/dev/null` && mpi_link=`$[]$1CC -link_info 2>/dev/null`],
          [mpi_source="$[]$1CC -link_info"])
])
AS_IF([test -z "$mpi_source" && test -n "$PKG_CONFIG"], [
    for mpi_module in $2; do
        AS_IF([test -z "$mpi_source" && $PKG_CONFIG --exists $mpi_module], [
            mpi_compile=`$PKG_CONFIG --cflags $mpi_module`
            mpi_link=`$PKG_CONFIG --libs $mpi_module`
            mpi_source="pkg-config $mpi_module"
        ])
    done
])
for mpi_flag in $mpi_compile; do
    AS_CASE([$mpi_flag], [-I*|-pthread], [$1_CFLAGS="$[]$1_CFLAGS $mpi_flag"])
done
for mpi_flag in $mpi_link; do
    AS_CASE([$mpi_flag], [-L*|-l*|-Wl,-rpath*|-pthread], [$1_LIBS="$[]$1_LIBS $mpi_flag"])
done
AC_MSG_RESULT([${mpi_source:-none found}])
])

# TACIT_MPI_LINKS(PREFIX, CONDITION, ACTION): the action if a program links, and mpi.h fulfils the condition.
AC_DEFUN([TACIT_MPI_LINKS], [
AC_MSG_CHECKING([whether a program of $1 links, with $2])
mpi_saved_cppflags=$CPPFLAGS
mpi_saved_libs=$LIBS
mpi_links=no
CPPFLAGS="$CPPFLAGS $[]$1_CFLAGS"
LIBS="$[]$1_LIBS $LIBS"
AC_LINK_IFELSE([AC_LANG_PROGRAM([[
#include <mpi.h>
#if !($2)
#error "another one"
#endif
]], [[return MPI_Init(0, 0) + MPI_Finalize();]])], [mpi_links=yes
    $3])
CPPFLAGS=$mpi_saved_cppflags
LIBS=$mpi_saved_libs
AC_MSG_RESULT([$mpi_links])
])
