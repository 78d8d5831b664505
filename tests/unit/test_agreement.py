"""Agreement in decibel: known answers."""

import math

import numpy as np
import pytest

from autoshrink.agreement import bounded_db, sqnr_db


def test_a_thousandth_of_the_amplitude_is_60_db():
    reference = np.array([[1.0, -2.0], [3.0, 0.5]])
    assert sqnr_db(reference, reference * 1.001) == pytest.approx(60)
    assert sqnr_db(reference, reference * 0.9) == pytest.approx(20)


def test_ten_decibel_are_a_factor_of_ten_in_power():
    assert sqnr_db(np.array([10.0, 0.0]), np.array([10.0, 1.0])) == pytest.approx(20)
    assert sqnr_db(np.array([1.0, 1.0]), np.array([0.0, 0.0])) == pytest.approx(0)


def test_equal_arrays_agree_without_end():
    reference = np.array([1, -2, 3], np.float32)
    assert sqnr_db(reference, reference.copy()) == math.inf
    assert sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert sqnr_db(np.array([2, 3]), np.array([2, 3])) == math.inf


def test_noise_without_a_signal_is_minus_infinity():
    assert sqnr_db(np.zeros(2), np.array([0.0, 1e-9])) == -math.inf


def test_it_is_not_symmetric_in_its_arguments():
    assert sqnr_db(np.array([2.0]), np.array([1.0])) == pytest.approx(20 * math.log10(2))
    assert sqnr_db(np.array([1.0]), np.array([2.0])) == pytest.approx(0)


def test_integers_do_not_overflow():
    assert sqnr_db(np.array([200], np.uint8), np.array([220], np.uint8)) == pytest.approx(20)


def test_common_infinities_are_left_out_and_others_are_no_agreement():
    masked = np.array([-math.inf, 1.0, 2.0])
    assert sqnr_db(masked, np.array([-math.inf, 1.001, 2.002])) == pytest.approx(60)
    assert sqnr_db(masked, np.array([-1e9, 1.0, 2.0])) == -math.inf
    assert sqnr_db(np.array([1.0, 2.0]), np.array([1.0, math.nan])) == -math.inf


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and \(1, 2\)"):
        sqnr_db(np.zeros(2), np.zeros((1, 2)))


def test_what_json_cannot_hold_is_bounded():
    assert [bounded_db(value) for value in (math.inf, -math.inf, 31.4159)] == [200.0, -200.0, 31.42]
