"""Files from strangers, damaged in thousands of ways."""
