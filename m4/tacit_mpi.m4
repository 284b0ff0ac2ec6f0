# SPDX-License-Identifier: Apache-2.0

# TACIT_MPI
# Finds an MPI: what $MPICC (mpicc) says of itself, or pkg-config's ompi-c or mpich. --with-mpi: it must be there; --without-mpi:
# not looked for; neither: used if found. Sets have_mpi, have_mpi4, mpi_summary, MPI_CFLAGS, MPI_LIBS, MPIRUN, and MPIFORT, with
# which tests are compiled.
AC_DEFUN([TACIT_MPI], [
AC_ARG_WITH([mpi], [AS_HELP_STRING([--with-mpi], [build libtacit_mpi (default: if an MPI is found)])], [], [with_mpi=look])
AC_ARG_VAR([MPICC], [the MPI's compiler wrapper, asked for its flags])
AC_ARG_VAR([MPIRUN], [the MPI's launcher, for the tests])
AC_ARG_VAR([MPIFORT], [the MPI's compiler wrapper for Fortran, for the tests])
have_mpi=no
have_mpi4=no
mpi_summary="no (--without-mpi)"
AS_IF([test "$with_mpi" != no], [
    AC_CHECK_PROGS([MPICC], [mpicc mpicc.openmpi mpicc.mpich])
    AC_CHECK_PROGS([MPIRUN], [mpirun mpiexec mpirun.openmpi mpirun.mpich])
    AC_CHECK_PROGS([MPIFORT], [mpifort mpifort.openmpi mpifort.mpich])
    TACIT_MPI_FLAGS
    TACIT_MPI_LINKS
    AS_IF([test "$have_mpi" = no], [
        mpi_summary="not found"
        AS_IF([test "$with_mpi" != look], [AC_MSG_ERROR([--with-mpi: no working MPI (tried mpicc, ompi-c.pc, mpich.pc)])])
    ])
])
AC_SUBST([MPI_CFLAGS])
AC_SUBST([MPI_LIBS])
])

# TACIT_MPI_FLAGS
# Open MPI's wrapper answers --showme:compile and --showme:link; MPICH's -compile_info and -link_info, with compiler and
# optimisation flags that are not ours to take.
AC_DEFUN([TACIT_MPI_FLAGS], [
AC_MSG_CHECKING([for MPI's flags])
mpi_source=
AS_IF([test -n "$MPICC"], [
    AS_IF([mpi_compile=`$MPICC --showme:compile 2>/dev/null` && mpi_link=`$MPICC --showme:link 2>/dev/null`],
          [mpi_source="$MPICC --showme"],
          [mpi_compile=`$MPICC -compile_info 2>/dev/null` && mpi_link=`$MPICC -link_info 2>/dev/null`],
          [mpi_source="$MPICC -link_info"])
])
AS_IF([test -z "$mpi_source" && test -n "$PKG_CONFIG"], [
    for mpi_module in ompi-c mpich; do
        AS_IF([test -z "$mpi_source" && $PKG_CONFIG --exists $mpi_module], [
            mpi_compile=`$PKG_CONFIG --cflags $mpi_module`
            mpi_link=`$PKG_CONFIG --libs $mpi_module`
            mpi_source="pkg-config $mpi_module"
        ])
    done
])
for mpi_flag in $mpi_compile; do
    AS_CASE([$mpi_flag], [-I*|-pthread], [MPI_CFLAGS="$MPI_CFLAGS $mpi_flag"])
done
for mpi_flag in $mpi_link; do
    AS_CASE([$mpi_flag], [-L*|-l*|-Wl,-rpath*|-pthread], [MPI_LIBS="$MPI_LIBS $mpi_flag"])
done
AC_MSG_RESULT([${mpi_source:-none found}])
])

# TACIT_MPI_LINKS
AC_DEFUN([TACIT_MPI_LINKS], [
AC_MSG_CHECKING([whether an MPI program links])
mpi_saved_cppflags=$CPPFLAGS
mpi_saved_libs=$LIBS
CPPFLAGS="$CPPFLAGS $MPI_CFLAGS"
LIBS="$MPI_LIBS $LIBS"
AC_LINK_IFELSE([AC_LANG_PROGRAM([[
#include <mpi.h>
#if MPI_VERSION < 3
#error "MPI 3.0 or later is needed"
#endif
]], [[return MPI_Init(0, 0) + MPI_Finalize();]])], [have_mpi=yes], [have_mpi=no])
# Functions with counts of 64 bits.
AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[
#include <mpi.h>
#if MPI_VERSION < 4
#error "before MPI 4.0"
#endif
]], [])], [have_mpi4=yes], [have_mpi4=no])
CPPFLAGS=$mpi_saved_cppflags
LIBS=$mpi_saved_libs
AC_MSG_RESULT([$have_mpi])
AS_IF([test "$have_mpi" = yes], [mpi_summary=$mpi_source], [MPI_CFLAGS= MPI_LIBS=])
])
