"""What makes two steps the same: canonical values, digests of data and of code, and the fingerprint of all."""
