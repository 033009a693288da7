"""Traffic for as long as one likes, and models loaded again and again: nothing may leak, mix or stop."""
