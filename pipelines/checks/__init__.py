"""What can be known before anything expensive starts: data, words, memory, disks."""
