"""What a page says of its device, and its link as a QR code: known answers, and nothing that a terminal obeys."""

from __future__ import annotations

import pytest

from autoshrink.devices.page_facts import LONGEST, browser_of, identity_of, tick_ms
from autoshrink.devices.qr import AS_BEFORE, WHITE_ON_BLACK, in_half_blocks, qr_lines

PIXEL = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36"
)


class TestFacts:
    @pytest.mark.parametrize(
        ("agent", "browser"),
        [
            (PIXEL, "Chrome 140.0.0.0"),
            ("Mozilla/5.0 (Android 15; Mobile; rv:143.0) Gecko/143.0 Firefox/143.0", "Firefox 143.0"),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
                "Version/18.6 Mobile/15E148 Safari/604.1",
                "Safari 18.6",
            ),
            (PIXEL.replace("Chrome/", "SamsungBrowser/28.0 Chrome/"), "Samsung Internet 28.0"),
            (PIXEL + " EdgA/140.0.1", "Edge 140.0.1"),
            ("", "an unknown browser"),
        ],
    )
    def test_browsers_by_their_name(self, agent: str, browser: str) -> None:
        assert browser_of(agent) == browser

    def test_what_a_page_may_not_say_is_not_shown(self) -> None:
        facts = {"graphics": "\x1b[31mred\n" + "x" * 999, "cores": "8", "agent": {"model": 3, "architecture": "arm"}}
        found = identity_of(facts, "\x07" + PIXEL, "onnxruntime-web 1")
        assert all(text.isprintable() and len(text) <= LONGEST for text in found.values())
        assert {key: found[key] for key in found if key != "graphics"} == {
            "architecture": "arm",
            "system": "Android",
            "runtime": "onnxruntime-web 1",
            "browser": "Chrome 140.0.0.0",
            "device": "Linux; Android 10; K",
        }
        assert identity_of({"agent": {"model": "Pixel 7"}, "cores": 8}, PIXEL, "x")["device"] == "Pixel 7"
        assert [tick_ms({"tick": tick}) for tick in (0.1, "1", -1, None, float("nan"))] == [0.1, 0, 0, 0, 0]


class TestQr:
    def test_half_blocks_show_two_rows_each(self) -> None:
        dark = [[True, False, True, False], [True, True, False, False], [False, True, False, True]]
        assert in_half_blocks(dark) == [" ▀▄█", "█▄█▄"]

    def test_the_lines_are_the_code(self) -> None:
        segno = pytest.importorskip("segno")
        url = "http://192.168.1.20:8766/abcdefghijklmnopqrstuv/"
        rows: list[list[bool]] = []
        halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
        for line in qr_lines(url):
            plain = line.removeprefix(WHITE_ON_BLACK).removesuffix(AS_BEFORE)
            assert len(plain) < len(line)
            rows += [[bool(halves[char][half]) for char in plain] for half in (0, 1)]
        expected = [
            [bool(module) for module in row]
            for row in segno.make_qr(url, error="l", boost_error=False).matrix_iter(border=2)
        ]
        assert rows[: len(expected)] == expected
