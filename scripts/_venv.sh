# Sourced by the scripts beside it: changes to the checkout, and defines install() for virtual environments.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Tests start hundreds of programs, and each would compile all that it imports.
unset PYTHONDONTWRITEBYTECODE

# Many tests wait for processes, locks and servers.
workers=$((2 * $(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)))

# Where a virtual environment has its programs; on Windows this runs in the bash of git.
case $(uname -s) in MINGW* | MSYS*) bin=Scripts ;; *) bin=bin ;; esac

# Print the first Python of at least 3.11.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed, and none was found. Install one, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

# install VENV NAME: create the environment if it is missing, and install the package, editable, with the exact versions of
# requirements/NAME.txt, unless the same was installed before.
install() {
    local venv=$1 requirements="requirements/$2.txt" python stamp
    stamp="$venv/.installed-$2-$(cat "$requirements" pyproject.toml | cksum | cut -d' ' -f1)"
    [ -e "$stamp" ] && return
    echo "Preparing $venv (once) …" >&2
    if [ ! -x "$venv/$bin/python" ]; then
        python=$(find_python) || return 1
        "$python" -m venv "$venv" || return 1
    fi
    "$venv/$bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements" &&
        "$venv/$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . &&
        touch "$stamp"
}

# Keep the files of tests in memory, where a sync takes next to no time; on a disk it takes milliseconds.
test_in_memory() {
    if [ "$(uname -s)" = Linux ] && [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && [ "$(df -k --output=avail /dev/shm | tail -1)" -gt 500000 ]; then
        export TMPDIR=/dev/shm
    fi
}
