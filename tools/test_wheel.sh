#!/bin/sh
# test_wheel.sh VENV WHEEL: install the wheel beside $TORCH into the virtual environment VENV and run the tests there.
set -eu
venv=$1
wheel=$2
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q --upgrade "$TORCH"
"$venv/bin/pip" install -q "$wheel[test]"
"$venv/bin/pip" install -q --force-reinstall --no-deps "$wheel"
"$venv/bin/python" -c 'import torch; print("testing", "'"$wheel"'", "under torch", torch.__version__, flush=True)'
"$venv/bin/pytest" -q -n "${JOBS:-2}" --ignore-glob="tests/test_simt_*"
