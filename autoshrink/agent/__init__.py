"""The agent: runs and measures artifacts on the device it is started on, for searches on other machines."""
