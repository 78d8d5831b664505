"""The pages of the dashboard, in the order of the navigation."""

from __future__ import annotations

from autoshrink.dashboard.app.page import Page
from autoshrink.dashboard.app.page_compare import COMPARE
from autoshrink.dashboard.app.page_devices import DEVICES
from autoshrink.dashboard.app.page_front import FRONT
from autoshrink.dashboard.app.page_search import SEARCH
from autoshrink.dashboard.app.page_studies import STUDIES
from autoshrink.dashboard.app.page_trial import TRIAL

PAGES: tuple[Page, ...] = (FRONT, TRIAL, COMPARE, SEARCH)
"""Of a study; the first is where one opens."""
OWN: tuple[Page, ...] = (STUDIES, DEVICES)
"""About no single study."""
