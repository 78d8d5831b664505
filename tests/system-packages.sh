#!/bin/sh
# Installs the Debian packages that some tests need, where that is possible; elsewhere says which tests are skipped.
#   chromium               the report is tested in a real browser, and models run in one
#   npm                    gets the runtime that runs models in a browser; the tests check what it gets by its hash
#   dataset-fashion-mnist  the embedded subset is made again from the full set and compared byte for byte
missing=""
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || missing="$missing chromium"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
[ -d /usr/share/datasets/fashion-mnist ] || [ -n "$AUTOSHRINK_FASHION_MNIST" ] || missing="$missing dataset-fashion-mnist"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing for the tests"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install --yes --no-install-recommends $missing; } >/dev/null 2>&1 && exit 0
fi
echo "not installed:$missing. The tests that need them are skipped; to run them: sudo apt-get install$missing"
