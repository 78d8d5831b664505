#!/bin/sh
# Installs what some tests need beside Python packages, where that is possible; elsewhere says which tests are skipped.
#   chromium               the report is tested in a real browser, and models run in one
#   npm                    gets the runtime that runs models in a browser; the tests check what it gets by its hash
#   dataset-fashion-mnist  the embedded subset is made again from the full set and compared byte for byte
#   adb                    Android devices are reached by it; the tests have a fake one
#   iproute2 iptables      two hosts with a bad link between them, in network namespaces (as root)
#   openssh-server         a search over a real ssh; installed in CI only, since it starts a server where there is an init
# They are Debian packages; where those cannot be had, Playwright downloads a Chromium of its own.
has() {
    case $1 in
    chromium)
        command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
            command -v google-chrome >/dev/null 2>&1 ||
            ls "${PLAYWRIGHT_BROWSERS_PATH:-$HOME/.cache/ms-playwright}"/chromium-*/chrome-linux*/chrome >/dev/null 2>&1
        ;;
    npm) command -v npm >/dev/null 2>&1 ;;
    adb) command -v adb >/dev/null 2>&1 ;;
    iproute2) command -v tc >/dev/null 2>&1 ;;
    iptables) command -v iptables >/dev/null 2>&1 ;;
    openssh-server) [ -x /usr/sbin/sshd ] && command -v ssh >/dev/null 2>&1 ;;
    dataset-fashion-mnist) [ -d /usr/share/datasets/fashion-mnist ] || [ -n "$AUTOSHRINK_FASHION_MNIST" ] ;;
    esac
}

missing() {
    for package in chromium npm dataset-fashion-mnist adb iproute2 iptables ${CI:+openssh-server}; do
        has "$package" || printf ' %s' "$package"
    done
}

[ -n "$(missing)" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$(missing) for the tests"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update >/dev/null 2>&1
    # One by one: one that cannot be had must not keep the others away.
    for package in $(missing); do
        apt-get install --yes --no-install-recommends "$package" >/dev/null 2>&1
    done
fi
if ! has chromium && [ -x .venv/bin/python ]; then
    echo "downloading Playwright's Chromium for the tests"
    .venv/bin/python -m playwright install chromium >/dev/null 2>&1
fi
[ -z "$(missing)" ] ||
    echo "not installed:$(missing). The tests that need them are skipped; to run them: sudo apt-get install$(missing)"
