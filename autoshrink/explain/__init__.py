"""Why an artifact takes the time that it takes, what to change, and what the change really brings."""
