"""The commands, one file each. None imports torch before its arguments are known to be good."""
