# Sourced by the scripts beside it: makes .venv with the extras that it is given ("" or "test").
# Installs only what changed: a stamp remembers the files that decide it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

python_of_rota() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Rota needs Python 3.11 or newer; install it, or set PYTHON to where it is." >&2
    return 1
}

make_venv() {
    local extras=$1 stamp state python
    stamp="$root/.venv/.rota${extras:+-$extras}"
    state=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)
    [ -x "$root/.venv/bin/rota" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && return
    echo "Installing Rota into .venv ..." >&2
    if command -v uv >/dev/null; then
        [ -x "$root/.venv/bin/python" ] || uv venv --quiet --python '>=3.11' "$root/.venv"
        uv pip install --quiet --python "$root/.venv/bin/python" \
            --constraint "$root/constraints.txt" --editable "$root${extras:+[$extras]}"
    else
        if ! [ -x "$root/.venv/bin/pip" ]; then
            python=$(python_of_rota)
            "$python" -m venv --clear "$root/.venv"
        fi
        "$root/.venv/bin/pip" install --quiet --disable-pip-version-check \
            --constraint "$root/constraints.txt" --editable "$root${extras:+[$extras]}"
    fi
    printf '%s\n' "$state" >"$stamp"
}
