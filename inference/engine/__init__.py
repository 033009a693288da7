"""What all backends share: one thread that advances sequences step by step and delivers their text."""
