"""From a front to the device: choose a trial, write its package, verify the package on a machine."""

from autoshrink.package.checks import Check, Tolerance
from autoshrink.package.choose import choose
from autoshrink.package.verify import Verification, verify
from autoshrink.package.write import write_package

__all__ = ["Check", "Tolerance", "Verification", "choose", "verify", "write_package"]
