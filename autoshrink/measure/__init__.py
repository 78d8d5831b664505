"""Latency of compiled artifacts, the statistics of scores, and the machine they were taken on."""
