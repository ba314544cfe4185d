#!/usr/bin/env bash
# Collect what zopt builds and runs with (Open MPI, Check, jansson, xxhash, OpenBLAS, pkg-config) from
# Debian packages into a folder that can be carried to a machine with neither these nor a network:
# unpack it anywhere, source its env.sh, build, run. Leaves out fabrics that one machine does not
# need. There the machine needs a C compiler, make and cmake of its own, and as new a glibc.
#
# usage: launch/pack-deps.sh DIR      (a new folder; needs apt-get and dpkg, no root)
set -euo pipefail

# shellcheck source=launch/help.sh
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
packages=(openmpi-bin openmpi-common libopenmpi3 libopenmpi-dev libhwloc15 libevent-core-2.1-7
    libevent-pthreads-2.1-7 libpmix2 libmunge2 libudev1 zlib1g check libsubunit0 libsubunit-dev
    libjansson4 libjansson-dev libxxhash0 libxxhash-dev libopenblas0-pthread libopenblas-pthread-dev
    libgfortran5 libquadmath0 pkgconf-bin libpkgconf3)
limit_mib=60

if [ $# != 1 ] || [ -e "$1" ]; then
    echo "usage: launch/pack-deps.sh DIR      (a folder that does not exist yet)" >&2
    exit 64
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "pack-deps: needs apt-get and dpkg: run it on Debian" >&2
    exit 77
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
lib="$dir/usr/lib/$triplet"

unpack() {
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}")
    local package
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$dir"
    done
    if [ -d "$dir/lib" ]; then
        cp -a "$dir/lib/." "$dir/usr/lib"
        rm -r "${dir:?}/lib"
    fi
}

# Documents, other languages, and static libraries but Check's, which has no other.
prune() {
    rm -rf "${dir:?}"/etc "$dir"/usr/share/{doc,man,info,lintian,bug,aclocal,apport} \
        "$lib"/{fortran,cmake} "$lib"/openmpi/lib/pkgconfig/*{cxx,f77,f90,fort}*
    find "$dir" -name '*.a' ! -name 'libcheck_pic.a' -delete
    find "$lib" \( -name '*java*' -o -name '*oshmem*' -o -name '*mpifh*' -o -name '*usempi*' \
        -o -name '*openshmem*' -o -name 'libmpi_cxx*' -o -name 'liblapack*' -o -name 'libblas*' \) \
        -prune -exec rm -rf {} +
    find "$dir" -xtype l -delete
    find "$dir/usr/bin" ! -type d ! -name opal_wrapper ! -name orterun ! -name orted \
        ! -name ompi_info ! -name pkgconf -delete
}

# Debian's alternatives, as links inside the folder.
link_alternatives() {
    local name
    for name in mpirun mpiexec; do
        ln -s orterun "$dir/usr/bin/$name"
    done
    ln -s opal_wrapper "$dir/usr/bin/mpicc"
    ln -s pkgconf "$dir/usr/bin/pkg-config"
    ln -sf openblas-pthread/libopenblas.so.0 "$lib/libopenblas.so.0"
    ln -sf openblas-pthread/libopenblas.so.0 "$lib/libopenblas.so"
    cp "$lib"/openblas-pthread/pkgconfig/openblas.pc "$lib/pkgconfig"
    cp --remove-destination "$lib"/openmpi/lib/pkgconfig/*.pc "$lib/pkgconfig"
}

# pkg-config's files say where they are by their own place.
make_relocatable() {
    local file up
    while read -r file; do
        up=$(dirname "${file#"$dir"/usr/}" | sed 's|[^/]*|..|g')
        # shellcheck disable=SC2016
        sed -i -e 's|^prefix=.*|prefix=/usr|' -e 's|=/usr|=${pcfiledir}/'"$up"'|' "$file"
    done < <(find "$lib" "$dir/usr/share" -name '*.pc' -type f)
}

# Open MPI's components whose libraries were left out: fabrics and resource managers.
drop_broken_components() {
    local component
    while read -r component; do
        if LD_LIBRARY_PATH="$lib:$lib/openmpi/lib" ldd "$component" 2>&1 |
            awk -v dir="$dir" '/not found/ { bad = 1 }
                /=> \// && $3 !~ "^" dir && $1 !~ /^(libc|libm|libgcc_s|libstdc\+\+|libdl|librt|libpthread|libutil|ld-linux.*)\.so/ { bad = 1 }
                END { exit !bad }'; then
            rm -f "$component"
        fi
    done < <(find "$lib/openmpi" "$lib/pmix2" -name '*mca_*.so' -type f)
}

write_env() {
    cat >"$dir/env.sh" <<EOF
# Sourced: what pack-deps.sh collected comes before what the machine has.
zopt_deps=\$(cd "\$(dirname "\${BASH_SOURCE[0]}")" && pwd)
zopt_deps_lib=\$zopt_deps/usr/lib/$triplet
EOF
    cat >>"$dir/env.sh" <<'EOF'
export PATH="$zopt_deps/usr/bin:$PATH"
export LD_LIBRARY_PATH="$zopt_deps_lib:$zopt_deps_lib/openblas-pthread${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LIBRARY_PATH="$zopt_deps_lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
export PKG_CONFIG_PATH="$zopt_deps_lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
export OPAL_PREFIX="$zopt_deps/usr" PMIX_PREFIX="$zopt_deps_lib/pmix2"
export OPAL_BINDIR="$zopt_deps/usr/bin" OPAL_LIBDIR="$zopt_deps_lib/openmpi/lib"
export OPAL_PKGLIBDIR="$zopt_deps_lib/openmpi/lib/openmpi3"
export OPAL_INCLUDEDIR="$zopt_deps_lib/openmpi/include"
export OPAL_DATADIR="$zopt_deps/usr/share" OPAL_PKGDATADIR="$zopt_deps/usr/share/openmpi"
export OPAL_SYSCONFDIR="$zopt_deps/etc/openmpi"
export PMIX_LIBDIR="$zopt_deps_lib/pmix2/lib" PMIX_PKGLIBDIR="$zopt_deps_lib/pmix2/lib/pmix"
export PMIX_DATADIR="$zopt_deps_lib/pmix2/share" PMIX_PKGDATADIR="$zopt_deps_lib/pmix2/share/pmix"
command -v ssh >/dev/null || export OMPI_MCA_plm="${OMPI_MCA_plm-isolated}"
EOF
}

unpack
prune
link_alternatives
make_relocatable
drop_broken_components
mkdir -p "$dir/etc/openmpi"
write_env
mib=$(($(du -sk "$dir" | cut -f1) / 1024))
echo "pack-deps: $dir, $mib MiB; source $dir/env.sh there"
if [ "$mib" -ge "$limit_mib" ]; then
    echo "pack-deps: more than the $limit_mib MiB that it should be" >&2
    exit 1
fi
